"""Calibration of an exit's scores."""

import numpy as np
from numpy.typing import NDArray


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer], steps: int = 60) -> float:
    """The temperature that makes `softmax(logits / temperature)` most likely for these labels.

    Args:
        logits: (samples, classes) of data that neither training nor test has seen.
        labels: (samples,) class numbers.
        steps: of a golden-section search over log temperature in [log 0.05, log 20], where the loss has one minimum.

    Reference: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    low, high, ratio = np.log(0.05), np.log(20.0), (np.sqrt(5) - 1) / 2
    for _ in range(steps):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        if _loss(logits, labels, np.exp(a)) < _loss(logits, labels, np.exp(b)):
            high = b
        else:
            low = a
    return float(np.exp((low + high) / 2))


def _loss(logits: NDArray[np.floating], labels: NDArray[np.integer], temperature: float) -> float:
    z = np.asarray(logits, dtype=np.float64) / temperature
    z = z - z.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(labels)), labels]))
