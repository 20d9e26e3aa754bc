"""Every operating point of a supernet and of its controls: what it answers on the test, and what it takes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...policies.situation import OperatingPoint
from ...runtime.bundle import Bundle
from ...runtime.engines import make_engine
from ...runtime.manifest import PointRecord
from ...training.evaluate import accuracy
from ..evaluate import logits_on, read_splits
from ..report import FloatArray, interleaved
from .jobs import Job

Tell = Callable[[str, int, int], None]
Key = tuple[str, OperatingPoint]  # a job's name and a point of its bundle
CALLS = 5  # of a point in each round


@dataclass(frozen=True, slots=True)
class MeasuredPoint:
    """A point of a job's bundle.

    `width`: as a share of the original network, so of a control the width that it was trained at; `record`: what the
    bundle says; `right`: (samples,) whether the answer to each test sample is right; `ms`: (rounds, calls) of the
    whole way from the input to this exit in one go, one sample, one thread.
    """

    job: str
    width: float
    depth: int
    record: PointRecord
    right: NDArray[np.bool_]
    ms: FloatArray

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def median_ms(self) -> float:
        return float(np.median(self.ms))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        lower, median, upper = (float(value) for value in np.quantile(self.ms, (0.25, 0.5, 0.75)))
        return {
            "job": self.job,
            "width": self.width,
            "depth": self.depth,
            "precision": self.record.precision,
            "accuracy": self.accuracy,
            "macs": self.record.macs,
            "params": self.record.params,
            "ms": {"median": median, "p25": lower, "p75": upper},
        }


@dataclass(frozen=True, slots=True)
class Committed:
    """A supernet's bundle as the repository has it.

    off_points: how far its own accuracies are off at most. measured: whether it is the job's bundle.
    """

    path: Path
    sha256: str
    off_points: float
    measured: bool


def measure_committed(path: Path, job: Job, data: str, tell: Tell) -> Committed:
    """Answers the job's test by that file, as `stretto eval` does, and compares with what the file says."""
    bundle = Bundle.open(path)
    _, pixels, labels = read_splits(bundle, data, job.splits, tell)
    logits = logits_on(bundle, pixels, labels, progress=lambda done: tell("committed", done, len(labels)))
    off = max(abs(accuracy(z, labels) - bundle.point(*point).accuracy) for point, z in logits.items())
    return Committed(path, bundle.sha256, 100 * off, bundle.sha256 == Bundle.open(job.bundle).sha256)


def measure_points(jobs: Sequence[Job], data: str, rounds: int, tell: Tell) -> list[MeasuredPoint]:
    """All points of all jobs' bundles, answered and timed by the compiled graphs; `data`: as `load_data` takes it."""
    bundles = {job.name: Bundle.open(job.bundle) for job in jobs}
    right = _right_answers(jobs, bundles, data, tell)
    times = _times(bundles, rounds, tell)
    return [_measured(job, bundles[job.name], point, right[job.name, point], times[job.name, point])
            for job in jobs for point in _points(bundles[job.name])]  # fmt: skip


def _points(bundle: Bundle) -> list[OperatingPoint]:
    return [record.point for record in bundle.manifest.points]


def _measured(
    job: Job, bundle: Bundle, point: OperatingPoint, right: NDArray[np.bool_], ms: FloatArray
) -> MeasuredPoint:
    width = point.width if job.width is None else job.width
    return MeasuredPoint(job.name, width, point.depth, bundle.point(*point), right, ms)


def _right_answers(
    jobs: Sequence[Job], bundles: Mapping[str, Bundle], data: str, tell: Tell
) -> dict[Key, NDArray[np.bool_]]:
    """(samples,) of every point, over the splits in their order."""
    _, pixels, labels = read_splits(bundles[jobs[0].name], data, jobs[0].splits, tell)
    right: dict[Key, NDArray[np.bool_]] = {}
    for done, (name, bundle) in enumerate(bundles.items(), start=1):
        logits = logits_on(bundle, pixels, labels)
        right |= {(name, point): z.argmax(axis=1) == labels for point, z in logits.items()}
        tell("evaluating", done, len(bundles))
    return right


def _times(bundles: Mapping[str, Bundle], rounds: int, tell: Tell) -> dict[Key, FloatArray]:
    """Milliseconds of every point of all bundles side by side, as `interleaved` gives them."""
    with ExitStack() as stack:
        tasks: dict[Key, Callable[[], object]] = {}
        for name, bundle in bundles.items():
            engine = stack.enter_context(closing(make_engine("onnx", bundle)))
            shape = (1, *bundle.manifest.input.shape)
            x = np.random.default_rng(0).standard_normal(shape, np.float32)
            tasks |= {(name, point): partial(engine.run, point.whole_way, x) for point in _points(bundle)}
        return interleaved(tasks, rounds, CALLS, tell=lambda done, total: tell("timing", done, total))
