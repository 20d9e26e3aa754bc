"""Figures of operating points on one test: intervals over its samples, and accuracy against time as one number."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
RESAMPLES = 10_000
_CELLS = 4_000_000  # of one block of draws: 32 MB


def resample(right: NDArray[np.bool_], resamples: int = RESAMPLES, seed: int = 0) -> FloatArray:
    """Accuracies on tests drawn anew from this one's samples, with replacement (bootstrap, Efron 1979).

    Args:
        right: (samples, points): whether each point answers each sample rightly.

    Returns:
        (resamples, points), each in [0, 1]. All points of a row are of the same draw, so what is computed from one
        row's points is paired.
    """
    samples, rng = len(right), np.random.default_rng(seed)
    hits, block = right.astype(np.float32), max(1, _CELLS // samples)
    parts = [_drawn(rng, min(block, resamples - done), samples) @ hits for done in range(0, resamples, block)]
    return np.concatenate(parts).astype(np.float64) / samples


def _drawn(rng: np.random.Generator, draws: int, samples: int) -> NDArray[np.float32]:
    """(draws, samples) how often each sample is in each draw; float32 counts exactly to 2^24."""
    chosen = rng.integers(samples, size=(draws, samples)) + samples * np.arange(draws)[:, None]
    return np.bincount(chosen.ravel(), minlength=draws * samples).reshape(draws, samples).astype(np.float32)


def resampled_ratio(ours: FloatArray, theirs: FloatArray, resamples: int = RESAMPLES, seed: int = 0) -> FloatArray:
    """(resamples,) ratios of the two sums over pairs, (pairs,) each, that are drawn anew with replacement."""
    drawn = np.random.default_rng(seed).integers(len(ours), size=(resamples, len(ours)))
    ratios: FloatArray = ours[drawn].sum(axis=1) / theirs[drawn].sum(axis=1)
    return ratios


def interval(resampled: FloatArray) -> dict[str, float]:
    """Median and 95 % interval (percentiles) of a figure over resamples, and their count, named as `spread` does."""
    low, median, high = (float(value) for value in np.quantile(resampled, (0.025, 0.5, 0.975)))
    return {"median": median, "low": low, "high": high, "count": len(resampled)}


def unbeaten(times_ms: Sequence[float], accuracies: Sequence[float]) -> list[bool]:
    """Of each point, whether no other is at least as fast and as accurate, and better in one of the two."""
    points = list(zip(times_ms, accuracies, strict=True))
    return [
        not any(t <= time and a >= accuracy and (t, a) != (time, accuracy) for t, a in points)
        for time, accuracy in points
    ]


def halves(samples: int, seed: int = 0) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """The samples' numbers in two halves drawn by `seed`, the first one larger where the count is odd."""
    shuffled = np.random.default_rng(seed).permutation(samples)
    return shuffled[::2], shuffled[1::2]


def cross_fitted(
    times_ms: FloatArray, first: FloatArray, second: FloatArray, start_ms: float, end_ms: float
) -> FloatArray:
    """`mean_accuracy` where points are chosen on one half of the test and scored on the other, the mean of both ways.

    Chosen on the samples that score it, the best of several points is better by chance than it is, the more so the
    more points there are; so a side would gain by having many.

    Args:
        times_ms: (points,). first, second: (…, points) accuracies on each half.

    Returns:
        (…), each in [0, 1].
    """
    one_way = mean_accuracy(times_ms, first, second, start_ms, end_ms)
    return (one_way + mean_accuracy(times_ms, second, first, start_ms, end_ms)) / 2


def mean_accuracy(
    times_ms: FloatArray, choosing: FloatArray, scoring: FloatArray, start_ms: float, end_ms: float
) -> FloatArray:
    """Mean over the time t, from `start_ms` to `end_ms`, of the accuracy of the best point that takes at most t.

    It is the area under a staircase over the length of the stretch. Before the fastest point there is no answer, so
    accuracy 0; where start and end are the same time, the mean is what holds there.

    Args:
        times_ms: (points,). choosing, scoring: (…, points), such as one row a resample: accuracies by which a point is
            the best, the faster one of equals, and those which count.

    Returns:
        (…), each in [0, 1].
    """
    order = np.argsort(times_ms, kind="stable")
    kept = _kept(choosing[..., order], scoring[..., order])
    if start_ms == end_ms:
        at = int((times_ms <= start_ms).sum())
        return kept[..., at - 1] if at else np.zeros(kept.shape[:-1])
    edges = np.append(np.clip(times_ms[order], start_ms, end_ms), end_ms)
    area: FloatArray = kept @ np.diff(edges)
    return area / (end_ms - start_ms)


def _kept(choosing: FloatArray, scoring: FloatArray) -> FloatArray:
    """(…, points) of the first so many points the score of the best, the first one of equals."""
    best = np.maximum.accumulate(choosing, axis=-1)
    better = np.insert(choosing[..., 1:] > best[..., :-1], 0, True, axis=-1)
    at = np.maximum.accumulate(np.where(better, np.arange(choosing.shape[-1]), 0), axis=-1)
    return np.take_along_axis(scoring, at, axis=-1)


def shared_stretch(times_ms: FloatArray, others_ms: FloatArray) -> tuple[float, float]:
    """Where both sides have an answer and one of them still gets better: from the slower one of their fastest points
    to the slower one of their slowest; milliseconds."""
    return float(max(times_ms.min(), others_ms.min())), float(max(times_ms.max(), others_ms.max()))
