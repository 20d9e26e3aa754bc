"""What every operating point of a bundle answers on labelled data, by the compiled graphs that users run."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ..policies.situation import OperatingPoint, Step
from ..runtime.bundle import Bundle
from ..runtime.engines import Engine, make_engine, runnable
from ..runtime.manifest import Manifest
from .data import CALIBRATION, Data, load_data_as

Batch = tuple[NDArray[np.float32], NDArray[np.int64]]
Tell = Callable[[str, int, int], None]
BATCH = 128


def read_data(bundle: Bundle, data_path: str, tell: Tell) -> Data:
    """The data as the bundle takes it.

    As much is held out of train as the bundle's training held out, so that "calibration" is what it never saw.
    """
    shape, holdout = bundle.manifest.input.shape, bundle.manifest.provenance.get("holdout", CALIBRATION)
    return load_data_as(data_path, shape, lambda done, total: tell("reading", done, total), calibration=holdout)


def read_splits(
    bundle: Bundle, data_path: str, splits: Sequence[str], tell: Tell
) -> tuple[str, NDArray[np.uint8], NDArray[np.int64]]:
    """The data's name, and all images and labels of the splits, as `read_data` gives them."""
    data = read_data(bundle, data_path, tell)
    chosen = [data.split(name) for name in splits]
    return data.name, np.concatenate([split.x for split in chosen]), np.concatenate([split.y for split in chosen])


def logits_on(
    bundle: Bundle,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
    engine: str = "onnx",
) -> dict[OperatingPoint, NDArray[np.float32]]:
    """Every point's logits, (samples, classes), for images that `read_splits` gave."""
    prepare, starts = bundle.manifest.input.prepare, range(0, len(pixels), BATCH)
    batches = ((prepare(pixels[i : i + BATCH]), labels[i : i + BATCH]) for i in starts)
    return point_logits(bundle, batches, engine=engine, threads=threads, progress=progress)[0]


def point_logits(
    bundle: Bundle,
    batches: Iterable[Batch],
    *,
    engine: str = "onnx",
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[OperatingPoint, NDArray[np.float32]], NDArray[np.int64]]:
    """Every point's logits, (samples, classes), and the labels, (samples,), in the batches' order.

    Exits of one width come from one pass through it; precisions that the engine can't run are left out. `progress`
    is told how many samples are done.

    Raises:
        ValueError: there is no data, or it isn't what the bundle takes and answers.
    """
    found: dict[OperatingPoint, list[NDArray[np.float32]]] = {}
    labels: list[NDArray[np.int64]] = []
    runner = make_engine(engine, bundle, threads)
    manifest = runnable(runner, bundle).manifest
    try:
        for x, y in batches:
            _check(manifest, x, y)
            for width, precision in product(manifest.widths, manifest.precisions):
                for point, logits in _exits(runner, manifest.depths, width, precision, x):
                    found.setdefault(point, []).append(logits)
            labels.append(y)
            if progress is not None:
                progress(sum(map(len, labels)))
    finally:
        runner.close()
    if not labels:
        raise ValueError("there is no data to evaluate on")
    return {point: np.concatenate(parts) for point, parts in found.items()}, np.concatenate(labels)


def _exits(
    runner: Engine, depths: int, width: float, precision: str, x: NDArray[np.float32]
) -> Iterator[tuple[OperatingPoint, NDArray[np.float32]]]:
    features: NDArray[np.float32] | None = x
    for depth in range(1, depths + 1):
        if features is None:
            raise RuntimeError(f"exit {depth - 1} of width {width} gave no features to go on with")
        step = Step(0 if depth == 1 else depth, depth, width, precision)
        logits, features = runner.run(step, features)
        yield step.point, logits


def _check(has: Manifest, x: NDArray[np.float32], y: NDArray[np.int64]) -> None:
    if x.shape[1:] != has.input.shape or y.shape != x.shape[:1]:
        raise ValueError(f"a batch has x {x.shape} and y {y.shape}, expected (n, *{has.input.shape}) and (n,)")
    if y.size and not 0 <= y.min() <= y.max() < len(has.classes):
        raise ValueError(f"labels are {y.min()} to {y.max()}, the bundle has classes 0 to {len(has.classes) - 1}")


def accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of samples, in [0, 1], whose highest logit is their label's."""
    return float((logits.argmax(axis=1) == labels).mean())
