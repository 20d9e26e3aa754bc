"""From logits to calibrated probabilities: all of them where somebody looks at them, the highest one always."""

from math import exp, log

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

_FEW = 64  # classes
_SURE = 30.0  # log-odds beyond which nothing changes
_FAR = -1e3  # temperatures below the highest logit, where a probability is 0 and its logarithm still a number


def calibrated_scores(logits: FloatArray, temperature: float = 1.0) -> FloatArray:
    """Softmax of `logits` (…, classes) at a temperature > 0: probabilities, same shape and dtype, summing to 1.

    Reference: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    # the largest becomes 0: exp can't overflow
    scores = np.exp((logits - logits.max(axis=-1, keepdims=True)) / logits.dtype.type(temperature))
    return scores / scores.sum(axis=-1, keepdims=True)


def probabilities(odds: FloatArray) -> FloatArray:
    """Of log-odds, any shape."""
    chances: FloatArray = 1 / (1 + np.exp(-np.clip(odds, -_SURE, _SURE)))
    return chances


def highest_score(logits: FloatArray, temperature: float) -> tuple[int, float]:
    """Of one sample, (classes,): which of its `calibrated_scores` is highest, and that one."""
    if len(logits) > _FEW:
        top = int(logits.argmax())
        return top, float(1 / np.exp((logits - logits[top]) / temperature).sum())
    # a few numbers are quicker without NumPy's calls, and without a function of their own as comprehensions are, whose
    # code is out of the cache after every step
    values = logits.tolist()
    highest, total = max(values), 0.0
    for value in values:
        total += exp((value - highest) / temperature)
    return values.index(highest), 1 / total


def runner_up(logits: FloatArray) -> float:
    """Of one sample, (classes,) of two or more: the second highest logit, which may equal the highest."""
    if len(logits) > _FEW:
        return float(np.partition(logits, -2)[-2])
    return float(sorted(logits.tolist())[-2])


def entropy(logits: FloatArray, temperature: float) -> float:
    """Of one sample's `calibrated_scores`, in nats: 0 when one class is certain, log(classes) when all are alike."""
    if len(logits) > _FEW:
        below = np.maximum((logits - logits.max()) / temperature, _FAR)
        weights = np.exp(below)
        return log(weights.sum()) - float((weights * below).sum() / weights.sum())
    values = logits.tolist()
    highest = max(values)
    falls = [max((value - highest) / temperature, _FAR) for value in values]
    shares = [exp(fall) for fall in falls]
    return log(sum(shares)) - sum([share * fall for share, fall in zip(shares, falls, strict=True)]) / sum(shares)
