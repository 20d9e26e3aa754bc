"""The binomial distribution, as far as bounds on rates need it, without SciPy."""

import numpy as np

from .situation import FloatArray


def binomial_cdf(most: int, n: int, p: float) -> FloatArray:
    """Probability of at most k successes in `n` trials, for every k up to `most`.

    Summed in logarithms, from the ratio of each probability to the one before, so that nothing underflows.

    Args:
        most: in 0 … `n`.
        p: of one success, in (0, 1).

    Returns:
        (most + 1,) in [0, 1], never falling.
    """
    k = np.arange(1, most + 1)
    ratios = np.log(n - k + 1) - np.log(k) + np.log(p) - np.log1p(-p)
    logs = n * np.log1p(-p) + np.concatenate([[0.0], np.cumsum(ratios)])
    # beyond the bulk the sum only grows by rounding
    cdf: FloatArray = np.minimum(np.exp(np.logaddexp.accumulate(logs)), 1.0)
    return cdf


def highest_rate(count: int, n: int, level: float = 0.95) -> float:
    """The upper end of what the rate behind `count` of `n` can be, kept with probability `level` at least.

    Args:
        count: in 0 … `n`; where it is `n`, the answer is 1.
        level: in (0, 1).

    Raises:
        ValueError: `count` isn't in 0 … `n`, or `n` isn't positive.

    Reference: Clopper and Pearson, The Use of Confidence or Fiducial Limits, Biometrika 26, 1934.
    """
    if not 0 <= count <= n or n < 1:
        raise ValueError(f"{count} of {n}; give a count from 0 to the number of trials, which is at least 1")
    if count == n:
        return 1.0
    low, high = count / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if binomial_cdf(count, n, middle)[-1] > 1 - level:
            low = middle
        else:
            high = middle
    return high
