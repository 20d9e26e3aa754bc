"""What early exiting would have answered on samples whose exits are all known, and what that loses."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .exits import ThresholdRule
from .scores import highest_score
from .situation import Evidence, FloatArray, OperatingPoint

IntArray = NDArray[np.integer]


def certainties(rule: ThresholdRule, logits: Sequence[FloatArray], temperatures: Sequence[float]) -> FloatArray:
    """(samples, exits) how sure each exit is by the rule itself, when it looks at every exit in turn.

    Args:
        logits: of each exit by depth, (samples, classes).
        temperatures: of each exit.
    """
    exits = [
        [Evidence(OperatingPoint(1.0, depth), row, temperature, *highest_score(row, temperature), 0.0) for row in rows]
        for depth, (rows, temperature) in enumerate(zip(logits, temperatures, strict=True), start=1)
    ]
    paths = list(zip(*exits, strict=True))
    return np.array([[rule.certainty(path[:depth]) for depth in range(1, len(path) + 1)] for path in paths])


def stop_depths(certainty: FloatArray, thresholds: FloatArray) -> IntArray:
    """Where each sample stops under each threshold, when every exit is looked at in turn, as `ThresholdRule` does.

    Args:
        certainty: (samples, exits) of the exits by depth; the final exit's is not looked at.
        thresholds: (thresholds,), or (thresholds, exits − 1) with one for each exit but the final.

    Returns:
        (samples, thresholds) depth from 1, the final exit's where no exit before it is sure.

    Raises:
        ValueError: the shapes don't fit.
    """
    thresholds = np.asarray(thresholds)
    per_exit = thresholds[:, None] if thresholds.ndim == 1 else thresholds
    exits = certainty.shape[-1]
    if certainty.ndim != 2 or per_exit.ndim != 2 or per_exit.shape[1] not in (1, exits - 1):
        raise ValueError(
            f"certainty {certainty.shape} and thresholds {thresholds.shape}: "
            "expected (samples, exits) and (thresholds,) or (thresholds, exits - 1)"
        )
    final = np.ones((len(certainty), len(thresholds), 1), dtype=bool)
    sure = np.concatenate([certainty[:, None, :-1] >= per_exit, final], axis=2)
    depths: IntArray = sure.argmax(axis=2) + 1
    return depths


def early_labels(labels: IntArray, depths: IntArray) -> IntArray:
    """What is answered at these depths: (samples, thresholds).

    Args:
        labels: (samples, exits) each exit's most probable class.
        depths: (samples, thresholds) as `stop_depths` gives them.
    """
    return np.take_along_axis(labels, depths - 1, axis=1)


def disagreement(early: IntArray, full: IntArray) -> NDArray[np.bool_]:
    """(samples, thresholds): whether the early answer differs from the full network's; needs no true labels.

    Args:
        early: (samples, thresholds) labels as `early_labels` gives them, of any width and precision.
        full: (samples,) labels of the reference: the final exit at full width in fp32.
    """
    return early != full[:, None]


def accuracy_gap(early: IntArray, full: IntArray, truth: IntArray) -> NDArray[np.int8]:
    """(samples, thresholds): 1 where only the full network is right, −1 where only the early answer is, else 0.

    Its mean is the accuracy that early exiting loses. `early`, `full`: as in `disagreement`; `truth`: (samples,).
    """
    return (early != truth[:, None]).astype(np.int8) - (full != truth).astype(np.int8)[:, None]
