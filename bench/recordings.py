"""Recorded times of widths and precisions that run to their final exit, under other people's load.

Each does so exit by exit, and in one graph. Whoever asks sees to order, pauses and load:

    recorder = Recorder(engine, bundle, x, load)
    paths = [recorder.path(route, x, "busy") for route in recorder.routes]
    Recording(tuple(paths)).save(file)
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..policies.load import Load
from ..policies.situation import Step
from ..runtime.bundle import Bundle
from ..runtime.engines import Engine
from ..runtime.handover import SOON
from ..runtime.steps import legs, spans, ways
from ..runtime.thread_clock import thread_clock

_FORMAT = 2
_UNKNOWN = float("nan")


class Route(NamedTuple):
    """How a path goes to its final exit: `in_one` graph, or exit by exit."""

    width: float
    precision: str
    in_one: bool = False


class Leg(NamedTuple):
    """One step of a recorded path; times in milliseconds as in `policies.latency.Ran`, the load at its begin."""

    step: Step
    ran_ms: float
    cpu_ms: float | None
    wall_ms: float
    load: Load


class RecordedPath(NamedTuple):
    """One request that went to its final exit.

    `round`: numbered by whoever asked for it, 0 until then; `phase`: of load, as the bench calls it; `at_s`: since
    recording began.
    """

    round: int
    phase: str
    at_s: float
    legs: tuple[Leg, ...]

    @property
    def whole(self) -> Leg:
        """All of it as one step."""
        first, last = self.legs[0], self.legs[-1]
        cpu_ms = [leg.cpu_ms for leg in self.legs if leg.cpu_ms is not None]
        return Leg(
            last.step._replace(first=first.step.first),
            first.ran_ms,
            sum(cpu_ms) if len(cpu_ms) == len(self.legs) else None,
            sum(leg.wall_ms for leg in self.legs),
            first.load,
        )


@dataclass(frozen=True, slots=True)
class Recording:
    """Paths in the order of time."""

    paths: tuple[RecordedPath, ...]

    def save(self, path: Path) -> None:
        """As a compressed `.npz`; of the load, what time models look at is kept."""
        rows = [(number, leg) for number, path in enumerate(self.paths) for leg in path.legs]
        np.savez_compressed(
            path,
            format=_FORMAT,
            rounds=np.array([path.round for path in self.paths], np.int64),
            phases=np.array([path.phase for path in self.paths], str),
            at_s=np.array([path.at_s for path in self.paths], np.float64),
            path=np.array([number for number, _ in rows], np.int64),
            stages=np.array([leg.step[:2] for _, leg in rows], np.int64).reshape(-1, 2),
            widths=np.array([leg.step.width for _, leg in rows], np.float64),
            precisions=np.array([leg.step.precision for _, leg in rows], str),
            times_ms=np.array([_numbers(leg) for _, leg in rows], np.float64).reshape(-1, 6),
        )

    @classmethod
    def load(cls, path: Path) -> "Recording":
        """What `save` wrote.

        Raises:
            ValueError: it's of another version.
        """
        with np.load(path, allow_pickle=False) as file:
            if int(file["format"]) != _FORMAT:
                raise ValueError(f"{path}: format is {file['format']}, this version of stretto reads {_FORMAT}")
            columns = zip(
                file["path"].tolist(), file["stages"].tolist(), file["widths"].tolist(), file["precisions"].tolist(),
                file["times_ms"].tolist(), strict=True,
            )  # fmt: skip
            taken: dict[int, list[Leg]] = {}
            for number, (first, depth), width, precision, numbers in columns:
                taken.setdefault(number, []).append(_leg(Step(first, depth, width, precision), numbers))
            heads = zip(file["rounds"].tolist(), file["phases"].tolist(), file["at_s"].tolist(), strict=True)
            return cls(tuple(RecordedPath(*head, tuple(taken[number])) for number, head in enumerate(heads)))


class Recorder:
    """Runs paths and keeps what they took, on the thread that calls it. `routes`: all there are.

    Args:
        x: one sample as the network takes it; every path is run with it once, untimed.
        load: what is known of the load; read before every step.
    """

    def __init__(self, engine: Engine, bundle: Bundle, x: NDArray[np.float32], load: Callable[[], Load]) -> None:
        self._engine, self._load = engine, load
        self._steps: dict[Route, tuple[Step, ...]] = {}
        for way in ways(bundle.manifest):
            self._steps[Route(*way)] = legs(bundle.manifest, *way)
            self._steps[Route(*way, in_one=True)] = (spans(bundle.manifest, *way)[-1],)
        self.routes = tuple(self._steps)
        self._began_s = time.monotonic()
        for route in self.routes:  # so that what only a first run does isn't timed
            self.path(route, x)

    def path(self, route: Route, x: NDArray[np.float32], phase: str = "") -> RecordedPath:
        """One path to its final exit, now; `x`: one sample, which a sleep of this thread should go before."""
        at_s, features, taken = time.monotonic() - self._began_s, x[None], []
        awake_s = cpu_s = thread_clock()
        wall_s = time.perf_counter()
        for step in self._steps[route]:
            load = self._load()
            with SOON:  # as the runtime does
                _, following = self._engine.run(step, features)
            features = features if following is None else following  # nothing goes on from the final exit
            wall_now_s, cpu_now_s = time.perf_counter(), thread_clock()
            cpu_ms = (cpu_now_s - cpu_s) * 1e3 if self._engine.in_caller else None
            taken.append(Leg(step, (cpu_s - awake_s) * 1e3, cpu_ms, (wall_now_s - wall_s) * 1e3, load))
            wall_s, cpu_s = wall_now_s, cpu_now_s
        return RecordedPath(0, phase, at_s, tuple(taken))


def _numbers(leg: Leg) -> tuple[float, ...]:
    known = (leg.cpu_ms, leg.load.others, leg.load.cores, leg.load.machine_cores)
    cpu_ms, *load = (_UNKNOWN if number is None else number for number in known)
    return leg.ran_ms, cpu_ms, leg.wall_ms, *load


def _leg(step: Step, numbers: list[float]) -> Leg:
    ran_ms, cpu_ms, wall_ms, others, cores, machine_cores = numbers
    load = Load(others=_known(others), cores=_known(cores), machine_cores=_known(machine_cores))
    return Leg(step, ran_ms, _known(cpu_ms), wall_ms, load)


def _known(number: float) -> float | None:
    return None if np.isnan(number) else number
