"""Areas are exact on what can be computed by hand; a point more never lowers them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stretto.bench.train.statistics import (
    cross_fitted,
    halves,
    mean_accuracy,
    shared_stretch,
    unbeaten,
)

POINTS = st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 1)), min_size=1, max_size=8)
STRETCH = st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(lambda pair: (min(pair), max(pair)))


def area(points, start, end):
    times, accuracies = (np.array(values) for values in zip(*points, strict=True))
    return float(mean_accuracy(times, accuracies, accuracies, start, end))


def noisy_ratio(seed, many, few, samples=300):
    """Ratio of the areas of many and of few points that are alike, right on 0.7 of all but each by chance of its own:
    cross-fitted, and with choice and score on the same samples."""
    right = np.random.default_rng(seed).random((samples, many + few)) < 0.7
    times = np.append(np.linspace(1, 2, many), np.linspace(1, 2, few))
    first, second = (right[half].mean(axis=0) for half in halves(samples))
    sides = slice(many), slice(many, None)
    fitted = [cross_fitted(times[side], first[side], second[side], 1, 2) for side in sides]
    whole = right.mean(axis=0)
    plain = [mean_accuracy(times[side], whole[side], whole[side], 1, 2) for side in sides]
    return fitted[0] / fitted[1], plain[0] / plain[1]


def test_staircase_by_hand():
    points = [(1.0, 0.5), (2.0, 0.8), (3.0, 0.7)]  # the third is beaten
    assert area(points, 1.0, 4.0) == pytest.approx((0.5 + 0.8 * 2) / 3)
    assert area(points, 0.0, 2.0) == pytest.approx(0.5 / 2)  # nothing before the first
    assert area(points, 1.5, 1.5) == 0.5
    assert area(points, 0.5, 0.5) == 0.0
    assert unbeaten([1.0, 2.0, 3.0], [0.5, 0.8, 0.7]) == [True, True, False]


def test_equal_points_leave_each_other_unbeaten():
    assert unbeaten([1.0, 1.0, 1.0], [0.5, 0.5, 0.4]) == [True, True, False]


def test_rows_of_accuracies_are_integrated_each_on_its_own():
    times, accuracies = np.array([2.0, 1.0]), np.array([[0.8, 0.5], [0.1, 0.9]])
    assert mean_accuracy(times, accuracies, accuracies, 1.0, 3.0).tolist() == pytest.approx([0.65, 0.9])


def test_points_chosen_by_one_half_are_scored_on_the_other():
    times = np.array([1.0, 2.0, 3.0])
    first, second = np.array([0.5, 0.9, 0.8]), np.array([0.4, 0.3, 0.6])
    assert mean_accuracy(times, first, second, 1.0, 4.0) == pytest.approx((0.4 + 0.3 + 0.3) / 3)
    assert mean_accuracy(times, second, first, 1.0, 4.0) == pytest.approx((0.5 + 0.5 + 0.8) / 3)
    assert cross_fitted(times, first, second, 1.0, 4.0) == pytest.approx((1.0 + 1.8) / 6)


def test_of_points_equal_by_the_choosing_half_the_faster_one_is_kept():
    times, choosing, scoring = np.array([2.0, 1.0]), np.array([0.5, 0.5]), np.array([0.9, 0.2])
    assert mean_accuracy(times, choosing, scoring, 1.0, 3.0) == pytest.approx(0.2)


@pytest.mark.parametrize("samples", [2, 713, 10_000])
def test_halves_share_no_sample_and_leave_out_none(samples):
    first, second = halves(samples)
    assert sorted([*first, *second]) == list(range(samples)) and len(first) - len(second) in (0, 1)
    assert (halves(samples)[0] == first).all()


def test_many_points_gain_nothing_by_chance_over_few():
    ratios = np.array([noisy_ratio(seed, many=16, few=2) for seed in range(400)])
    mean, error = ratios.mean(axis=0), ratios.std(axis=0, ddof=1) / np.sqrt(len(ratios))
    assert abs(mean[0] - 1) < 3 * error[0] < 0.01
    assert mean[1] - 1 > 10 * error[1]  # which is what choosing and scoring on the same samples would give


@given(st.permutations(range(6)), st.integers(0, 1000))
def test_equal_points_in_any_order_give_a_ratio_of_exactly_one_on_every_resample(turned, seed):
    rng = np.random.default_rng(seed)
    times, first, second = rng.random(6), rng.random((5, 6)), rng.random((5, 6))
    stretch = shared_stretch(times, times[turned])
    ours = cross_fitted(times, first, second, *stretch)
    theirs = cross_fitted(times[turned], first[:, turned], second[:, turned], *stretch)
    assert ours.shape == (5,) and (ours / theirs == 1).all()


@given(POINTS, POINTS, STRETCH)
def test_more_points_never_lower_the_area(points, more, stretch):
    assert area(points + more, *stretch) >= area(points, *stretch) - 1e-12


@given(POINTS, STRETCH)
def test_area_is_that_of_the_unbeaten_points_and_lies_between_none_and_all(points, stretch):
    times, accuracies = zip(*points, strict=True)
    kept = [point for point, flag in zip(points, unbeaten(times, accuracies), strict=True) if flag]
    assert area(kept, *stretch) == pytest.approx(area(points, *stretch), abs=1e-9)
    assert -1e-12 <= area(points, *stretch) <= max(accuracies) + 1e-12


@given(POINTS, st.randoms())
def test_equal_curves_have_equal_areas_on_their_shared_stretch(points, random):
    turned = random.sample(points, len(points))
    times = np.array([time for time, _ in points])
    stretch = shared_stretch(times, times)
    assert stretch == (times.min(), times.max())
    assert area(points, *stretch) == pytest.approx(area(turned, *stretch))


def test_shared_stretch_is_from_where_both_answer_to_the_slowest_point():
    assert shared_stretch(np.array([1.0, 4.0]), np.array([2.0, 3.0])) == (2.0, 4.0)
