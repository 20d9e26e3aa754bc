from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stretto.policies.exits import ExitRule, PatienceRule, RulePerWay
from stretto.policies.situation import Step
from stretto.policies.targets import chance_by, quantile, walk, way_to

from .situations import offered_after

LEVELS = (0.1, 0.5, 0.9, 0.99)
FINISH_MS = [1.0, 2.0, 4.0, 6.0]

finishes = st.lists(st.floats(0.01, 100), min_size=4, max_size=4).map(sorted)


@pytest.mark.parametrize(
    "slack_ms, chance",
    [(-1, 0), (0, 0), (0.5, 0.05), (1, 0.1), (1.5, 0.3), (2, 0.5), (4, 0.9), (6, 0.99), (float("inf"), 1)],
)
def test_chance_is_linear_between_quantiles_and_falls_to_nothing_at_no_time(slack_ms, chance):
    assert chance_by(slack_ms, FINISH_MS, LEVELS) == pytest.approx(chance)


def test_beyond_the_highest_quantile_each_gap_leaves_the_same_share():
    assert chance_by(8.0, FINISH_MS, LEVELS) == pytest.approx(1 - 0.001)  # from 4 to 6 ms, 0.1 became 0.01
    assert chance_by(10.0, FINISH_MS, LEVELS) == pytest.approx(1 - 0.0001)


def test_flat_tail_of_few_samples_is_not_taken_for_certainty():
    assert 0.99 < chance_by(6.1, [1.0, 2.0, 6.0, 6.0], LEVELS) < 0.999


@given(finish_ms=finishes, slack_ms=st.floats(-10, 300), more_ms=st.floats(0, 100))
def test_chance_is_a_probability_that_never_falls_with_time(finish_ms, slack_ms, more_ms):
    sooner, later = chance_by(slack_ms, finish_ms, LEVELS), chance_by(slack_ms + more_ms, finish_ms, LEVELS)
    assert 0 <= sooner <= later <= 1


@given(level=st.floats(0.001, 0.9999), gaps=st.lists(st.floats(0.1, 10), min_size=4, max_size=4))
def test_quantile_is_the_inverse_of_chance(level, gaps):
    finish_ms = np.cumsum(gaps).tolist()
    assert chance_by(quantile(level, finish_ms, LEVELS), finish_ms, LEVELS) == pytest.approx(level)


@pytest.mark.parametrize("at", range(4))
def test_quantile_at_a_level_is_what_was_given(at):
    assert quantile(LEVELS[at], FINISH_MS, LEVELS) == FINISH_MS[at]


class Own:
    """A rule that says nothing but whether it is sure."""

    def is_sure(self, evidence):
        return False


def test_way_ends_at_the_nearest_exit_of_the_same_path():
    assert way_to(Step(0, 3, 0.5), offered_after(0), Own()) == Step(0, 1, 0.5)
    assert way_to(Step(3, 4, 0.5), offered_after(2, 0.5), Own()) == Step(3, 3, 0.5)


NEVER_AT_FIRST = (inf, 0.9, inf)


@pytest.mark.parametrize(
    "rule, depths",
    [
        (None, [4]),
        (Own(), [1, 2, 3, 4]),
        (ExitRule(0.9), [1, 2, 3, 4]),
        (ExitRule(inf), [4]),
        (ExitRule(NEVER_AT_FIRST), [2, 4]),
        (PatienceRule((inf, 2, inf)), [1, 2, 4]),
        (PatienceRule(2), [1, 2, 3, 4]),
        (PatienceRule(inf), [4]),
        (RulePerWay({(0.5, "fp32"): ExitRule(NEVER_AT_FIRST)}), [2, 4]),
        (RulePerWay({(0.5, "fp32"): Own()}), [1, 2, 3, 4]),
        (RulePerWay({(1.0, "fp32"): ExitRule(0.9)}), [4]),
    ],
)
def test_exits_that_a_rule_does_not_look_at_are_passed_over(rule, depths):
    target = Step(0, 4, 0.5)
    way = walk(target, rule)
    assert [step.depth for step in way] == depths
    for step, before in zip(way, [0, *depths], strict=False):
        assert way_to(target, offered_after(before, 0.5 if before else None), rule) == step
        target = target._replace(first=step.depth + 1)


@pytest.mark.parametrize("rule, way", [(None, Step(0, 3, 0.5)), (ExitRule(0.9), Step(0, 1, 0.5))])
def test_way_is_one_span_unless_a_rule_may_stop_it(rule, way):
    assert way_to(Step(0, 3, 0.5), offered_after(0), rule) == way
