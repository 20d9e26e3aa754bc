from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stretto.policies.alert import Alert
from stretto.policies.situation import Budget, Step, Stop
from stretto.policies.targets import chance_by

from .situations import LEVELS, offered_after, seen, situation, situations

# Two widths, two depths: (narrow 1, narrow 2, wide 1, wide 2), in median milliseconds; level 0.99 is twice that.
STEPS = (Step(0, 1, 0.25), Step(0, 2, 0.25), Step(0, 1, 1.0), Step(0, 2, 1.0))
MEDIAN_MS, ACCURACY = [1.0, 2.0, 3.0, 6.0], [0.6, 0.7, 0.8, 0.9]


def fresh(slack_ms, **changes):
    return situation(STEPS, MEDIAN_MS, ACCURACY, slack_ms, **changes)


def after_first(slack_ms, accuracy=0.6, deeper=(0.7, 0.8, 0.9), **changes):
    return situation(
        offered_after(1, 0.5), [1.0, 2.0, 3.0], list(deeper), slack_ms, (seen(1, 0.5, accuracy),), **changes
    )


def with_energy(now, energy_mj, limit_mj=None, spent_mj=0.0):
    budget = replace(now.budget, energy_mj=limit_mj)
    return replace(now, energy_mj=np.array(energy_mj), budget=budget, spent_mj=spent_mj)


def chance(slack_ms, median_ms):
    return chance_by(slack_ms, [median_ms, 1.5 * median_ms, 2 * median_ms], LEVELS)


def test_exits_on_the_way_count_where_they_survive_a_miss():
    slack_ms, fail = 4.0, 0.1
    first, second = chance(slack_ms, 3.0), chance(slack_ms, 6.0)
    expected = second * 0.9 + (first - second) * 0.8 + (1 - first) * fail
    assert Alert(q_fail=fail, interruptible=True).expected(fresh(slack_ms))[3] == pytest.approx(expected)


def test_exits_on_the_way_are_worth_nothing_to_who_gets_the_answer_late():
    slack_ms, fail = 4.0, 0.1
    second = chance(slack_ms, 6.0)
    assert Alert(q_fail=fail).expected(fresh(slack_ms))[3] == pytest.approx(second * 0.9 + (1 - second) * fail)


def test_exit_that_is_worse_than_one_before_it_adds_nothing():
    now = situation(STEPS, MEDIAN_MS, [0.6, 0.5, 0.8, 0.9], 100)
    expected = Alert(interruptible=True).expected(now)
    assert expected[1] == expected[0]


@pytest.mark.parametrize("slack_ms, target", [(1.5, 0), (3.9, 1), (5.5, 2), (100, 3)])
def test_wider_path_is_worth_its_risk_only_with_time(slack_ms, target):
    assert Alert().target(fresh(slack_ms)) == STEPS[target]


def test_high_worth_of_failing_dares_more():
    slack_ms = 3.6
    assert Alert(q_fail=0.0).target(fresh(slack_ms)).width == 0.25
    assert Alert(q_fail=0.59).target(fresh(slack_ms)).width == 1.0


def test_target_is_reached_in_one_go_unless_a_confidence_may_stop_it():
    assert Alert().next(fresh(20)) == STEPS[3]
    assert Alert(confidence=0.9).next(fresh(20)) == Step(0, 1, 1.0)


@pytest.mark.parametrize("slack_ms", [0.0, -7.0])
def test_when_nothing_is_in_time_the_soonest_exit_is_better_than_none(slack_ms):
    assert Alert().next(fresh(slack_ms)) == STEPS[0]


def test_answer_in_hand_is_risked_only_where_it_is_expected_to_pay():
    assert Alert().next(after_first(1.2)) is Stop.DEADLINE  # chance 0.66 of 0.7 against 0.6 at hand
    assert Alert().next(after_first(1.9)) == Step(2, 2, 0.5)  # 0.97 of 0.7


def test_answer_that_survives_a_miss_is_no_reason_to_stop():
    assert Alert(interruptible=True).next(after_first(0.3)) == Step(2, 4, 0.5)
    assert Alert(interruptible=True).next(after_first(-0.1)) is Stop.DEADLINE


def test_nothing_better_left_is_target_reached():
    assert Alert().next(after_first(100, accuracy=0.9)) is Stop.TARGET


def test_confidence_stops_before_all_else():
    assert Alert(confidence=0.6).next(after_first(100)) is Stop.CONFIDENCE
    assert Alert(confidence=0.61).next(after_first(100)) == Step(2, 2, 0.5)


