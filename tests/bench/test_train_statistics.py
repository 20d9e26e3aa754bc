"""Intervals are paired and exact on what can be computed by hand; a point more never lowers the area."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stretto.bench import train_statistics
from stretto.bench.train_statistics import interval, mean_accuracy, resample, shared_stretch, unbeaten

POINTS = st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 1)), min_size=1, max_size=8)
STRETCH = st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(lambda pair: (min(pair), max(pair)))


def area(points, start, end):
    times, accuracies = (np.array(values) for values in zip(*points, strict=True))
    return float(mean_accuracy(times, accuracies, start, end))


def test_resampled_accuracies_spread_as_a_share_of_that_many_samples_does():
    right = np.random.default_rng(0).random((400, 1)) < 0.8
    found = resample(right)
    share = right.mean()
    assert found.shape == (train_statistics.RESAMPLES, 1)
    assert found.mean() == pytest.approx(share, abs=1e-3)
    assert found.std() == pytest.approx(np.sqrt(share * (1 - share) / 400), rel=0.03)


def test_points_of_a_resample_are_of_the_same_draw():
    right = np.random.default_rng(0).random((200, 1)) < 0.5
    found = resample(np.hstack([right, right, ~right]), 100)
    assert (found[:, 0] == found[:, 1]).all()
    assert found[:, 0] + found[:, 2] == pytest.approx(np.ones(100))


def test_blocks_of_draws_are_as_many_as_asked_and_all_different(monkeypatch):
    monkeypatch.setattr(train_statistics, "_CELLS", 250)
    right = np.random.default_rng(0).random((100, 2)) < 0.5
    found = resample(right, 7)
    assert found.shape == (7, 2)
    assert len(np.unique(found, axis=0)) > 4
    assert (found == resample(right, 7)).all()


def test_interval_holds_95_of_100_resamples():
    found = interval(np.arange(1001) / 1000)
    assert (found["low"], found["median"], found["high"]) == pytest.approx((0.025, 0.5, 0.975))
    assert found["count"] == 1001


def test_interval_covers_the_true_difference_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        ours = rng.random(150) < 0.8
        theirs = np.where(rng.random(150) < 0.2, rng.random(150) < 0.5, ours)  # right on 0.74 of all
        drawn = resample(np.stack([ours, theirs], axis=1), 400)
        found = interval(drawn[:, 0] - drawn[:, 1])
        covered += found["low"] <= 0.06 <= found["high"]
    assert 180 <= covered <= 199


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
    assert mean_accuracy(times, accuracies, 1.0, 3.0).tolist() == pytest.approx([0.65, 0.9])


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
