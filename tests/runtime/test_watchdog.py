"""Alarms ring once, when they are due, and never after they were called off."""

import logging
from math import inf
from queue import SimpleQueue
from threading import Event
from time import monotonic

import pytest
from stretto.runtime.watchdog import Guard, Guards, Lags, Watchdog

SOON_S = 30  # by then every alarm that is due has rung, however slow the machine


@pytest.fixture
def watchdog():
    watchdog = Watchdog("a watchdog")
    yield watchdog
    assert watchdog.close()


def test_every_alarm_rings_and_none_before_its_moment(watchdog):
    rang, now = SimpleQueue(), monotonic()
    for delay in (0.06, 0.02, 0.04, -1.0):
        watchdog.at(now + delay, lambda delay=delay: rang.put((delay, monotonic() >= now + delay)))
    assert sorted(rang.get(timeout=SOON_S) for _ in range(4)) == [(delay, True) for delay in (-1.0, 0.02, 0.04, 0.06)]


def test_sooner_alarm_does_not_wait_for_a_later_one(watchdog):
    rang = Event()
    watchdog.at(monotonic() + 3600, lambda: None)
    watchdog.at(monotonic() + 0.01, rang.set)
    assert rang.wait(SOON_S)


def test_alarm_that_was_called_off_does_not_ring(watchdog):
    rang = SimpleQueue()
    watchdog.at(monotonic() + 0.02, lambda: rang.put("off")).call_off()
    watchdog.at(monotonic() + 0.03, lambda: rang.put("on"))
    assert rang.get(timeout=SOON_S) == "on"


def test_alarm_rings_again_when_it_says_so(watchdog):
    rang, moments = SimpleQueue(), iter([0.0, monotonic() + 0.01, None])
    watchdog.at(0.0, lambda: (moment := next(moments), rang.put(moment))[0])
    assert [rang.get(timeout=SOON_S) is None for _ in range(3)] == [False, False, True]


def test_alarm_that_fails_is_logged_and_the_others_ring(watchdog, caplog):
    rang = Event()
    with caplog.at_level(logging.ERROR):
        watchdog.at(0.0, lambda: 1 / 0)
        watchdog.at(0.1, rang.set)
        assert rang.wait(SOON_S)
    assert "a watchdog: an alarm failed" in caplog.text


def test_many_alarms_that_were_called_off_are_forgotten(watchdog):
    for _ in range(2000):
        watchdog.at(monotonic() + 3600, lambda: None).call_off()
    assert len(watchdog._alarms) <= 257


def test_closed_watchdog_rings_no_more():
    watchdog, rang = Watchdog(), Event()
    watchdog.at(monotonic() + 3600, rang.set)
    assert watchdog.close()
    watchdog.at(0.0, rang.set)
    assert not rang.is_set()


class Set:
    """Stands in for a watchdog: rings when the test says so."""

    def at(self, moment_s, ring):
        self.moment_s, self.ring = moment_s, ring
        return self

    def call_off(self):
        self.ring = None


@pytest.fixture
def guarded():
    """A guard with a deadline at 10 s, steps that go on for 2 ms after they were cut off, and a clock."""
    clock, watchdog = [9.0], Set()
    return Guard(watchdog, Lags(), 10.0, lambda: clock[0]), watchdog, clock


@pytest.mark.parametrize(
    "end_s, off_s",
    [
        (9.5, 9.998),  # it should have ended long ago: early enough to answer in time
        (9.999, 9.999),  # it may well end in time: given until it should have ended
        (11.0, 10.0),  # never longer than the deadline
        (inf, 10.0),
    ],
)
def test_step_is_cut_off_once_it_should_have_ended_and_an_answer_in_time_is_at_stake(guarded, end_s, off_s):
    guard, watchdog, clock = guarded
    guard.expect(9.0, end_s)
    assert watchdog.moment_s == 9.998
    clock[0] = off_s - 1e-6
    again_s = watchdog.ring()
    assert again_s == pytest.approx(off_s)
    assert not guard.cut.asked
    clock[0] = off_s
    assert watchdog.ring() is None
    assert guard.cut.asked


def test_next_step_is_given_its_own_time(guarded):
    guard, watchdog, clock = guarded
    guard.expect(9.0, 9.5)
    guard.expect(9.6, 9.9995)
    clock[0] = 9.999
    assert watchdog.ring() == 9.9995


def test_expected_lag_follows_what_steps_took_to_end(guarded):
    lags = Lags()
    assert lags.lead_s == 0.002
    for lag_ms in [1, 1, 1, 1, 1, 1, 1, 5, 5]:
        lags.add(lag_ms / 1e3)
    assert lags.lead_s == 0.005
    for _ in range(40):
        lags.add(0.001)
    assert lags.lead_s == 0.001


def test_only_steps_that_were_running_tell_of_the_lag(guarded):
    guard, watchdog, clock = guarded
    guard.expect(9.0, 9.5)
    clock[0] = 9.998
    watchdog.ring()
    guard.was_cut(10.008)
    assert guard._lags.lead_s == pytest.approx(0.010)
    guard.expect(9.9985, 9.9985)  # begun after the alarm: ended at once
    guard.was_cut(9.9986)
    assert guard._lags.lead_s == pytest.approx(0.010)


@pytest.mark.parametrize(
    "ends_ms, has_answer, helps",
    [
        ([1.0, 2.5, 4.0], False, False),  # every part is over before it could be ended
        ([1.0, 2.5, 5.0], False, True),
        ([5.0, 6.0], False, False),  # the first part isn't cut off
        ([5.0, 6.0], True, True),
        ([5.0], False, False),
    ],
)
def test_guard_helps_where_a_part_takes_longer_than_to_end_it(ends_ms, has_answer, helps):
    assert Guards.help(ends_ms, has_answer) is helps
