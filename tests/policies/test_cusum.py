"""The cumulative sum of one rate: as many false alarms as stated and no more, worked out as they come."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stretto.policies.cusum import Chart, Watch, alarm_chance, chart_for


def rang(watch: Watch, events: np.ndarray) -> bool:
    for event in events.tolist():
        watch.tell(event)
    return watch.alarm


@pytest.mark.parametrize(
    "usual, rate, chance", [(0.01, 0.05, 0.65), (0.01, 0.07, 0.93), (0.36, 0.51, 0.70), (0.64, 0.74, 0.23)]
)
def test_chance_worked_out_is_the_share_of_simulated_streams(usual, rate, chance):
    worked_out = alarm_chance(rate, chart_for(usual, 200, 0.05, 10_000), 200)
    assert worked_out == pytest.approx(chance, abs=0.01)
    rng = np.random.default_rng(0)
    simulated = np.mean([rang(Watch(usual, 200, 0.05, 10_000), rng.random(200) < rate) for _ in range(1000)])
    assert simulated == pytest.approx(worked_out, abs=4 * sqrt(0.25 / 1000))


def every_trial(rate: float, chart: Chart, trials: int) -> float:
    """The chance of an alarm by the matrix of one trial, taken to that power."""
    up, down, limit = chart
    step = np.zeros((limit, limit))
    for at in range(limit):
        step[at, max(0, at - down)] += 1 - rate
        if at + up < limit:
            step[at, at + up] += rate
    return 1 - float(np.linalg.matrix_power(step, trials)[0].sum())


@pytest.mark.parametrize("usual", [0.0015, 0.01, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("horizon", [1_000, 10_000, 1_000_000])
def test_chance_of_many_trials_is_that_of_each_trial_worked_out(usual, horizon):
    chart = chart_for(usual, 200, 0.05, horizon)
    assert alarm_chance(usual, chart, horizon) == pytest.approx(every_trial(usual, chart, horizon), rel=1e-4)
    assert alarm_chance(usual, chart, 250) == pytest.approx(every_trial(usual, chart, 250), rel=1e-4, abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(
    usual=st.floats(0.001, 0.9),
    within=st.integers(20, 300),
    false_alarm=st.floats(0.01, 0.5),
    horizon=st.integers(300, 1000),
)
def test_limit_is_the_lowest_that_keeps_the_stated_false_alarms(usual, within, false_alarm, horizon):
    up, down, limit = chart_for(usual, within, false_alarm, horizon)
    assert alarm_chance(usual, Chart(up, down, limit), horizon) <= false_alarm
    assert limit == 1 or alarm_chance(usual, Chart(up, down, limit - 1), horizon) > false_alarm


def test_lower_rate_rings_less_often_and_fewer_false_alarms_raise_the_limit():
    chart = chart_for(0.01, 200, 0.05, 10_000)
    assert alarm_chance(0.005, chart, 10_000) < 0.001 < alarm_chance(0.01, chart, 10_000)
    assert chart_for(0.01, 200, 0.01, 10_000).limit > chart.limit


def test_event_that_is_rare_enough_rings_at_once():
    assert rang(Watch(1e-6, 200, 0.05, 10_000), np.array([False, True]))


def test_rise_is_counted_from_where_it_began():
    watch = Watch(0.01, 200, 0.05, 10_000)
    rang(watch, np.array([True] + [False] * 100))
    assert (watch.since, watch.events) == (0, 0)
    rang(watch, np.array([False, True, False]))
    assert (watch.since, watch.events) == (2, 1)


def test_alarm_stays_whatever_comes_after():
    watch = Watch(0.01, 200, 0.05, 10_000)
    rang(watch, np.ones(50, dtype=bool))
    counted = watch.since, watch.events
    assert rang(watch, np.zeros(5000, dtype=bool))
    assert (watch.since, watch.events) == counted


@pytest.mark.parametrize(
    "change, message",
    [
        ({"usual": 0.0}, r"usual rate is 0.0; give a share in \(0, 1\)"),
        ({"false_alarm": 1}, r"false_alarm is 1; give a share in \(0, 1\)"),
        ({"within": 0}, "within is 0 and horizon 10000; give 1 <= within <= horizon"),
        ({"horizon": 100}, "within is 200 and horizon 100"),
    ],
)
def test_values_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        chart_for(**({"usual": 0.01, "within": 200, "false_alarm": 0.05, "horizon": 10_000} | change))
