"""Rounds of `bench.contention`: everybody answers the same input under the same deadline, side by side, under load."""

import faulthandler
import gc
import math
import random
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...policies.situation import OperatingPoint
from ...runtime.answer import Answer
from ..recordings import RecordedPath, Recording, Route
from .load import ENVIRONMENTS, SEEN_S, Environment

VISIT_ROUNDS = 60
BURST_ROUNDS = (20, 30)
PERIOD_S = (0.020, 0.040)  # a request as often as a device with a camera has one
LEAST_PAUSE_S = 0.005
ROUND_S = 120.0  # a round that takes this long hangs
Tell = Callable[[str, int, int], None]
Ask = Callable[[NDArray[np.float32], float], Answer | None]  # one sample, milliseconds
Record = Callable[[Route, NDArray[np.float32], str], RecordedPath]  # the last one: the phase of load


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: `rounds` in each environment, or `minutes` of all together; what ends first."""

    rounds: int | None = None
    minutes: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounds is None and self.minutes is None:
            raise ValueError("neither rounds nor minutes say when to end; give one")
        if self.rounds is not None and self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}; give at least 1")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ValueError(f"minutes is {self.minutes:g}; give a number above 0")


class Visit(NamedTuple):
    """Some rounds in one environment that follow each other. `on`: (rounds,) whether its load is on."""

    number: int
    environment: Environment
    on: list[bool]


class Answered(NamedTuple):
    """What one contestant answered, by the bench's own clock. `label`: the class's number.

    Where no exit was reached by the deadline and so nothing answered, which only some contestants do: label -1, no
    point.
    """

    latency_ms: float
    label: int
    point: OperatingPoint | None


@dataclass(frozen=True, slots=True)
class Round:
    """One input under one deadline.

    `sample`: the input's number; `on`: whether the environment's load was on; `answers`: by contestant; `paths`: of
    every width and precision, run to its final exit exit by exit and in one graph, in the order that they ran.
    """

    visit: int
    environment: str
    on: bool
    deadline_ms: float
    sample: int
    answers: Mapping[str, Answered] = field(default_factory=dict)
    paths: Mapping[Route, RecordedPath] = field(default_factory=dict)

    @property
    def phase(self) -> str:
        """Of load."""
        return self.environment if self.on else f"{self.environment}, off"


class Asking:
    """Says to sensors how many threads of ours run just now, which are no load of others: 1 within its block."""

    def __init__(self) -> None:
        self._running = 0

    def __call__(self) -> int:
        return self._running

    def __enter__(self) -> None:
        self._running = 1

    def __exit__(self, *error: object) -> None:
        self._running = 0


@dataclass(frozen=True, slots=True)
class Field:
    """Who answers: `asks`, contestants by name; `routes`, which `record` times beside them; `asking`: told of both."""

    asks: Mapping[str, Ask]
    routes: Sequence[Route]
    record: Record
    asking: Asking


def bursts(rounds: int, rng: random.Random) -> list[bool]:
    """(rounds,) a load that goes on and off at random; none of its phases is shorter than `BURST_ROUNDS` says."""
    shortest, longest = BURST_ROUNDS
    lengths: list[int] = []
    while (left := rounds - sum(lengths)) >= 2 * shortest:
        lengths.append(rng.randint(shortest, min(longest, left - shortest)))
    on = rng.random() < 0.5
    return [on ^ bool(phase % 2) for phase, length in enumerate([*lengths, left]) for _ in range(length)]


def visits(effort: Effort, elapsed_s: Callable[[], float]) -> Iterator[Visit]:
    """All environments in turn, in an order of their own each time, until the effort is spent.

    Whole turns only, so every environment has as many rounds.
    """
    rng, done, number = random.Random(effort.seed), 0, 0
    while not _spent(effort, done, elapsed_s()):
        count = VISIT_ROUNDS if effort.rounds is None else min(VISIT_ROUNDS, effort.rounds - done)
        for environment in rng.sample(ENVIRONMENTS, len(ENVIRONMENTS)):
            yield Visit(number, environment, bursts(count, rng) if environment.bursts else [True] * count)
            number += 1
        done += count


def run_rounds(
    entered: Field, x: NDArray[np.float32], deadlines_ms: Sequence[float], effort: Effort, tell: Tell
) -> list[Round]:
    """Every contestant's answers and every route's times, round by round; `x`: (samples, …) the stream of inputs."""
    started, rounds = time.monotonic(), list[Round]()
    match = Match(entered, x, deadlines_ms, effort.seed + 1)
    with _hang_ends_all() as alive:
        for visit in visits(effort, lambda: time.monotonic() - started):
            with closing(match.play(visit)) as played:
                for now in played:
                    rounds.append(now)
                    alive()
                    _tell(tell, effort, len(rounds), time.monotonic() - started)
    return rounds


def recording_of(rounds: Sequence[Round]) -> Recording:
    """What the routes took, in the order of time."""
    numbered = ((number, path) for number, now in enumerate(rounds) for path in now.paths.values())
    return Recording(tuple(path._replace(round=number) for number, path in numbered))


class Match:
    """Plays rounds: contestants and routes in random order, paced as a device would ask."""

    def __init__(self, entered: Field, x: NDArray[np.float32], deadlines_ms: Sequence[float], seed: int) -> None:
        self._entered, self._x, self._rng = entered, x, random.Random(seed)
        self._samples, self._deadlines = _endless(range(len(x)), self._rng), _endless(deadlines_ms, self._rng)
        self._asked = 0.0

    def play(self, visit: Visit) -> Generator[Round]:
        """One visit's rounds, under its load."""
        gc.freeze()  # so that collections don't look through the rounds kept, which would slow whoever is next
        with visit.environment.load() as switch:
            for on, before in zip(visit.on, [None, *visit.on], strict=False):
                if on != before:
                    switch(on)
                    time.sleep(SEEN_S if before is None else 0.0)
                yield self._round(visit, on)

    def _round(self, visit: Visit, on: bool) -> Round:
        now = Round(visit.number, visit.environment.name, on, next(self._deadlines), next(self._samples))
        x, answers, paths = self._x[now.sample], dict[str, Answered](), dict[Route, RecordedPath]()
        turns: list[str | Route] = [*self._entered.asks, *self._entered.routes]
        self._rng.shuffle(turns)
        for turn in turns:
            self._wait()
            with self._entered.asking:
                if isinstance(turn, str):
                    answers[turn] = _ask(self._entered.asks[turn], x, now.deadline_ms)
                else:
                    paths[turn] = self._entered.record(turn, x, now.phase)
        return replace(now, answers=answers, paths=paths)

    def _wait(self) -> None:
        """Until the next request is due."""
        due = self._asked + self._rng.uniform(*PERIOD_S)
        time.sleep(max(due - time.monotonic(), LEAST_PAUSE_S))
        self._asked = time.monotonic()


