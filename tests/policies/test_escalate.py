"""A narrow look first, and wider where that isn't sure and there is time."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from stretto.policies.alert import Alert
from stretto.policies.deadline import Deadline
from stretto.policies.escalate import Escalate, first_of
from stretto.policies.situation import Budget, Evidence, OperatingPoint, Situation, Step, Stop

LEVELS = (0.5, 0.99)
FIRST = OperatingPoint(0.25, 3)
NARROW = tuple(Step(0, depth, 0.25) for depth in (1, 2, 3))
WIDE = tuple(Step(0, depth, 1.0) for depth in (1, 2, 3))
RIGHT = {0.25: (0.5, 0.6, 0.7), 1.0: (0.7, 0.8, 0.9)}
LOOK, FULL = NARROW[-1], WIDE[-1]


def times(steps):
    """Depth times width milliseconds in the median, twice that in 1 % of cases."""
    ms = [(step.depth - max(step.first - 1, 0)) * step.width for step in steps]
    return np.outer(ms, (1.0, 2.0))


def accuracies(steps):
    return np.array([RIGHT[step.width][step.depth - 1] for step in steps])


def seen(width, depth, confidence=0.5):
    logits = np.array([1.0, 0.0], np.float32)
    return Evidence(OperatingPoint(width, depth), logits, 1.0, 0, confidence, RIGHT[width][depth - 1])


def situation(slack_ms, steps=NARROW + WIDE, evidence=()):
    return Situation(slack_ms, Budget(slack_ms), evidence, steps, times(steps), LEVELS, accuracies(steps))


def escalate(**changes):
    return Escalate(**{"first": FIRST, "confidence": 0.8, **changes})


def test_it_looks_first_where_there_is_time_for_both():
    assert escalate().next(situation(inf)) == LOOK
    assert escalate().next(situation(7.5)) == LOOK  # 1.5 and 6 in 99 % of cases


def test_without_time_for_both_it_does_what_it_would_without_a_first_look():
    for slack_ms in (7.4, 6.0, 1.0, -1.0):
        now = situation(slack_ms)
        assert escalate(then=Deadline()).next(now) == Deadline().next(now)


def test_time_kept_free_is_kept_free_after_the_look_and_after_the_rest():
    assert escalate(then=Alert(margin_ms=0.1)).next(situation(7.6)) != LOOK
    assert escalate(then=Alert(margin_ms=0.1)).next(situation(7.71)) == LOOK


def test_a_look_that_is_sure_ends_it():
    assert escalate().next(situation(6, WIDE, (seen(0.25, 3, 0.8),))) is Stop.CONFIDENCE


def test_a_look_that_is_not_sure_goes_on_wider():
    assert escalate().next(situation(6, WIDE, (seen(0.25, 3, 0.79),))) == FULL


def test_an_unsure_look_without_time_for_more_is_the_answer():
    assert escalate().next(situation(0.5, WIDE, (seen(0.25, 3, 0.79),))) is Stop.DEADLINE


def test_an_exit_on_the_way_to_the_look_goes_on_to_it():
    behind = (Step(2, 2, 0.25), Step(2, 3, 0.25), *WIDE)
    assert escalate().next(situation(inf, behind, (seen(0.25, 1, 1.0),))) == Step(2, 3, 0.25)
    late = situation(0.9, behind, (seen(0.25, 1, 1.0),))
    assert escalate(then=Deadline()).next(late) == Deadline().next(late)


def test_a_wider_exit_is_no_look():
    ahead = (Step(3, 3, 1.0),)
    assert escalate().next(situation(inf, ahead, (seen(0.25, 3), seen(1.0, 2, 1.0)))) == Step(3, 3, 1.0)


def test_what_is_good_enough_needs_no_more():
    now = situation(inf, WIDE, (seen(0.25, 3),))
    assert escalate().next(replace(now, budget=Budget(min_accuracy=0.65))) is Stop.TARGET


def test_a_look_that_is_not_offered_is_left_out():
    now = situation(inf, WIDE)
    assert escalate().next(now) == Alert().next(now)


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"first": (0.25, 3)}, "OperatingPoint"), ({"confidence": None}, "how sure"), ({"confidence": 1.5}, "1.5")],
)
def test_bad_parameters_are_named(changes, says):
    with pytest.raises(ValueError, match=says):
        escalate(**changes)


def test_only_a_policy_that_escalates_has_a_first_look():
    assert first_of(escalate()) == FIRST
    assert first_of(Alert()) is None
