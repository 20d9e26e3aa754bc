"""What every operating point of a bundle answers on labelled data, by the compiled graphs that users run."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from ..policies.situation import OperatingPoint, Step
from ..runtime.bundle import Bundle
from ..runtime.engines import make_engine

Batch = tuple[NDArray[np.float32], NDArray[np.int64]]


def point_logits(
    bundle: Bundle,
    batches: Iterable[Batch],
    *,
    engine: str = "onnx",
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[OperatingPoint, NDArray[np.float32]], NDArray[np.int64]]:
    """Every point's logits, (samples, classes), and the labels, (samples,), in the batches' order.

    Exits of one width come from one pass through it. `progress` is told how many samples are done.
    """
    has = bundle.manifest
    found: dict[OperatingPoint, list[NDArray[np.float32]]] = {}
    labels: list[NDArray[np.int64]] = []
    runner = make_engine(engine, bundle, threads)
    try:
        for x, y in batches:
            for width in has.widths:
                for precision in has.precisions:
                    features: NDArray[np.float32] | None = x
                    for depth in range(1, has.depths + 1):
                        if features is None:
                            raise RuntimeError(f"exit {depth - 1} of width {width} gave no features to go on with")
                        step = Step(0 if depth == 1 else depth, depth, width, precision)
                        logits, features = runner.run(step, features)
                        found.setdefault(step.point, []).append(logits)
            labels.append(y)
            if progress is not None:
                progress(sum(map(len, labels)))
    finally:
        runner.close()
    if not labels:
        raise ValueError("there is no data to evaluate on")
    return {point: np.concatenate(parts) for point, parts in found.items()}, np.concatenate(labels)


def accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of samples, in [0, 1], whose highest logit is their label's."""
    return float((logits.argmax(axis=1) == labels).mean())
