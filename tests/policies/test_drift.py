"""The drift alarm: clean streams hardly ever raise it, changes do in time, and it says what happened."""

from math import inf, sqrt

import numpy as np
import pytest
from stretto.policies.binomial import highest_rate
from stretto.policies.cusum import alarm_chance, chart_for
from stretto.policies.drift import Drift

STREAMS = 300


def told(drift: Drift, agreed: np.ndarray, early: np.ndarray | None = None) -> int | None:
    """How many of these requests it took until the alarm; None where there was none."""
    for count in range(len(agreed)):
        drift.tell_agreed(bool(agreed[count]))
        if early is not None:
            drift.tell_early(bool(early[count]))
        if drift.state == "alarm":
            return count + 1
    return None


def delays(
    agreement: float, requests: int, early: float | None = None, clean_before: int = 0, streams: int = STREAMS
) -> list[int | None]:
    """For each stream, how many requests at these rates it took; 0.99 agree and 0.73 stop early where all is fine."""
    rng, after, found = np.random.default_rng(0), (agreement, early), []
    while len(found) < streams:
        drift = Drift(0.99, early=None if early is None else (0.73, 0.73))
        fine, changed = (
            (rng.random(count) < agree, None if stop is None else rng.random(count) < stop)
            for count, (agree, stop) in ((clean_before, (0.99, early and 0.73)), (requests, after))
        )
        if told(drift, *fine) is None:  # an alarm before is a false one, which is counted elsewhere
            found.append(told(drift, *changed))
    return found


@pytest.mark.parametrize("early", [None, 0.73])
def test_clean_streams_of_ten_thousand_warn_as_rarely_as_stated(early):
    false_alarms = sum(delay is not None for delay in delays(0.99, 10_000, early, streams=200))
    assert false_alarms <= 200 * 0.05 + 3 * sqrt(200 * 0.05 * 0.95)


@pytest.mark.parametrize("agreement, share", [(0.93, 0.93), (0.92, 0.97), (0.9, 0.99), (0.8, 1.0)])
@pytest.mark.parametrize("clean_before", [0, 1000])
def test_drop_of_agreement_is_found_within_200_requests(agreement, share, clean_before):
    """`share` of the streams; at 0.93 hardly any more could be, at as many false alarms."""
    late = sum(delay is None for delay in delays(agreement, 200, clean_before=clean_before))
    assert late <= STREAMS * (1 - share) + 3 * sqrt(STREAMS * share * (1 - share))


@pytest.mark.parametrize("early", [0.44, 0.5, 0.93])
def test_change_of_how_many_stop_early_is_found_though_agreement_stays(early):
    late = sum(delay is None for delay in delays(0.99, 200, early, clean_before=300))
    assert late <= STREAMS * 0.01 + 3 * sqrt(STREAMS * 0.01 * 0.99)


def test_interval_of_the_calibration_keeps_false_alarms_though_the_rate_was_estimated():
    """Calibrated on 2000 samples drawn anew for each stream; the rate itself, instead, would warn too often."""
    rng, by_rate, by_interval = np.random.default_rng(2), [], []
    for disagreed in rng.binomial(2000, 0.01, size=40).tolist():
        for chances, rate in ((by_rate, disagreed / 2000), (by_interval, highest_rate(disagreed, 2000, 0.95))):
            chances.append(alarm_chance(0.01, chart_for(round(rate, 4), 200, 0.05, 2000), 2000))
    assert np.mean(by_interval) <= 0.05 < np.mean(by_rate)


def test_alarm_says_what_happened_and_what_to_tighten_to():
    drift = Drift(0.99, tightened=0.97)
    for _ in range(500):
        drift.tell_agreed(True)
    assert (drift.state, drift.threshold, drift.warning) == ("fine", None, None)
    for agreed in (False, True, True, False, False, True, False, False):
        drift.tell_agreed(agreed)
    assert (drift.state, drift.threshold) == ("alarm", 0.97)
    assert drift.warning == (
        "inputs aren't like the calibration samples any more: "
        "5 of the last 8 shadowed requests disagreed with the full network, where 0.1 would be usual"
    )


@pytest.mark.parametrize("early, what", [(True, "stopped early"), (False, "went on to the final exit")])
def test_alarm_says_in_which_direction_early_stops_went(early, what):
    drift = Drift(0.99, early=(0.4, 0.5))
    for _ in range(100):
        drift.tell_early(early)
    assert drift.state == "alarm"
    assert f"requests {what}, where" in drift.warning


@pytest.mark.parametrize("early, always", [((0.0, 0.5), False), ((0.5, 1.0), True)])
def test_end_of_the_range_that_cannot_be_passed_is_never_passed(early, always):
    drift = Drift(0.99, early=early)
    for _ in range(1000):
        drift.tell_early(always)
    assert drift.state == "fine"
    for _ in range(100):
        drift.tell_early(not always)
    assert drift.state == "alarm"


def test_requests_that_something_else_ended_are_neither_early_nor_late():
    """Of those that the rule ended alone, all are early here; left out, the others would make that look like a rise."""
    stopped_early, counted, left_out = np.random.default_rng(0).random(2000) < 0.7, Drift(0.99, early=(0.7, 0.7)), []
    for early in stopped_early.tolist():
        counted.tell_early(True if early else None)
        left_out += [True] * early
    assert counted.state == "fine"
    naive = Drift(0.99, early=(0.7, 0.7))
    for early in left_out:
        naive.tell_early(early)
    assert naive.state == "alarm"


def test_early_stops_have_a_horizon_of_their_own():
    by_all, by_few = Drift(0.99, early=(0.7, 0.7), early_horizon=1_000_000), Drift(0.99, early=(0.7, 0.7))
    for drift in (by_all, by_few):
        assert drift._disagreed == by_few._disagreed
    assert by_all._early.chart.limit > by_few._early.chart.limit


def test_early_stops_count_for_nothing_where_their_range_is_unknown():
    drift = Drift(0.99)
    for _ in range(1000):
        drift.tell_early(False)
    assert drift.state == "fine"


def test_never_stopping_early_is_what_an_alarm_tightens_to_if_nothing_else_is_said():
    drift = Drift(0.99)
    told(drift, np.zeros(50, dtype=bool))
    assert drift.threshold == inf


def test_alarm_stays_whatever_comes_after():
    drift = Drift(0.99)
    told(drift, np.zeros(50, dtype=bool))
    warning = drift.warning
    for _ in range(5000):
        drift.tell_agreed(True)
    assert (drift.state, drift.warning) == ("alarm", warning)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"agreement": 1.0}, r"agreement is 1.0 and early None; give a share in \(0, 1\), and a range in \[0, 1\]"),
        ({"agreement": float("nan")}, "agreement is nan"),
        ({"early": (0.5, 1.1)}, r"early \(0.5, 1.1\); give a share in \(0, 1\), and a range in \[0, 1\]"),
        ({"early": (0.5, 0.4)}, r"early \(0.5, 0.4\); give a share"),
        ({"early": (float("nan"), 0.4)}, r"early \(nan, 0.4\); give a share"),
        ({"false_alarm": 0}, r"false_alarm is 0.0; give a share in \(0, 1\)"),
        ({"within": 0}, "within is 0 and horizon 10000; give 1 <= within <= horizon"),
    ],
)
def test_values_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Drift(**({"agreement": 0.99} | change))
