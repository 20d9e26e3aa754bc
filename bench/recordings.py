"""Recorded times of every width and precision under other people's load, and how well time models foretell them.

In every round each width and precision runs exit by exit to its final exit once, in random order, each after a pause:

    recorder = Recorder(engine, bundle)
    recording = recorder.rounds(200, "busy")
    recording.save(path)
"""

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..policies.load import Load
from ..policies.situation import Step
from ..runtime.bundle import Bundle
from ..runtime.engines import Engine
from ..runtime.menu import legs, ways

PAUSE_S = (0.005, 0.020)  # before each path: from a scheduler's slice to a frame
_FORMAT = 1
_UNKNOWN = float("nan")
Way = tuple[float, str]


class Leg(NamedTuple):
    """One step of a recorded path; times in milliseconds as in `policies.latency.Ran`, the load at its begin."""

    step: Step
    ran_ms: float
    cpu_ms: float | None
    wall_ms: float
    load: Load


class RecordedPath(NamedTuple):
    """One request that went to its final exit. `phase`: of load, as the bench calls it; `at_s`: since the first."""

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

    def __add__(self, later: "Recording") -> "Recording":
        """Both, one after the other, rounds and times counting on."""
        if not self.paths or not later.paths:
            return later if later.paths else self
        ended, begins = self.paths[-1], later.paths[0]
        round, at_s = ended.round + 1 - begins.round, max(0.0, ended.at_s - begins.at_s)
        moved = (path._replace(round=path.round + round, at_s=path.at_s + at_s) for path in later.paths)
        return Recording((*self.paths, *moved))

    def save(self, path: Path) -> None:
        """As a compressed `.npz`; of the load, `others` and `cores` are kept."""
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
            times_ms=np.array([_numbers(leg) for _, leg in rows], np.float64).reshape(-1, 5),
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
    """Runs paths and keeps what they took, on the thread that calls it.

    Args:
        inputs: (samples, …) as the network takes them, used in turn; noise unless given.
        load: what is known of the load; read before every step.
        seed: of the order of paths and of the pauses.
    """

    def __init__(
        self,
        engine: Engine,
        bundle: Bundle,
        inputs: NDArray[np.float32] | None = None,
        load: "Callable[[], Load] | None" = None,
        seed: int = 0,
    ):
        shape = bundle.manifest.input.shape
        self._engine = engine
        self._inputs = np.random.default_rng(0).standard_normal((8, *shape), np.float32) if inputs is None else inputs
        self._load = load or running_tasks()
        self._random = random.Random(seed)
        self._legs = {way: legs(bundle.manifest, *way) for way in ways(bundle.manifest)}
        self._rounds, self._began_s = 0, time.monotonic()
        for way in self._legs:  # so that what only a first run does isn't timed
            self.path(way, self._inputs[0])

    def rounds(
        self,
        rounds: int,
        phase: str,
        pause_s: tuple[float, float] = PAUSE_S,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Recording:
        """So many rounds, all under the same load; `progress(done, total)` is called after each."""
        paths: list[RecordedPath] = []
        for done in range(1, rounds + 1):
            paths += self.round(phase, pause_s)
            progress(done, rounds)
        return Recording(tuple(paths))

    def round(self, phase: str, pause_s: tuple[float, float] = PAUSE_S) -> list[RecordedPath]:
        """Every width and precision once, in random order, each after a pause."""
        paths = []
        for way in self._random.sample(list(self._legs), len(self._legs)):
            time.sleep(self._random.uniform(*pause_s))
            paths.append(self.path(way, self._inputs[self._rounds % len(self._inputs)], phase))
        self._rounds += 1
        return paths

    def path(self, way: Way, x: NDArray[np.float32], phase: str = "") -> RecordedPath:
        """One path to its final exit, now; `x`: one sample, which a sleep of this thread should go before."""
        at_s, features, taken = time.monotonic() - self._began_s, x[None], []
        awake_s = cpu_s = time.thread_time()
        wall_s = time.perf_counter()
        for step in self._legs[way]:
            load = self._load()
            _, following = self._engine.run(step, features)
            features = features if following is None else following  # nothing goes on from the final exit
            wall_now_s, cpu_now_s = time.perf_counter(), time.thread_time()
            cpu_ms = (cpu_now_s - cpu_s) * 1e3 if self._engine.in_caller else None
            taken.append(Leg(step, (cpu_s - awake_s) * 1e3, cpu_ms, (wall_now_s - wall_s) * 1e3, load))
            wall_s, cpu_s = wall_now_s, cpu_now_s
        return RecordedPath(self._rounds, phase, at_s, tuple(taken))


def running_tasks() -> Callable[[], Load]:
    """Reads how many other tasks of the whole system run or want to (Linux), and the cores that this process may use.

    Costs some microseconds; elsewhere nothing is known.
    """
    try:
        file = os.open("/proc/loadavg", os.O_RDONLY)
    except OSError:
        return Load
    cores = float(len(os.sched_getaffinity(0)))

    def read() -> Load:
        running = os.pread(file, 64, 0).split()[3].split(b"/")[0]
        return Load(others=max(int(running) - 1.0, 0.0), cores=cores)  # the one that reads runs, too

    return read


def idle_times(
    recording: Recording, levels: Sequence[float], phase: str | None = None
) -> dict[Step, tuple[float, ...]]:
    """(levels,) quantiles of every step's time, and of the whole paths', in the phase that stands for the idle device.

    Without a phase: of the processor time, whatever the load was, which flatters neither.
    """
    times: dict[Step, list[float]] = {}
    for path in recording.paths:
        for first in range(len(path.legs)):
            for last in range(first, len(path.legs)):
                span = path._replace(legs=path.legs[first : last + 1]).whole
                if phase is None and span.cpu_ms is not None:
                    times.setdefault(span.step, []).append(span.cpu_ms)
                elif phase == path.phase:
                    times.setdefault(span.step, []).append(span.wall_ms)
    if not times:
        raise ValueError(f"there is no phase {phase!r} in this recording; it has {', '.join(_phases(recording.paths))}")
    return {step: tuple(np.quantile(ms, levels, method="higher").tolist()) for step, ms in times.items()}


def _phases(paths: Iterable[RecordedPath]) -> Iterator[str]:
    yield from sorted({repr(path.phase) for path in paths})


def _numbers(leg: Leg) -> tuple[float, ...]:
    known = (leg.cpu_ms, leg.load.others, leg.load.cores)
    cpu_ms, others, cores = (_UNKNOWN if number is None else number for number in known)
    return leg.ran_ms, cpu_ms, leg.wall_ms, others, cores


def _leg(step: Step, numbers: list[float]) -> Leg:
    ran_ms, cpu_ms, wall_ms, others, cores = numbers
    load = Load(others=_known(others), cores=_known(cores))
    return Leg(step, ran_ms, _known(cpu_ms), wall_ms, load)


def _known(number: float) -> float | None:
    return None if np.isnan(number) else number
