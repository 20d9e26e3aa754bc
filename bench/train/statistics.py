"""Accuracy of operating points against their time, as one number."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]


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
