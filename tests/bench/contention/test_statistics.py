"""Hindsight, foresight and intervals, on made-up rounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from stretto.bench.contention.statistics import (
    BLOCK_ROUNDS,
    Outcome,
    Resampled,
    best_in_hindsight,
    best_of_phases,
    clairvoyant,
    ratio,
)


def outcome(late: list[list[int]], right: list[list[int]]) -> Outcome:
    """Whose test is the round's own sample."""
    return Outcome.of(np.array(late, bool), np.array(right, bool), 1.0 - np.array(right))


def test_late_answer_fails_even_if_it_is_right() -> None:
    made = Outcome.of(np.array([True, True, False, False]), np.array([True, False, True, False]), np.full(4, 0.1))
    assert made.failed.tolist() == [True, True, False, True]
    assert made.expected.tolist() == [1.0, 1.0, 0.1, 0.1]


def test_best_in_hindsight_is_chosen_anew_in_each_group() -> None:
    points = outcome([[0, 0]] * 4, [[1, 0], [1, 0], [0, 1], [0, 1]])
    assert best_in_hindsight(["calm", "calm", "busy", "busy"], points).tolist() == [0, 0, 1, 1]
    assert points.pick(best_in_hindsight(["calm", "calm", "busy", "busy"], points)).failed.sum() == 0


def test_of_points_that_fail_as_often_the_one_less_often_late_is_chosen() -> None:
    assert best_in_hindsight("aa", outcome([[1, 0], [0, 0]], [[1, 0], [1, 1]])).tolist() == [1, 1]


@settings(max_examples=50, deadline=None)
@given(arrays(bool, (12, 3)), arrays(bool, (12, 3)), arrays(np.int64, 12, elements=st.integers(0, 2)))
def test_finer_groups_never_fail_more_often(late: np.ndarray, right: np.ndarray, phases: np.ndarray) -> None:
    points = Outcome.of(late, right, 1.0 - right)
    coarse = points.pick(best_in_hindsight([0] * 12, points)).failed.sum()
    fine = points.pick(best_in_hindsight(phases.tolist(), points)).failed.sum()
    assert fine <= coarse == points.failed.sum(axis=0).min()


def test_best_of_phases_is_chosen_by_rounds_of_other_deadlines_too() -> None:
    reached = np.array([[4.0, 1.0], [9.0, 1.0], [9.0, 1.0], [9.0, 1.0]])
    deadline, error = np.array([5.0, 20.0, 20.0, 5.0]), np.array([0.1, 0.5])
    chosen = best_of_phases(["calm", "calm", "calm", "busy"], deadline, reached, error)
    assert chosen.tolist() == [1, 0, 0, 1]  # by its own round alone, the first would be 0, which was lucky
    assert best_in_hindsight([0, 1, 1, 2], Outcome.of(reached > deadline[:, None], reached < 0, error))[0] == 0


def test_clairvoyant_takes_the_most_accurate_exit_reached_in_time_and_is_late_where_there_is_none() -> None:
    reached = np.array([[1.0, 3.0, 2.0], [1.0, 9.0, 2.0], [6.0, 9.0, 7.0]])
    chosen = clairvoyant(reached, np.full(3, 5.0), np.array([0.5, 0.9, 0.7]))
    assert chosen.tolist() == [1, 2, -1]
    picked = Outcome.of(reached > 5.0, np.ones((3, 3), bool), np.zeros((3, 3))).pick(chosen)
    assert picked.late.tolist() == picked.failed.tolist() == [False, False, True]


def test_ratio_is_of_the_counts_and_its_interval_holds_it() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.random(2000) < 0.2
    ours = theirs & (rng.random(2000) < 0.5)
    resampled = Resampled.of([row // 50 for row in range(2000)], ["a" if row < 1000 else "b" for row in range(2000)])
    found = ratio(ours, theirs, resampled)
    assert found is not None and found.interval is not None and found.value == ours.sum() / theirs.sum()
    assert found.interval["low"] < found.value < found.interval["high"]
    assert found.interval["high"] - found.interval["low"] < 0.2


def test_ratio_of_a_thing_to_itself_has_no_width_and_to_what_never_happened_is_none() -> None:
    resampled = Resampled.of([0] * 400, ["a"] * 400)
    flags = np.arange(400) % 2 == 0
    found = ratio(flags, flags, resampled)
    assert found is not None and found.interval is not None
    assert (found.interval["low"], found.value, found.interval["high"]) == (1.0, 1.0, 1.0)
    assert ratio(flags, np.zeros(400, bool), resampled) is None


def test_blocks_end_with_their_visit_and_every_environment_keeps_its_share() -> None:
    count = BLOCK_ROUNDS + 5
    resampled = Resampled.of([0] * count + [1] * count, ["a"] * count + ["b"] * count)
    assert np.bincount(resampled.member).tolist() == [BLOCK_ROUNDS, 5, BLOCK_ROUNDS, 5]
    assert set(resampled.weights[:, :2].sum(axis=1)) == set(resampled.weights[:, 2:].sum(axis=1)) == {2.0}


def test_interval_of_rounds_that_come_in_runs_is_wider_than_of_the_same_rounds_shuffled() -> None:
    runs = np.arange(1000) // BLOCK_ROUNDS % 5 == 0
    shuffled = np.random.default_rng(0).permutation(runs)
    resampled, every = Resampled.of([0] * 1000, ["a"] * 1000), np.ones(1000, bool)
    wide, narrow = (ratio(flags, every, resampled) for flags in (runs, shuffled))
    assert wide is not None and wide.interval is not None and narrow is not None and narrow.interval is not None
    assert wide.interval["high"] - wide.interval["low"] > 2 * (narrow.interval["high"] - narrow.interval["low"])


@pytest.mark.parametrize("chosen", [[0, 1, -1]])
def test_pick_reads_each_round_its_own_point(chosen: list[int]) -> None:
    points = outcome([[0, 1], [1, 0], [0, 0]], [[1, 1], [1, 1], [1, 1]])
    assert points.pick(np.array(chosen)).late.tolist() == [False, False, True]


def test_few_rounds_have_a_ratio_but_no_interval() -> None:
    found = ratio(np.ones(30), np.full(30, 0.5), Resampled.of([0] * 30, ["a"] * 30))
    assert found is not None and (found.value, found.interval) == (2.0, None)


def test_chosen_by_what_is_expected_not_by_luck() -> None:
    lucky = Outcome(np.zeros((2, 2), bool), np.array([[False, True]] * 2), np.array([[0.4, 0.1]] * 2))
    assert best_in_hindsight("aa", lucky).tolist() == [1, 1]