def test_enough_accuracy_in_hand_ends_the_request():
    assert Alert().next(after_first(100, min_accuracy=0.6)) is Stop.TARGET
    assert Alert().next(after_first(100, min_accuracy=0.61)) == Step(2, 2, 0.5)


def test_least_energy_that_is_expected_to_be_good_enough_is_taken():
    now = with_energy(fresh(100, min_accuracy=0.65), [4.0, 5.0, 3.0, 9.0])
    assert Alert().target(now) == STEPS[2]


def test_without_known_energy_the_soonest_that_is_good_enough_is_taken():
    assert Alert().target(fresh(100, min_accuracy=0.65)) == STEPS[1]


def test_energy_limit_alone_takes_the_most_accurate_within_it():
    assert Alert().target(with_energy(fresh(100), [1.0, 2.0, 3.0, 9.0], limit_mj=8.0)) == STEPS[2]


def test_what_was_spent_is_no_longer_within_the_limit():
    now = with_energy(after_first(100), [1.0, 2.0, 3.0], limit_mj=8.0, spent_mj=5.5)
    assert Alert().target(now) == now.steps[1]


def test_answer_in_hand_is_kept_where_nothing_better_is_within_the_energy():
    now = with_energy(after_first(100), [1.0, 2.0, 3.0], limit_mj=8.0, spent_mj=7.5)
    assert Alert().next(now) is Stop.ENERGY


def test_when_nothing_is_within_the_energy_the_least_is_better_than_no_answer():
    assert Alert().target(with_energy(fresh(100), [2.0, 3.0, 1.0, 9.0], limit_mj=0.5)) == STEPS[2]


def test_energy_gives_way_only_where_that_makes_the_answer_good_enough():
    now = with_energy(fresh(100, min_accuracy=0.95), [1.0, 2.0, 5.0, 9.0], limit_mj=4.0)
    assert Alert().target(now) == STEPS[1]
    now = with_energy(after_first(100, min_accuracy=0.95), [1.0, 2.0, 3.0], limit_mj=4.0, spent_mj=4.0)
    assert Alert().target(now) is Stop.ENERGY


def test_energy_is_relaxed_before_accuracy():
    now = with_energy(fresh(100, min_accuracy=0.75), [1.0, 2.0, 5.0, 9.0], limit_mj=4.0)
    assert Alert().target(now) == STEPS[2]


def test_accuracy_is_relaxed_before_the_deadline():
    now = with_energy(fresh(3.0, min_accuracy=0.85), [1.0, 2.0, 5.0, 9.0], limit_mj=4.0)
    assert Alert().target(now) == STEPS[1]


@given(now=situations())
def test_expected_accuracy_never_falls_along_a_path_that_may_be_interrupted(now):
    expected = dict(zip(now.steps, Alert(interruptible=True).expected(now), strict=True))
    for step, accuracy in expected.items():
        deeper = step._replace(depth=step.depth + 1)
        assert expected.get(deeper, 1.0) >= accuracy - 1e-12


@given(now=situations(), interruptible=st.booleans())
def test_choice_after_an_exit_is_expected_to_beat_what_is_in_hand(now, interruptible):
    policy = Alert(interruptible=interruptible)
    if now.steps and now.evidence and isinstance(target := policy.target(now), Step):
        best = max(exit.accuracy for exit in now.evidence)
        assert policy.expected(now)[now.steps.index(target)] > best


@given(now=situations())
def test_choice_is_the_step_of_the_highest_expected_accuracy(now):
    now = replace(now, budget=Budget(now.budget.latency_ms))
    target = Alert().target(now) if now.steps else None
    if isinstance(target, Step):
        expected = Alert().expected(now)
        assert expected[now.steps.index(target)] == max(expected)


def test_order_of_the_steps_does_not_matter():
    now = replace(fresh(4.0), budget=Budget(4.0))
    turned = [3, 1, 0, 2]
    other = situation(
        tuple(STEPS[at] for at in turned), [MEDIAN_MS[at] for at in turned], [ACCURACY[at] for at in turned], 4.0
    )
    assert Alert().expected(other) == [Alert().expected(now)[at] for at in turned]


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"q_fail": 1.5}, r"q_fail is 1\.5; give what a late answer is worth, in \[0, 1\]"),
        ({"margin_ms": -1}, r"margin_ms is -1; give milliseconds >= 0"),
    ],
)
def test_value_out_of_range_is_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Alert(**parameters)
