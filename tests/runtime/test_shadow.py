"""Some answers by certified thresholds are compared with the full network's, when the machine is idle."""

import logging
import os
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from stretto.policies.deadline import Deadline
from stretto.policies.exits import ExitRule
from stretto.policies.fixed import Fixed
from stretto.policies.load import Load
from stretto.policies.situation import OperatingPoint, Step, Stop
from stretto.runtime import shadow as shadow_module
from stretto.runtime.certified import certified_rule
from stretto.runtime.errors import ClosedError
from stretto.runtime.session import Session
from stretto.runtime.shadow import is_idle

from .fakes import set_profile
from .shadowed import BUSY, DEPTHS, FULL, IDLE, Told, certified, certified_bundle, pixels, seen, written
from .toy import toy_bundle

SOON_S = 30
FULL_WAY = [Step(0, 1, 1.0), Step(2, 2, 1.0), Step(3, 3, 1.0)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return certified_bundle(tmp_path_factory.mktemp("shadow"))


@pytest.fixture(scope="module")
def rule(bundle):
    return certified_rule(bundle.manifest.certified)


@pytest.fixture
def opened(bundle, rule):
    """Opens sessions that go to the full network by the certified rule, with sensors that see nobody else."""
    sessions = []

    def opened(policy=None, share=1.0, load=IDLE, of=bundle):
        session = Session(
            of, Told(), policy or Fixed(FULL, rule), set_profile(of), sensors=SimpleNamespace(now=load), shadow=share
        )
        session._runner.engine.runs.clear()
        sessions.append(session)
        return session

    yield opened
    for session in sessions:
        session.close()


@pytest.fixture
def by_hand(opened):
    """The same, whose shadow has no thread: what it was told waits for `catch_up`."""

    def by_hand(*args, **options):
        session = opened(*args, **options)
        session._shadow._wake = lambda: None
        return session

    return by_hand


def compared(session):
    return session.stats[4:6]


def steps(session):
    return [step for step, _ in session._runner.engine.runs]


def until(holds):
    deadline = time.monotonic() + SOON_S
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.001)
    return holds()


def places(session, samples):
    """The numbers of the samples, from 0, that are to be compared."""
    waiting, found = [], []
    session._shadow._waiting = waiting
    for number in range(samples):
        session._shadow.told(pixels()[None], (seen(FULL._replace(depth=1)),), Stop.CONFIDENCE)
        if len(waiting) > len(found):
            found.append(number)
    return found


