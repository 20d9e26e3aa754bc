"""Measures a profile: the steps' times on this device, on the very code that answers requests.

A request runs along one width and precision, to its first target in one graph, from there on exit by exit. A run exit
by exit gives the time at each of them, so the differences within it are one sample of every step that starts at one of
its exits: quantiles of spans can't be had by adding up those of their parts. What is timed from the start includes the
session's check of the input and a decision of the deadline policy, which not every request finds planned. What follows
at the last exit is timed apart, as any may be that: calibrated scores, another decision for each sample, and the making
of the answers. Who goes on from an exit has done about as much there, so it's also part of the steps that don't start
at the input.
"""

import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import combinations, product
from pathlib import Path

import numpy as np

from ..policies import make_time_model
from ..policies.deadline import Deadline
from ..policies.situation import Step, Stop
from .answer import make_answer
from .bundle import Bundle
from .course import Request
from .energy import EnergyMeter, Power, open_meter
from .engines import Engine, make_engine, runnable
from .inputs import UNLIMITED, Samples, check_input
from .outline import Outline
from .profile import BACK_TO_BACK, PACED, Profile, cached_profile, device_key, profile_path
from .runner import Runner
from .stand import NOTHING, Clocks, Reached, start_of
from .steps import legs, routed_legs, spans, ways
from .thread_clock import thread_clock

LEVELS = (0.5, 0.9, 0.95, 0.99)
RUNS = {BACK_TO_BACK: 10, PACED: 5}  # of each path in each round: 20 rounds give 200 and 100 samples to the quantiles
PAUSE_S = (0.005, 0.020)  # before a paced run: from a scheduler's slice to a frame
WARM_UP_ROUNDS = 25
WATCHED_S = 1.0  # under an energy meter: long beside the steps in which its counter moves
Route = tuple[Step, ...]  # from the input, each from where the one before it ended


def measure_profile(
    engine: Engine,
    bundle: Bundle,
    batches: Sequence[int] = (1,),
    rounds: int = 20,
    progress: Callable[[int, int], None] = lambda done, total: None,
    meter: EnergyMeter | None = None,
) -> Profile:
    """Runs every path in every round, back to back and with pauses, in an order that turns from round to round.

    `progress(done, total)` is called after each round of each batch size.

    Args:
        meter: of the device that runs the steps; None for the processor's.

    Raises:
        ValueError: no batch size, one below 1, or no round.
    """
    sizes = sorted(set(batches))
    if not sizes or sizes[0] < 1 or rounds < 1:
        raise ValueError(f"batches are {tuple(batches)}, rounds {rounds}; give one or more, each at least 1")
    stopwatch = Stopwatch(engine, bundle)
    stopwatch.load(sizes)
    meter = meter or open_meter(threads=engine.threads)
    stopwatch.watch(meter)
    pauses = random.Random(0)
    for done, (turn, batch) in enumerate(product(range(rounds), sizes), start=1):
        for route in stopwatch.turned(turn):
            for _ in range(RUNS[BACK_TO_BACK]):
                stopwatch.sample(route, batch, BACK_TO_BACK)
        for run in range(RUNS[PACED]):
            for route in stopwatch.turned(turn + run):
                time.sleep(pauses.uniform(*PAUSE_S))
                stopwatch.sample(route, batch, PACED)
        progress(done, rounds * len(sizes))
    return stopwatch.profile("measured", sizes, meter.power)


def measure_and_keep(
    bundle: Bundle,
    engine: str = "onnx",
    threads: int = 1,
    batches: Sequence[int] = (1,),
    rounds: int = 20,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Profile, Path]:
    """Measures a bundle's profile and keeps it where later loads on this device look; returns it and its file."""
    runner = make_engine(engine, bundle, threads)
    try:
        profile = measure_profile(runner, runnable(runner, bundle), batches, rounds, progress)
    finally:
        runner.close()
    place = profile_path(bundle, engine, threads)
    profile.save(place)
    return profile, place


def kept_profile(bundle: Bundle, engine: str = "onnx", threads: int = 1) -> Profile | None:
    """What a load on this device would plan with, if the bundle was profiled."""
    runner = make_engine(engine, bundle, threads)
    try:
        return cached_profile(runnable(runner, bundle), engine, threads)
    finally:
        runner.close()


def warm_up_profile(engine: Engine, bundle: Bundle, limit_s: float = 0.3) -> Profile:
    """Loads all legs, then times each once after a pause and once right after that, again until `limit_s` is over.

    A stopgap for a bundle that was never profiled here: with so few samples the upper quantiles are their maximum, the
    power is assumed, and graphs that go to an exit in one are taken to need as long as their legs.
    """
    stopwatch = Stopwatch(engine, bundle, legs_only=True)
    stopwatch.load([1])
    started = time.perf_counter()
    for turn in range(WARM_UP_ROUNDS):
        if turn and time.perf_counter() - started > limit_s:
            break
        for route in stopwatch.turned(turn):
            time.sleep(PAUSE_S[0])
            stopwatch.sample(route, 1, PACED)
            stopwatch.sample(route, 1, BACK_TO_BACK)
    return stopwatch.profile("warm-up", [1], open_meter(threads=engine.threads).power)


