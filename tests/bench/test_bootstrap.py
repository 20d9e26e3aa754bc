"""Resamples are paired, all different, and as wide as theory says; intervals hold what they promise."""

import numpy as np
import pytest
from stretto.bench import bootstrap
from stretto.bench.bootstrap import RESAMPLES, interval, resample, resampled_ratio


def test_resampled_accuracies_spread_as_a_share_of_that_many_samples_does():
    right = np.random.default_rng(0).random((400, 1)) < 0.8
    found = resample(right)
    share = right.mean()
    assert found.shape == (RESAMPLES, 1)
    assert found.mean() == pytest.approx(share, abs=1e-3)
    assert found.std() == pytest.approx(np.sqrt(share * (1 - share) / 400), rel=0.03)


def test_points_of_a_resample_are_of_the_same_draw():
    right = np.random.default_rng(0).random((200, 1)) < 0.5
    found = resample(np.hstack([right, right, ~right]), 100)
    assert (found[:, 0] == found[:, 1]).all()
    assert found[:, 0] + found[:, 2] == pytest.approx(np.ones(100))


def test_blocks_of_draws_are_as_many_as_asked_and_all_different(monkeypatch):
    monkeypatch.setattr(bootstrap, "_CELLS", 250)
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


def test_resampled_ratio_is_of_sums_and_pairs_stay_together():
    ours = np.array([1.0, 10.0, 100.0])
    assert resampled_ratio(ours, 2 * ours) == pytest.approx(np.full(RESAMPLES, 0.5))
    found = set(np.round(resampled_ratio(np.array([1.0, 3.0]), np.array([2.0, 2.0])), 6))
    assert found == {0.5, 1.0, 1.5}
