"""Figures on tests drawn anew from one test's samples (bootstrap, Efron 1979), and their intervals."""

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