def test_one_of_each_hundred_is_compared_at_places_that_differ_and_are_the_same_the_next_time(by_hand):
    found = places(by_hand(share=0.01), 2000)
    assert [place // 100 for place in found] == list(range(20))
    assert len({place % 100 for place in found}) > 10
    assert places(by_hand(share=0.01), 2000) == found


@pytest.mark.parametrize("share, every", [(1.0, 1), (0.5, 2)])
def test_larger_shares_are_kept_too(by_hand, share, every):
    assert len(places(by_hand(share=share), 500)) == 500 / every


def test_early_answer_is_compared_with_the_full_network_s_on_a_copy_of_its_input(by_hand):
    session, x = by_hand(), pixels(early=2, full=3)
    session.infer(x)
    x[:] = 0
    assert steps(session) == FULL_WAY[:1]
    session._shadow.catch_up()
    assert steps(session) == FULL_WAY[:1] + FULL_WAY
    assert compared(session) == (1, 0)
    session.infer(pixels(early=2, full=2))
    session._shadow.catch_up()
    assert compared(session) == (2, 1)


@pytest.mark.parametrize(
    "ask",
    [
        lambda session, x: session.infer(x),
        lambda session, x: session.infer(x[None]),
        lambda session, x: list(session.refine(x)),
        lambda session, x: session.submit(x).result(SOON_S),
    ],
    ids=["infer", "batch", "refine", "submit"],
)
def test_however_an_answer_was_asked_for_it_may_be_compared(by_hand, ask):
    session = by_hand()
    ask(session, pixels(early=2, full=3))
    assert until(lambda: session._shadow._waiting)  # a ticket is done before its run is
    session._shadow.catch_up()
    assert compared(session) == (1, 0)


def test_each_sample_of_a_batch_is_compared_by_itself(by_hand):
    session = by_hand()
    batch = [pixels(1, 1), pixels(2, 3), pixels(2, 2, sure=False)]
    assert [answer.exits for answer in session.infer(np.stack(batch))] == [(1,), (1,), (1, 2, 3)]
    session._shadow.catch_up()
    assert compared(session) == (3, 2)


def test_full_network_s_own_answer_agrees_without_being_computed_again(by_hand):
    session = by_hand()
    assert session.infer(pixels(1, 2, sure=False)).stopped_by is Stop.FINAL
    session._shadow.catch_up()
    assert steps(session) == FULL_WAY
    assert compared(session) == (1, 1)


def test_final_exit_of_a_narrower_width_is_compared(by_hand, rule):
    session = by_hand(Fixed(OperatingPoint(0.5, DEPTHS), rule))
    session.infer(pixels(1, 2, sure=False))
    session._shadow.catch_up()
    assert steps(session)[DEPTHS:] == FULL_WAY
    assert compared(session) == (1, 0)


@pytest.mark.parametrize("stop", [Stop.DEADLINE, Stop.TARGET, Stop.ENERGY, None])
def test_what_something_else_than_the_rule_ended_is_not_compared(by_hand, stop):
    session = by_hand()
    session._shadow.told(pixels()[None], (seen(FULL._replace(depth=1)),), stop)
    session._shadow.told(pixels()[None], (), stop)
    session._shadow.catch_up()
    assert (steps(session), compared(session)) == ([], (0, 0))


def test_requests_cut_off_by_deadlines_are_no_drift(by_hand):
    """All that the rule ended alone are early ones, as the others never got to the end."""
    session, early = by_hand(), np.random.default_rng(0).random(3000) < 0.7
    for number, one in enumerate(early.tolist()):
        session._shadow.told(pixels()[None], (seen(FULL._replace(depth=1)),), Stop.CONFIDENCE if one else Stop.DEADLINE)
        if number % 50 == 0:
            session._shadow.catch_up()
    assert session.stats.drift is None


@pytest.mark.parametrize(
    "load, idle",
    [
        (Load(), True),
        (IDLE, True),
        (IDLE._replace(others=1.0), False),
        (Load(others=2.0, machine_cores=8.0), True),
        (Load(others=3.0, machine_cores=8.0), False),
        (IDLE._replace(throttled=0.1), False),
        (Load(busy=0.1), True),
        (Load(busy=0.5), False),
    ],
)
def test_machine_is_idle_while_hardly_anybody_else_wants_to_run(load, idle):
    assert is_idle(load) is idle


def test_busy_machine_compares_nothing_and_drops_what_waits(by_hand, monkeypatch):
    monkeypatch.setattr(shadow_module, "_AGAIN_S", 0.0)
    session = by_hand(load=BUSY)
    session.infer(pixels())
    session._shadow.catch_up()
    session._runner.sensors.now = IDLE
    session._shadow.catch_up()
    assert (steps(session), compared(session)) == (FULL_WAY[:1], (0, 0))


def test_nothing_is_compared_before_the_requests_under_way_have_ended(by_hand):
    session, waits = by_hand(), []
    session.infer(pixels())
    session._runner.running.add(-1)

    def wait(seconds):
        waits.append(steps(session))
        session._runner.running.clear()

    session._shadow._closing.wait = wait
    session._shadow.catch_up()
    assert waits == [FULL_WAY[:1]]
    assert compared(session) == (1, 1)


def test_request_that_begins_meanwhile_goes_first(by_hand):
    session = by_hand()
    session.infer(pixels())
    session._runner.engine.before = lambda step: step.depth == 2 and session._runner.running.add(-1)

    def wait(seconds):
        session._runner.engine.before = lambda step: None
        session._runner.running.discard(-1)

    session._shadow._closing.wait = wait
    session._shadow.catch_up()
    assert steps(session)[1:] == FULL_WAY[:2] + FULL_WAY
    assert compared(session) == (1, 1)


def test_comparing_is_no_load_of_others(by_hand):
    session, own = by_hand(), []
    session.infer(pixels())
    session._runner.engine.before = lambda step: own.append(session._runner.own_running())
    session._shadow.catch_up()
    assert own == [1, 1, 1]
    assert session._runner.own_running() == 0


def test_only_the_last_few_inputs_wait(by_hand):
    session = by_hand()
    for label in [0, 0, 0, 1, 2, 3, 0]:
        session.infer(pixels(label))
    assert [sample.top for sample in session._shadow._waiting] == [1, 2, 3, 0]


def test_disagreement_raises_the_alarm_and_nothing_stops_early_any_more(by_hand, rule, caplog):
    session = by_hand()
    with caplog.at_level(logging.WARNING):
        for _ in range(60):
            session.infer(pixels(early=1, full=2))
            session._shadow.catch_up()
    count, agreed = compared(session)
    assert (1 <= count < 60, agreed) == (True, 0)
    assert session.stats.drift.startswith("width 1.0, fp32: inputs aren't like the calibration samples any more: ")
    assert [record.message for record in caplog.records] == [
        f"toy.stretto: {session.stats.drift}; calibrate it on such inputs: stretto calibrate"
    ]
    answer = session.infer(pixels(early=1, full=2))
    assert (answer.index, answer.stopped_by) == (2, Stop.FINAL)
    session._shadow.catch_up()
    assert compared(session) == (count, 0)
    assert len(rule.rules) == 2  # the caller's is as it was


def test_alarm_at_one_width_tightens_all(by_hand, rule):
    session = by_hand(Deadline(confidence=rule))
    for _ in range(60):
        session._shadow.told(pixels(1, 2)[None], (seen(OperatingPoint(0.5, 1)),), Stop.CONFIDENCE)
        session._shadow.catch_up()
    assert session.stats.drift.startswith("width 0.5, fp32: ")
    assert session.infer(pixels()).stopped_by is Stop.FINAL


@pytest.mark.parametrize("sure, what", [(True, "stopped early"), (False, "went on to the final exit")])
def test_change_of_how_many_stop_early_raises_the_alarm_though_nothing_is_compared(by_hand, sure, what):
    session = by_hand(share=0.001)
    for _ in range(200):
        session.infer(pixels(sure=sure))
    session._shadow.catch_up()
    assert f"requests {what}, where" in session.stats.drift


def test_inputs_as_calibrated_raise_no_alarm(by_hand):
    session, random = by_hand(), np.random.default_rng(1)
    for sure, agrees in zip(random.random(2000) < 0.7, random.random(2000) < 1 - 0.01 / 0.7, strict=True):
        session.infer(pixels(1, 1 if agrees else 2, sure=bool(sure)))
        session._shadow.catch_up()
    assert session.stats.drift is None
    count, agreed = compared(session)
    assert count == 2000
    assert 0.98 < agreed / count < 1


def test_failing_comparison_is_logged_once_and_requests_go_on(by_hand, caplog):
    session = by_hand()

    def fail(step):
        if step.depth == DEPTHS:
            raise RuntimeError("no luck")

    session._runner.engine.before = fail
    for _ in range(3):
        assert session.infer(pixels()).stopped_by is Stop.CONFIDENCE
        session._shadow.catch_up()
    assert [record.message for record in caplog.records] == [
        "toy.stretto: comparing an answer with the full network's failed; said this once"
    ]
    assert "no luck" in caplog.text
    session._runner.engine.before = lambda step: None
    session.infer(pixels())
    session._shadow.catch_up()
    assert compared(session) == (1, 1)


def test_alarm_comes_from_a_thread_of_its_own_while_requests_run(opened):
    session = opened()
    assert until(lambda: session.infer(pixels(1, 2)) and session.stats.drift)
    assert session.infer(pixels(1, 2)).index == 2


def test_many_threads_tell_at_once(opened):
    session = opened()
    threads = [
        threading.Thread(target=lambda: [session.infer(pixels(sure=n % 10 < 7)) for n in range(200)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON_S)
    assert until(lambda: session.stats.shadowed)
    assert session.stats.drift is None


def shadow_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("stretto-shadow-")]


def test_closing_ends_its_thread_though_an_input_waits(opened):
    session = opened(load=BUSY)
    session.infer(pixels())
    (thread,) = shadow_threads()
    begin = time.monotonic()
    session.close()
    assert not thread.is_alive()
    assert time.monotonic() - begin < 1  # else it would have been given up
    assert compared(session) == (0, 0)


def test_fork_has_no_shadow_and_leaves_its_parent_s_alone(opened, monkeypatch):
    session, owner = opened(load=BUSY), os.getpid()
    session.infer(pixels())
    (thread,) = shadow_threads()
    with monkeypatch.context() as patched:
        patched.setattr("os.getpid", lambda: owner + 1)
        with pytest.raises(ClosedError, match="not in its fork"):
            session.infer(pixels())
        session.close()
        assert thread.is_alive()
        assert session._shadow._told == 1
    session._shadow.close()


@pytest.mark.parametrize(
    "policy, share",
    [
        (Fixed(FULL), 1.0),
        (Fixed(FULL, 0.9), 1.0),
        (Fixed(FULL, ExitRule(0.9)), 1.0),
        (Fixed(FULL, certified_rule(certified(samples=1, ways=()))), 1.0),
        (None, 0.0),
    ],
)
def test_rule_that_is_not_the_certified_one_or_no_share_has_no_shadow(opened, policy, share):
    session = opened(policy, share=share)
    session.infer(pixels())
    assert session._shadow is None
    assert session.stats[4:] == (0, 0, None)


def test_policy_of_one_s_own_that_says_no_confidence_has_no_shadow(opened):
    class First:
        def next(self, situation):
            return Stop.TARGET if situation.evidence else situation.steps[0]

    assert opened(First())._shadow is None


def test_bundle_without_a_certificate_has_no_shadow(opened, rule, tmp_path):
    plain = written(toy_bundle(tmp_path / "a.stretto", depths=DEPTHS), tmp_path / "b.stretto", None)
    assert opened(Fixed(FULL, rule), of=plain)._shadow is None


def test_bundle_without_the_full_fp32_network_has_no_shadow(opened, tmp_path):
    toy = toy_bundle(tmp_path / "a.stretto", depths=DEPTHS, precisions=("int8",))
    ways = tuple(replace(way, precision="int8") for way in certified().ways)
    int8 = replace(certified(), ways=ways)
    bundle = written(toy, tmp_path / "b.stretto", int8)
    assert opened(Fixed(FULL._replace(precision="int8"), certified_rule(int8)), of=bundle)._shadow is None


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_share_out_of_range_is_refused(opened, share):
    with pytest.raises(ValueError, match=rf"shadow is {share}; give a share of requests in \[0, 1\], 0 for none"):
        opened(share=share)
