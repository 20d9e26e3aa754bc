"""What the runtime itself takes: per request beyond the bare steps, on the idle machine."""

import random
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...policies.situation import Step
from ...runtime.answer import Answer
from ...runtime.engines import Engine
from ...runtime.sensors import cost
from ..pools import run_way
from ..report import Row, spread
from .rounds import Ask

OVERHEAD_ROUNDS = 400
DEADLINE_ROUNDS = 2000  # of 400, the highest percent moved a sweep of deadlines to twice its place
PAUSE_S = (0.005, 0.020)  # before whatever is timed, as between requests of a device
AMPLE_MS = 10_000.0  # a deadline, so that everything is on, but one that never comes
MOST_US = 150.0
MOST_SHARE = 0.005  # of a core
P = ParamSpec("P")
T = TypeVar("T")


def steps_of(answer: Answer) -> list[Step]:
    """The steps that a request ran whose answer this is."""
    starts = [0, *(depth + 1 for depth in answer.exits[:-1])]
    width, _, precision = answer.point
    return [Step(first, depth, width, precision) for first, depth in zip(starts, answer.exits, strict=True)]


def overhead_rows(
    ask: Ask, engine: Engine, x: NDArray[np.float32], network: str, rounds: int, ending: str = ""
) -> list[Row]:
    """Microseconds that a request takes beyond its steps, as many times as said, each after a pause and in a loop.

    `x`: one sample; `ending`: of the figures' names.
    """
    return [
        _overhead_row(ask, engine, x, network, rounds, f", {pacing}{ending}", pause_s)
        for pacing, pause_s in (("paced", PAUSE_S), ("back to back", None))
    ]


def _overhead_row(
    ask: Ask,
    engine: Engine,
    x: NDArray[np.float32],
    network: str,
    rounds: int,
    ending: str,
    pause_s: tuple[float, float] | None,
) -> Row:
    rng, over_us, raw_ms = random.Random(0), [], []
    steps = steps_of(_answered(rng, None, ask, x)[1])
    for _ in range(rounds):
        asked_ms, answer = _answered(rng, pause_s, ask, x)
        steps = steps_of(answer)
        raw_ms.append(_timed(rng, pause_s, run_way, engine, steps, x[None])[0])
        over_us.append((asked_ms - raw_ms[-1]) * 1e3)
    return Row(
        f"overhead per request over the bare steps{ending}", network, float(np.median(over_us)), "µs", at_most=MOST_US,
        spread=spread(over_us), control={"steps": [list(step) for step in steps], "bare, ms": float(np.median(raw_ms))},
        note="a deadline that never comes; pairs",
    )  # fmt: skip


def idle_p99_ms(ask: Ask, x: NDArray[np.float32], rounds: int) -> float:
    """Milliseconds in which 99 % of so many requests are answered, each after a pause; `x`: one sample."""
    rng = random.Random(0)
    return float(np.quantile([_answered(rng, PAUSE_S, ask, x)[0] for _ in range(rounds)], 0.99))


def sensors_row(seconds: float) -> Row:
    """The share of a core that all sensors take."""
    return Row("sensors, of a core", "", cost(seconds), "", at_most=MOST_SHARE, note="by this process's own clock")


def _answered(
    rng: random.Random, pause_s: tuple[float, float] | None, ask: Ask, x: NDArray[np.float32]
) -> tuple[float, Answer]:
    took_ms, answer = _timed(rng, pause_s, ask, x, AMPLE_MS)
    if answer is None:
        raise RuntimeError(f"a request with {AMPLE_MS:g} ms to go was dropped")
    return took_ms, answer


def _timed(
    rng: random.Random, pause_s: tuple[float, float] | None, task: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> tuple[float, T]:
    """Milliseconds of one call after a pause, if there is to be one, and what it gave."""
    if pause_s is not None:
        time.sleep(rng.uniform(*pause_s))
    started = time.perf_counter()
    result = task(*args, **kwargs)
    return (time.perf_counter() - started) * 1e3, result
