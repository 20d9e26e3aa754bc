"""Is a mean loss at most so much? Tests that say yes wrongly with a stated probability at most, one for each column."""

from math import e, log

import numpy as np
from numpy.typing import NDArray

from .binomial import binomial_cdf
from .situation import FloatArray

BoolArray = NDArray[np.bool_]


def binomial_p(losses: FloatArray, epsilon: float) -> FloatArray:
    """(thresholds,) p-values of "the risk is above `epsilon`"; `losses`: (samples, thresholds), each 0 or 1."""
    counts = losses.sum(axis=0).astype(int)
    return binomial_cdf(int(counts.max()), len(losses), epsilon)[counts]


def hoeffding_bentkus_p(losses: FloatArray, epsilon: float) -> FloatArray:
    """(thresholds,) p-values of "the risk is above `epsilon`"; `losses`: (samples, thresholds), each in [0, 1].

    Reference: Bates et al., Distribution-Free, Risk-Controlling Prediction Sets, JACM 2021.
    """
    n, sums = len(losses), losses.sum(axis=0)
    counts = np.ceil(sums).astype(int)
    bentkus = e * binomial_cdf(int(counts.max()), n, epsilon)[counts]
    mean = np.minimum(sums / n, epsilon)
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.where(mean > 0, mean * np.log(mean / epsilon), 0.0)
    divergence = first + (1 - mean) * np.log((1 - mean) / (1 - epsilon))
    p_values: FloatArray = np.minimum(np.minimum(bentkus, np.exp(-n * divergence)), 1.0)
    return p_values


def bets_pass(losses: FloatArray, epsilon: float, delta: float) -> BoolArray:
    """(thresholds,) whether the upper confidence bound by betting is at most `epsilon`.

    The bound is where the capital of bets against a risk reaches 1 / δ, and capital rises with that risk; so it is at
    most ε where bets against ε get there. Losses are at most 1, and may be as negative as they like.

    Reference: Waudby-Smith and Ramdas, Estimating Means of Bounded Random Variables by Betting, JRSS B 2024; the bets
    are those that Bates et al., as above, take from it.
    """
    goal, n = -log(delta), len(losses)
    # a data set sorted by class would not be drawn anew from one sample to the next
    x = losses[np.random.default_rng(0).permutation(n)]
    seen = np.arange(2, n + 2)[:, None]
    mean = (0.5 + x.cumsum(axis=0)) / seen
    variance = (0.25 + ((x - mean) ** 2).cumsum(axis=0)) / seen
    before = np.concatenate([np.full((1, x.shape[1]), 0.25), variance[:-1]])
    bets = np.minimum(1.0, np.sqrt(2 * goal / (n * before)))
    passes: BoolArray = np.log1p(bets * (epsilon - x)).cumsum(axis=0).max(axis=0) >= goal
    return passes
