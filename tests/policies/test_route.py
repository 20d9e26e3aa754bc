"""The router goes first where there is time for it; then what it says decides."""

from dataclasses import replace

import numpy as np
import pytest
from stretto.policies.alert import Alert
from stretto.policies.deadline import Deadline
from stretto.policies.route import Route, routes
from stretto.policies.situation import Budget, Situation, Step

LOOK = Step(0, 0, 1.0)
ENDS = tuple(Step(0, depth, width) for width in (0.5, 1.0) for depth in (1, 2))
LEVELS = (0.5, 0.99)


def start(slack_ms=100.0, **budget):
    finish_ms = np.array([[2.0, 3.0], [4.0, 5.0], [6.0, 7.0], [12.0, 14.0], [1.0, 1.5]])
    accuracy = np.array([0.5, 0.6, 0.7, 0.8, 0.0])
    return Situation(slack_ms, Budget(slack_ms, **budget), (), (*ENDS, LOOK), finish_ms, LEVELS, accuracy)


def routed(chances, slack_ms=100.0, **budget):
    """As the router left it."""
    before = start(slack_ms, **budget)
    steps = tuple(step._replace(first=1) for step in ENDS)
    return replace(before, steps=steps, finish_ms=before.finish_ms[:4], accuracy=np.array(chances), routed=True)


def test_router_goes_first():
    assert Route().next(start()) == LOOK


def test_without_time_for_the_router_and_an_exit_it_goes_to_one_at_once():
    assert Route(then=Deadline()).next(start(4.5)) == LOOK
    assert Route(then=Deadline()).next(start(4.4)) == ENDS[0]


def test_router_is_run_in_the_precision_whose_most_accurate_exit_is_soonest():
    before = start()
    slow = [step._replace(precision="fp64") for step in before.steps]
    finish_ms = np.concatenate([before.finish_ms, 2 * before.finish_ms])
    finish_ms[-1] = 0.1  # the router itself is quicker there
    both = replace(
        before, steps=(*before.steps, *slow), finish_ms=finish_ms, accuracy=np.concatenate([before.accuracy] * 2)
    )
    assert Route().next(both) == LOOK


def test_time_that_is_to_be_kept_free_is():
    assert Route(then=Deadline(margin_ms=1.0)).next(start(5.4)) == ENDS[1 - 1]


def test_soonest_exit_that_is_likely_enough_right_is_taken():
    policy = Route(enough=0.9)
    assert policy.next(routed([0.2, 0.95, 0.5, 0.99])) == Step(1, 2, 0.5)
    assert policy.next(routed([0.2, 0.5, 0.5, 0.99])) == Step(1, 2, 1.0)
    assert policy.next(routed([0.95, 0.95, 0.99, 0.99])) == Step(1, 1, 0.5)


def test_where_none_is_the_likeliest_is_taken():
    assert Route(enough=0.9).next(routed([0.2, 0.7, 0.3, 0.6])) == Step(1, 2, 0.5)


def test_what_a_budget_says_is_enough_comes_first():
    assert Route(enough=0.9).next(routed([0.6, 0.95, 0.95, 0.99], min_accuracy=0.5)) == Step(1, 1, 0.5)


def test_the_deadline_comes_before_what_is_enough():
    assert Route(enough=0.9, then=Deadline()).next(routed([0.2, 0.5, 0.6, 0.99], slack_ms=8.0)) == Step(1, 1, 1.0)


def test_it_goes_without_a_router_where_none_is_offered():
    before = start()
    bare = replace(before, steps=ENDS, finish_ms=before.finish_ms[:4], accuracy=before.accuracy[:4])
    assert Route(enough=0.65).next(bare) == ENDS[3]  # for which it is asked in vain what is enough


def test_where_nothing_was_routed_exits_are_taken_as_for_all_inputs():
    held_out = replace(routed([0.91, 0.92, 0.93, 0.97]), routed=False)
    assert Route(enough=0.9).next(held_out) == Alert().next(held_out) == Step(1, 2, 1.0)


def test_with_nothing_behind_the_routers_none_goes_first():
    before = start()
    two = replace(before, steps=(ENDS[0], LOOK), finish_ms=before.finish_ms[[0, 4]], accuracy=before.accuracy[[0, 4]])
    other = replace(two, steps=(ENDS[0], LOOK._replace(precision="int8")))
    assert Route().next(two) == LOOK and Route().next(other) == ENDS[0]


def test_its_rule_is_that_of_what_decides_everything_else():
    assert Route(then=Deadline(confidence=0.8)).rule == Deadline(confidence=0.8).rule and Route().rule is None


@pytest.mark.parametrize("enough", [0, -0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(enough):
    with pytest.raises(ValueError, match="enough is"):
        Route(enough=enough)


def test_only_who_says_so_wants_routers():
    assert routes(Route()) and not routes(Deadline()) and not routes(object())
