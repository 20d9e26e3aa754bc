"""Situations to ask policies about: a family of 3 widths × 4 depths, and strategies that draw the rest."""

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from stretto.policies.situation import Budget, Evidence, OperatingPoint, Situation, Step

WIDTHS, DEPTHS, LEVELS = (0.25, 0.5, 1.0), 4, (0.5, 0.9, 0.99)


def offered_after(depth: int, width: float | None = None) -> tuple[Step, ...]:
    """Every step possible at exit `depth` of `width`; depth 0 is a request that has run nothing yet."""
    widths = WIDTHS if width is None else (width,)
    first = depth + 1 if depth else 0
    return tuple(Step(first, d, w) for w in widths for d in range(depth + 1, DEPTHS + 1))


def seen(depth: int, width: float, accuracy: float = 0.5, confidence: float = 0.6) -> Evidence:
    logits = np.log(np.array([confidence, max(1 - confidence, 1e-12)]))
    return Evidence(OperatingPoint(width, depth), logits, 1.0, int(logits.argmax()), confidence, accuracy)


def situation(
    steps: tuple[Step, ...],
    finish_ms: list[float],
    accuracy: list[float],
    slack_ms: float,
    evidence: tuple[Evidence, ...] = (),
    min_accuracy: float | None = None,
) -> Situation:
    """One situation; `finish_ms` (steps,) is the median, the higher levels are 1.5 and 2 times as long."""
    finish = np.outer(finish_ms, [1.0, 1.5, 2.0]) if steps else np.empty((0, len(LEVELS)))
    budget = Budget(latency_ms=slack_ms, min_accuracy=min_accuracy)
    return Situation(slack_ms, budget, evidence, steps, finish, LEVELS, np.array(accuracy))


@st.composite
def situations(draw: st.DrawFn, slack_ms: float | None = None) -> Situation:
    """Before the first exit or after any, with times, accuracies, slack and energy of any kind, equal ones included."""
    depth = draw(st.integers(0, DEPTHS))
    width = draw(st.sampled_from(WIDTHS))
    steps = offered_after(depth, width if depth else None)
    shares = st.sampled_from([i / 20 for i in range(21)])
    milliseconds = st.floats(0.01, 100)
    now = situation(
        steps,
        finish_ms=draw(st.lists(milliseconds, min_size=len(steps), max_size=len(steps))),
        accuracy=draw(st.lists(shares, min_size=len(steps), max_size=len(steps))),
        slack_ms=draw(st.floats(-50, 250) | st.just(float("inf"))) if slack_ms is None else slack_ms,
        evidence=tuple(seen(d, width, draw(shares), draw(st.floats(0.1, 1))) for d in range(1, depth + 1)),
        min_accuracy=draw(st.none() | shares),
    )
    energies = st.lists(shares, min_size=len(steps), max_size=len(steps)).map(np.array)
    budget = replace(now.budget, energy_mj=draw(st.none() | shares))
    return replace(now, budget=budget, energy_mj=draw(st.none() | energies), spent_mj=draw(shares))
