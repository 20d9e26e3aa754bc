"""What the runtime itself takes: per request beyond the bare steps, on the idle machine."""

import random
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..policies.situation import Step
from ..runtime.answer import Answer
from ..runtime.engines import Engine
from ..runtime.sensors import cost
from .contention_rounds import Ask
from .pools import run_way
from .report import Row, spread, time_ms

OVERHEAD_ROUNDS = 400
PAUSE_S = (0.005, 0.020)  # before whatever is timed, as between requests of a device
AMPLE_MS = 10_000.0  # a deadline, so that everything is on, but one that never comes
MOST_US = 150.0
MOST_SHARE = 0.005  # of a core


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
    steps = steps_of(_answered(ask, x))
    for _ in range(rounds):
        answers: list[Answer] = []
        asked_ms = _paused(rng, pause_s, lambda: answers.append(_answered(ask, x)))  # noqa: B023  (called at once)
        steps = steps_of(answers[0])
        raw_ms.append(_paused(rng, pause_s, partial(run_way, engine, steps, x[None])))
        over_us.append((asked_ms - raw_ms[-1]) * 1e3)
    return Row(
        f"overhead per request over the bare steps{ending}", network, float(np.median(over_us)), "µs", at_most=MOST_US,
        spread=spread(over_us), control={"steps": [list(step) for step in steps], "bare, ms": float(np.median(raw_ms))},
        note="a deadline that never comes; pairs",
    )  # fmt: skip


def idle_p99_ms(ask: Ask, x: NDArray[np.float32], rounds: int) -> float:
    """Milliseconds in which 99 % of so many requests are answered, each after a pause; `x`: one sample."""
    rng = random.Random(0)
    return float(np.quantile([_paused(rng, PAUSE_S, lambda: _answered(ask, x)) for _ in range(rounds)], 0.99))


def sensors_row(seconds: float) -> Row:
    """The share of a core that all sensors take."""
    return Row("sensors, of a core", "", cost(seconds), "", at_most=MOST_SHARE, note="by this process's own clock")


def _answered(ask: Ask, x: NDArray[np.float32]) -> Answer:
    answer = ask(x, AMPLE_MS)
    if answer is None:
        raise RuntimeError(f"a request with {AMPLE_MS:g} ms to go was dropped")
    return answer


def _paused(rng: random.Random, pause_s: tuple[float, float] | None, task: Callable[[], object]) -> float:
    if pause_s is not None:
        time.sleep(rng.uniform(*pause_s))
    return time_ms(task)
