"""What `stretto eval` reports: every operating point of a bundle on labelled data, and adaptive execution."""

import time
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..policies.deadline import Deadline
from ..policies.situation import OperatingPoint
from ..runtime.answer import Answer
from ..runtime.bundle import Bundle
from ..runtime.session import Session, load
from ..training.data import CALIBRATION, load_data_as
from ..training.evaluate import accuracy, point_logits

Tell = Callable[[str, int, int], None]
BATCH = 128


def evaluate_bundle(
    path: Path,
    data_path: str,
    splits: tuple[str, ...],
    threads: int,
    confidence: float,
    tell: Tell,
    engine: str = "onnx",
) -> dict[str, Any]:
    """Accuracy, MACs, parameters and latency of every point; accuracy and time when each exit may be sure enough.

    The points are those that the engine runs; their latencies are the profile's, from where the session found one; see
    `stretto profile`.
    """
    opened = Bundle.open(path)
    data, pixels, labels = read_splits(opened, data_path, splits, tell)
    logits = logits_on(opened, pixels, labels, threads, lambda done: tell("evaluating", done, len(labels)), engine)
    with load(path, engine=engine, threads=threads, policy=Deadline(confidence=confidence)) as session:
        return {
            "bundle": path.name,
            "data": data,
            "splits": list(splits),
            "samples": len(labels),
            "profile": session.profile.source,
            "points": [_point(session, point, accuracy(logits[point], labels)) for point in session.points],
            "adaptive": _adaptive(session, pixels, labels, confidence, tell),
        }


def read_splits(
    bundle: Bundle, data_path: str, splits: tuple[str, ...], tell: Tell
) -> tuple[str, NDArray[np.uint8], NDArray[np.int64]]:
    """The data's name, and all images and labels of the splits, as the bundle takes them.

    As much is held out of train as the bundle's training held out, so that "calibration" is what it never saw.
    """
    shape, holdout = bundle.manifest.input.shape, bundle.manifest.provenance.get("holdout", CALIBRATION)
    data = load_data_as(data_path, shape, lambda done, total: tell("reading", done, total), calibration=holdout)
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


def _point(session: Session, point: OperatingPoint, right: float) -> dict[str, Any]:
    record = session.bundle.point(point.width, point.depth, point.precision)
    return {
        "width": point.width,
        "depth": point.depth,
        "precision": point.precision,
        "accuracy": right,
        "macs": record.macs,
        "params": record.params,
        "latency_ms": {"p50": session.profile.whole_way_ms(point, 0.5), "p99": session.profile.whole_way_ms(point)},
    }


def _adaptive(
    session: Session, pixels: np.ndarray, labels: np.ndarray, confidence: float, tell: Tell
) -> dict[str, Any]:
    """One request after the other without a deadline, each stopping at the first exit that is sure enough."""
    right, macs, depths, times_ms = [], [], [], []
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        x = session.prepare(image)
        start = time.perf_counter()
        answer = cast(Answer, session.infer(x))
        times_ms.append((time.perf_counter() - start) * 1e3)
        point = answer.point
        right.append(answer.index == label)
        depths.append(max(answer.exits))
        macs.append(session.bundle.point(point.width, max(answer.exits), point.precision).macs)
        if i % BATCH == 0 or i + 1 == len(labels):
            tell("adaptive", i + 1, len(labels))
    share = float(np.mean(right))
    return {
        "confidence": confidence,
        "accuracy": share,
        "accuracy_error": sqrt(share * (1 - share) / len(right)),
        "macs": float(np.mean(macs)),
        "depth": float(np.mean(depths)),
        "latency_ms": {"mean": float(np.mean(times_ms)), "p50": float(np.median(times_ms))},
    }