class Stopwatch:
    """Runs an engine along every way (width and precision) and keeps what the steps took.

    `routes`: what is run one after the other in a request. Exit by exit along each way; and to each exit in one graph,
    unless `legs_only`: then what that takes is taken to be what its legs do.
    """

    def __init__(self, engine: Engine, bundle: Bundle, legs_only: bool = False):
        manifest = bundle.manifest
        by_exit = [legs(manifest, *way) for way in ways(manifest)]
        by_exit += [routed_legs(manifest, *way) for way in ways(manifest) if manifest.has_router]
        self._in_one = [] if legs_only else [(step,) for way in ways(manifest) for step in spans(manifest, *way)[1:]]
        self.routes: list[Route] = [*by_exit, *self._in_one]
        self._engine, self._bundle = engine, bundle
        clocks = Clocks(lambda: time.perf_counter(), thread_clock)
        self._runner = Runner(engine, Deadline(), make_time_model("slices", median=LEVELS.index(0.5)), clocks=clocks)
        outline, median = Outline(manifest, routed=bundle.routed), LEVELS.index(0.5)
        self._menus = outline.menus(np.ones((len(outline.steps), len(LEVELS))), median)
        self._answer = partial(make_answer, manifest.classes, median)
        self._inputs: dict[int, Samples] = {}
        self._samples_ms: dict[tuple[Step, int, str], list[float]] = defaultdict(list)
        self._answered_ms: dict[tuple[int, str], list[float]] = defaultdict(list)

    def load(self, batches: Sequence[int]) -> None:
        """Loads the graphs and runs each once, so that what only a first run does isn't timed."""
        for batch in batches:
            shape = (batch, *self._bundle.manifest.input.shape)
            self._inputs[batch] = np.random.default_rng(0).standard_normal(shape, np.float32)
            for route in self.routes:
                self._run(route, self._inputs[batch])

    def watch(self, meter: EnergyMeter) -> None:
        """Runs all routes, again until `WATCHED_S` is over, for a meter to read; nothing where there is none."""
        if not meter.is_there:
            return
        x = next(iter(self._inputs.values()))
        with meter.watching():
            until_s = time.perf_counter() + WATCHED_S
            while time.perf_counter() < until_s:
                for route in self.routes:
                    self._run(route, x)

    def turned(self, turn: int) -> list[Route]:
        """All routes, beginning with another one each turn."""
        start = turn % len(self.routes)
        return self.routes[start:] + self.routes[:start]

    def sample(self, route: Route, batch: int, pacing: str) -> None:
        """One request along a route: one sample of every step on it, but of those that are run in one graph."""
        reached_ms, answered_ms = self._run(route, self._inputs[batch])
        for begin, end in combinations(range(len(reached_ms)), 2):
            step = route[end - 1]._replace(first=route[begin].first)
            if not begin and end > 1 and not route[0].depth:
                continue  # through the router
            if begin or len(route) == 1 or end == 1 or not self._in_one:
                took_ms = reached_ms[end] - reached_ms[begin] + (answered_ms if begin else 0.0)
                self._samples_ms[step, batch, pacing].append(took_ms)
        self._answered_ms[batch, pacing].append(answered_ms)

    def profile(self, source: str, batches: Sequence[int], power: Power) -> Profile:
        """The quantiles of all samples; each is a sample itself, the upper one of two, so that few don't flatter."""
        times: dict[tuple[Step, int], dict[str, tuple[float, ...]]] = defaultdict(dict)
        for (step, batch, pacing), samples_ms in self._samples_ms.items():
            times[step, batch][pacing] = _quantiles(samples_ms)
        answers = {
            batch: tuple(map(max, *(_quantiles(self._answered_ms[batch, pacing]) for pacing in RUNS)))
            for batch in batches
        }
        return Profile(
            device=device_key(),
            bundle=self._bundle.sha256,
            engine=self._engine.name,
            threads=self._engine.threads,
            source=source,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            levels=LEVELS,
            batches=tuple(batches),
            times=dict(times),
            answers=answers,
            power=power,
        )

    def _run(self, route: Route, x: Samples) -> tuple[list[float], float]:
        """One request of `x`'s samples: milliseconds to the start (0), and each exit; then, on to the answer."""
        reached_ms = [0.0]
        reached: list[Reached] = [NOTHING] * len(x)
        wall = self._runner.clocks.wall
        since = self._runner.now()
        started = since.at_s
        check_input(x, self._bundle.manifest.input)
        request = Request(started, math.inf, UNLIMITED, self._menus)
        stand = self._runner.begin(x, self._menus.start, since)
        self._runner.ask(stand, request.deadline, request.budget, reached)
        begun = start_of(stand)
        begun_s = list[float]()  # of each part, which is when the exit before it was reached
        whole = route[-1]._replace(first=0)
        _, evidence = self._runner.take(stand, whole, route, lambda: begun_s.append(wall()))
        reached_ms += [(at_s - started) * 1e3 for at_s in [*begun_s[1:], stand.at_s]]
        reached = [(seen,) for seen in evidence]
        self._runner.ask(stand, request.deadline, request.budget, reached)
        for exits in reached:
            self._answer(wall(), request, begun, exits, (), Stop.FINAL, stand.spent_mj)
        return reached_ms, (wall() - started) * 1e3 - reached_ms[-1]


def _quantiles(samples_ms: Sequence[float]) -> tuple[float, ...]:
    return tuple(np.quantile(samples_ms, LEVELS, method="higher").tolist())