def _ask(ask: Ask, x: NDArray[np.float32], deadline_ms: float) -> Answered:
    started = time.monotonic()
    answer = ask(x, deadline_ms)
    took_ms = (time.monotonic() - started) * 1e3
    return Answered(took_ms, -1, None) if answer is None else Answered(took_ms, answer.index, answer.point)


def _endless(items: Sequence[Any], rng: random.Random) -> Iterator[Any]:
    """All items in random order, then all in another."""
    while True:
        yield from rng.sample(items, len(items))


def _spent(effort: Effort, rounds: int, elapsed_s: float) -> bool:
    enough = effort.rounds is not None and rounds >= effort.rounds
    return enough or (effort.minutes is not None and elapsed_s >= effort.minutes * 60)


def _tell(tell: Tell, effort: Effort, rounds: int, elapsed_s: float) -> None:
    if effort.rounds is not None:
        tell("rounds", rounds, effort.rounds * len(ENVIRONMENTS))
    else:
        tell("seconds", int(elapsed_s), int((effort.minutes or 0.0) * 60))


@contextmanager
def _hang_ends_all() -> Iterator[Callable[[], None]]:
    """Ends this process, saying where it stands, unless what it gives is called every `ROUND_S`."""

    def alive() -> None:
        faulthandler.dump_traceback_later(ROUND_S, exit=True, file=sys.__stderr__ or 2)

    alive()
    try:
        yield alive
    finally:
        faulthandler.cancel_dump_traceback_later()
