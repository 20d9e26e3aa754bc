from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stretto.policies.deadline import Deadline
from stretto.policies.situation import Step, Stop

from .situations import offered_after, seen, situation, situations

# Two widths, two depths: (narrow 1, narrow 2, wide 1, wide 2), in median milliseconds; level 0.99 is twice that.
STEPS = (Step(0, 1, 0.25), Step(0, 2, 0.25), Step(0, 1, 1.0), Step(0, 2, 1.0))
MEDIAN_MS, ACCURACY = [1.0, 2.0, 3.0, 6.0], [0.6, 0.7, 0.8, 0.9]


def fresh(slack_ms, **changes):
    """A request that has run nothing yet."""
    return situation(STEPS, MEDIAN_MS, ACCURACY, slack_ms, **changes)


def after_first(slack_ms, accuracy=0.6, deeper=(0.7, 0.8, 0.9), **changes):
    """A request at exit 1; reaching exits 2, 3, 4 takes 1, 2, 3 ms in the median."""
    return situation(
        offered_after(1, 0.5), [1.0, 2.0, 3.0], list(deeper), slack_ms, (seen(1, 0.5, accuracy),), **changes
    )


@pytest.mark.parametrize(
    "slack_ms, target", [(2.0, 0), (3.9, 0), (4.0, 1), (6.0, 2), (11.9, 2), (12.0, 3), (float("inf"), 3)]
)
def test_target_is_the_most_accurate_step_whose_quantile_fits(slack_ms, target):
    assert Deadline().target(fresh(slack_ms)) == STEPS[target]


@pytest.mark.parametrize("level, target", [(0.5, 3), (0.9, 2), (0.99, 2)])
def test_lower_level_dares_more(level, target):
    assert Deadline(level=level).target(fresh(8.0)) == STEPS[target]


def test_margin_is_kept_free():
    assert Deadline(margin_ms=0.5).target(fresh(12.4)) == STEPS[2]
    assert Deadline(margin_ms=0.5).target(fresh(12.5)) == STEPS[3]


def test_of_equally_accurate_steps_the_soonest_is_taken():
    assert Deadline().target(situation(STEPS, [2.0, 1.0, 3.0, 0.5], [0.8, 0.8, 0.8, 0.7], 100)) == STEPS[1]


def test_target_is_reached_in_one_go_unless_a_confidence_may_stop_it():
    assert Deadline().next(fresh(20)) == STEPS[3]
    assert Deadline().next(after_first(20)) == Step(2, 4, 0.5)
    assert Deadline(confidence=0.9).next(fresh(float("inf"))) == Step(0, 1, 1.0)


@pytest.mark.parametrize("slack_ms", [1.9, 0.0, -7.0])
def test_when_nothing_fits_the_soonest_exit_is_better_than_none(slack_ms):
    assert Deadline().next(fresh(slack_ms)) == STEPS[0]


def test_after_an_exit_it_stops_when_nothing_better_is_in_time():
    assert Deadline().next(after_first(1.9)) is Stop.DEADLINE
    assert Deadline().next(after_first(2.0)) == Step(2, 2, 0.5)


def test_worse_exit_on_the_way_is_passed_but_never_a_target():
    policy, dip = Deadline(), after_first(20, accuracy=0.75, deeper=(0.7, 0.75, 0.9))
    assert policy.target(dip) == Step(2, 4, 0.5)
    assert policy.next(dip) == Step(2, 4, 0.5)
    assert policy.next(replace(dip, slack_ms=5.9)) is Stop.DEADLINE


def test_nothing_better_left_is_target_reached():
    assert Deadline().next(after_first(100, accuracy=0.9)) is Stop.TARGET


def test_best_answer_in_hand_counts_not_the_latest():
    evidence = (seen(1, 0.5, accuracy=0.8), seen(2, 0.5, accuracy=0.6))
    now = situation(offered_after(2, 0.5), [1.0, 2.0], [0.7, 0.8], 100, evidence)
    assert Deadline().next(now) is Stop.TARGET


def test_confidence_stops_before_all_else():
    now = after_first(100)
    assert Deadline(confidence=0.6).next(now) is Stop.CONFIDENCE
    assert Deadline(confidence=0.61).next(now) == Step(2, 2, 0.5)


def test_enough_accuracy_takes_the_soonest_step_that_reaches_it():
    assert Deadline().target(fresh(100, min_accuracy=0.7)) == STEPS[1]
    assert Deadline().target(fresh(100, min_accuracy=0.75)) == STEPS[2]


def test_enough_accuracy_in_hand_ends_the_request():
    assert Deadline().next(after_first(100, min_accuracy=0.6)) is Stop.TARGET
    assert Deadline().next(after_first(100, min_accuracy=0.61)) == Step(2, 2, 0.5)


def test_deadline_comes_before_enough_accuracy():
    assert Deadline().target(fresh(4.0, min_accuracy=0.9)) == STEPS[1]


@given(now=situations(), more_ms=st.floats(0, 300), policy=st.builds(Deadline, level=st.sampled_from([0.5, 0.9, 0.99])))
def test_more_slack_never_gives_a_less_accurate_target(now, more_ms, policy):
    if not now.steps:
        return

    def aimed_at(slack_ms):
        target = policy.target(replace(now, slack_ms=slack_ms))
        return -1.0 if isinstance(target, Stop) else now.accuracy[now.steps.index(target)]

    assert aimed_at(now.slack_ms + more_ms) >= aimed_at(now.slack_ms)


@given(now=situations())
def test_target_fits_unless_nothing_does(now):
    if not now.steps:
        return
    target = Deadline().target(now)
    finish_ms = now.finish_ms[:, -1]
    if isinstance(target, Step) and (finish_ms <= now.slack_ms).any():
        assert finish_ms[now.steps.index(target)] <= now.slack_ms


def test_situation_is_left_as_it_was():
    now = after_first(3.0)
    finish_ms, accuracy = now.finish_ms.copy(), now.accuracy.copy()
    Deadline().next(now)
    assert np.array_equal(now.finish_ms, finish_ms) and np.array_equal(now.accuracy, accuracy)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"level": 0}, r"level is 0; give a quantile in \(0, 1\)"),
        ({"level": 1.0}, r"level is 1\.0; give a quantile in \(0, 1\)"),
        ({"margin_ms": -1}, r"margin_ms is -1; give milliseconds >= 0"),
        ({"margin_ms": float("nan")}, r"margin_ms is nan; give milliseconds >= 0"),
        ({"confidence": 1.5}, r"confidence threshold is 1\.5; give a probability in \(0, 1\]"),
    ],
)
def test_value_out_of_range_is_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Deadline(**parameters)


def test_level_that_was_not_profiled_is_refused_with_those_that_were():
    with pytest.raises(ValueError, match=r"level 0\.95 isn't predicted; choose one of 0\.5, 0\.9, 0\.99"):
        Deadline(level=0.95).next(fresh(10))
