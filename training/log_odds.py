"""Calibration of predicted log-odds."""

import numpy as np
from numpy.typing import NDArray

from ..policies.scores import probabilities

_STEPS, _SHRINK = 30, 1e-2  # Newton's; shrinking keeps numbers finite where one sign of the log-odds is always right


def fit_log_odds(odds: NDArray[np.floating], right: NDArray[np.floating]) -> tuple[float, float]:
    """Slope, at least 0, and offset that make sigmoid(slope · odds + offset) likeliest for what came out.

    Args:
        odds: (samples,) log-odds that were predicted of something.
        right: (samples,) whether it was so, 0 or 1.

    Raises:
        ValueError: the shapes don't fit, or there are no samples.

    Reference: Platt, Probabilistic Outputs for Support Vector Machines, 1999.
    """
    if odds.ndim != 1 or odds.shape != right.shape or len(odds) == 0:
        raise ValueError(f"odds {odds.shape} and right {right.shape}: expected (samples,) both, one or more")
    known = np.stack([np.asarray(odds, np.float64), np.ones(len(odds))], axis=1)
    found = _newton(known, right, np.array([1.0, 0.0]))
    if found[0] < 0:  # it says less than nothing
        return 0.0, float(_newton(known[:, 1:], right, np.zeros(1))[0])
    return float(found[0]), float(found[1])


def _newton(known: NDArray[np.float64], right: NDArray[np.floating], start: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights of `known`, (samples, weights), drawn a little towards `start`."""
    weights = start.copy()
    for _ in range(_STEPS):
        chance = probabilities(known @ weights)
        gradient = known.T @ (chance - right) + _SHRINK * (weights - start)
        curvature = (known * (chance * (1 - chance))[:, None]).T @ known + _SHRINK * np.eye(len(start))
        step, before = np.linalg.solve(curvature, gradient), _loss(known, right, weights, start)
        while _loss(known, right, weights - step, start) > before and np.abs(step).max() > 1e-9:
            step = step / 2  # far from the minimum a whole one may lead further away
        weights = weights - step
    return weights


def _loss(
    known: NDArray[np.float64], right: NDArray[np.floating], weights: NDArray[np.float64], start: NDArray[np.float64]
) -> float:
    odds = known @ weights
    return float((np.logaddexp(0, odds) - right * odds).sum() + _SHRINK / 2 * ((weights - start) ** 2).sum())
