"""A session asked for answers under a sweep of budgets."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from ..runtime.answer import Answer
from ..runtime.session import Session


@dataclass(frozen=True, slots=True)
class BudgetResult:
    """What came of one budget: shares in [0, 1], means over its requests; `latency_ms` is the 99th percentile."""

    budget_ms: float
    requests: int
    met: float
    accuracy: float
    width: float
    depth: float
    latency_p50_ms: float
    latency_p99_ms: float


def budgets_of(session: Session, count: int = 7, low: float = 1.3, high: float = 2.0) -> list[float]:
    """Budgets from `low` × the fastest point's p99 to `high` × the slowest's, evenly spaced in the logarithm."""
    p99 = [session.profile.whole_way_ms(point) for point in session.points]
    return [float(b) for b in np.geomspace(low * min(p99), high * max(p99), count)]


def sweep(
    session: Session,
    x: np.ndarray,
    y: np.ndarray,
    budgets_ms: Sequence[float],
    requests: int = 300,
    pause_s: tuple[float, float] = (0.001, 0.005),
    seed: int = 0,
) -> list[BudgetResult]:
    """Ask for `requests` answers under every budget, budgets in turn so that all see the same machine and inputs.

    `x`, `y`: (samples, …) inputs as `infer` takes them, and their labels; `pause_s`: between requests, drawn evenly.
    A deadline counts as met by wall clock from the call to the answer.
    """
    rng = random.Random(seed)
    kept: list[list[tuple[bool, bool, float, int, float]]] = [[] for _ in budgets_ms]
    order = rng.sample(range(len(x)), len(x))
    for number in range(requests):
        i = order[number % len(order)]
        for place, budget_ms in enumerate(budgets_ms):
            time.sleep(rng.uniform(*pause_s))
            start = time.monotonic()
            answer = cast(Answer, session.infer(x[i], budget_ms))
            took_ms = (time.monotonic() - start) * 1e3
            point = answer.point
            kept[place].append((took_ms <= budget_ms, answer.index == y[i], point.width, point.depth, took_ms))
    return [_result(budget, rows) for budget, rows in zip(budgets_ms, kept, strict=True)]


def _result(budget_ms: float, rows: list[tuple[bool, bool, float, int, float]]) -> BudgetResult:
    met, right, widths, depths, took_ms = (np.array(column) for column in zip(*rows, strict=True))
    return BudgetResult(
        budget_ms,
        len(rows),
        float(met.mean()),
        float(right.mean()),
        float(widths.mean()),
        float(depths.mean()),
        float(np.median(took_ms)),
        float(np.quantile(took_ms, 0.99)),
    )
