"""The drift alarm: as many false ones as stated and no more, and drops found in time."""

from math import inf, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stretto.policies.binomial import highest_rate
from stretto.policies.drift import Chart, Drift, alarm_chance, chart_for

STREAMS = 300


def told(drift: Drift, agreed: np.ndarray) -> int | None:
    """How many of these requests it took until the alarm; None where there was none."""
    for count, each in enumerate(agreed.tolist(), start=1):
        drift.tell(each)
        if drift.state == "alarm":
            return count
    return None


def delays(agreement: float, requests: int, clean_before: int = 0, streams: int = STREAMS, seed: int = 0) -> list:
    """For each stream, how many requests at this agreement it took; calibrated on 0.99, told of clean ones before."""
    rng, after = np.random.default_rng(seed), []
    while len(after) < streams:
        drift = Drift(0.99)
        if told(drift, rng.random(clean_before) < 0.99) is None:  # an alarm before is a false one, counted elsewhere
            after.append(told(drift, rng.random(requests) < agreement))
    return after


def test_clean_streams_of_ten_thousand_warn_as_rarely_as_stated():
    false_alarms = sum(delay is not None for delay in delays(0.99, 10_000))
    assert false_alarms <= STREAMS * 0.05 + 3 * sqrt(STREAMS * 0.05 * 0.95)


@pytest.mark.parametrize("agreement, found", [(0.93, 0.92), (0.92, 0.97), (0.9, 0.99), (0.8, 1.0)])
@pytest.mark.parametrize("clean_before", [0, 1000])
def test_drop_is_found_within_200_requests(agreement, found, clean_before):
    """`found`: share of streams; at 0.93 the best possible, see the chance worked out below."""
    late = sum(delay is None for delay in delays(agreement, 200, clean_before))
    assert late <= STREAMS * (1 - found) + 3 * sqrt(STREAMS * found * (1 - found))


@pytest.mark.parametrize("agreement, chance", [(0.99, 0.001), (0.95, 0.65), (0.93, 0.93), (0.9, 0.998)])
def test_chance_worked_out_is_the_share_of_simulated_streams(agreement, chance):
    worked_out = alarm_chance(1 - agreement, chart_for(0.01, 200, 0.05, 10_000), 200)
    assert worked_out == pytest.approx(chance, abs=0.005)
    simulated = np.mean([delay is not None for delay in delays(agreement, 200, streams=1000)])
    assert simulated == pytest.approx(worked_out, abs=4 * sqrt(0.25 / 1000))


@settings(max_examples=15, deadline=None)
@given(
    disagreement=st.floats(0.001, 0.5),
    within=st.integers(20, 300),
    false_alarm=st.floats(0.01, 0.5),
    horizon=st.integers(300, 1500),
)
def test_limit_is_the_lowest_that_keeps_the_stated_false_alarms(disagreement, within, false_alarm, horizon):
    up, limit = chart_for(disagreement, within, false_alarm, horizon)
    assert alarm_chance(disagreement, Chart(up, limit), horizon) <= false_alarm
    assert limit == 1 or alarm_chance(disagreement, Chart(up, limit - 1), horizon) > false_alarm


def test_few_alarms_allowed_or_a_better_agreement_mean_fewer():
    chart = chart_for(0.01, 200, 0.05, 10_000)
    assert alarm_chance(0.005, chart, 10_000) < 0.001 < alarm_chance(0.01, chart, 10_000)
    assert chart_for(0.01, 200, 0.001, 10_000).limit > chart.limit


def test_rate_where_one_disagreement_is_rare_enough_warns_at_the_first():
    drift = Drift(1 - 1e-6)
    drift.tell(True)
    drift.tell(False)
    assert drift.state == "alarm"


def test_interval_of_the_calibration_keeps_false_alarms_though_the_rate_was_estimated():
    """Calibrated on 2000 samples drawn anew for each stream; the rate itself, instead, would warn too often."""
    rng, by_rate, by_interval = np.random.default_rng(2), 0.0, 0.0
    for disagreed in rng.binomial(2000, 0.01, size=60):
        rates = max(disagreed, 1) / 2000, highest_rate(int(disagreed), 2000, 0.95)
        by_rate += alarm_chance(0.01, chart_for(round(rates[0], 4), 200, 0.05, 2000), 2000) / 60
        by_interval += alarm_chance(0.01, chart_for(round(rates[1], 4), 200, 0.05, 2000), 2000) / 60
    assert by_interval <= 0.05
    assert by_rate > by_interval


def test_alarm_says_what_happened_and_what_to_tighten_to():
    drift = Drift(0.99, tightened=0.97)
    for _ in range(500):
        drift.tell(True)
    assert (drift.state, drift.threshold, drift.warning, drift.told) == ("fine", None, None, 500)
    for agreed in (False, True, True, False, False, True, False, False):
        drift.tell(agreed)
    assert (drift.state, drift.threshold) == ("alarm", 0.97)
    assert drift.warning.startswith(
        "5 of the last 8 shadowed requests disagreed with the full network, where 0.1 would"
    )


def test_never_stopping_early_is_what_an_alarm_tightens_to_if_nothing_else_is_said():
    drift = Drift(0.99)
    told(drift, np.zeros(50, dtype=bool))
    assert drift.threshold == inf


def test_alarm_stays_whatever_comes_after():
    drift = Drift(0.99)
    told(drift, np.zeros(50, dtype=bool))
    warning = drift.warning
    told(drift, np.ones(5000, dtype=bool))
    assert (drift.state, drift.warning) == ("alarm", warning)


def test_drop_is_counted_from_where_it_began():
    drift = Drift(0.99)
    told(drift, np.array([False] + [True] * 100))
    assert (drift.since, drift.disagreed) == (0, 0)
    told(drift, np.array([True, False, True]))
    assert (drift.since, drift.disagreed) == (2, 1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"agreement": 1.0}, r"agreement is 1.0; give a share in \(0, 1\)"),
        ({"agreement": float("nan")}, "agreement is nan"),
        ({"false_alarm": 0}, r"false_alarm is 0; give a share in \(0, 1\)"),
        ({"within": 0}, "within is 0 and horizon 10000; give 1 <= within <= horizon"),
        ({"horizon": 100}, "within is 200 and horizon 100"),
    ],
)
def test_values_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Drift(**({"agreement": 0.99} | change))
