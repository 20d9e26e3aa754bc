"""Deadlines met by an idle machine, from budgets that only the fastest point fits to ones that all do."""

from dataclasses import asdict, fields
from typing import Any

import numpy as np

from ..policies.situation import OperatingPoint
from ..runtime.measure import PAUSE_S
from ..runtime.profile import BACK_TO_BACK, PACED, Profile
from ..runtime.session import Session, load
from .bundles import Files
from .report import Row
from .sweep import BudgetResult, budgets_of, sweep

COUNT = 7
TURNS = 4  # of the session and its control
PAUSES_S = {BACK_TO_BACK: (0.0, 0.0), PACED: PAUSE_S}


def budget_rows(files: Files, profile: Profile, requests: int) -> list[Row]:
    """The share of requests answered in time by wall clock, over a geometric sweep of budgets.

    Beside it as control the same of the fastest point alone, a quarter as often: what it misses, the machine missed.
    """
    fastest = _fastest(profile)
    with (
        load(files.bundle, profile=profile) as session,
        load(files.bundle, profile=profile, policy=fastest) as control,
    ):
        budgets_ms = budgets_of(session, COUNT)
        return [_row(files.name, pacing, session, control, budgets_ms, requests) for pacing in PAUSES_S]


def _row(network: str, pacing: str, session: Session, control: Session, budgets_ms: list[float], requests: int) -> Row:
    ours, theirs = [], []
    for turn in range(TURNS):
        ours.append(_sweep(session, pacing, budgets_ms, max(requests // TURNS, 1), turn))
        theirs.append(_sweep(control, pacing, budgets_ms, max(requests // TURNS // 4, 1), turn))
    merged = [_mean(results) for results in zip(*ours, strict=True)]
    details = {
        "fastest point alone, share met": float(np.mean([result.met for part in theirs for result in part])),
        "lowest share at one budget": min(result["met"] for result in merged),
        "requests at each budget": merged[0]["requests"],
        "budgets": merged,
    }
    met = float(np.mean([result["met"] for result in merged]))
    return Row(f"deadlines met, {pacing.replace('_', ' ')}", network, met, "", at_least=0.99, control=details)


def _sweep(session: Session, pacing: str, budgets_ms: list[float], requests: int, seed: int) -> list[BudgetResult]:
    x = np.random.default_rng(0).standard_normal((8, *session.bundle.manifest.input.shape), np.float32)
    return sweep(session, x, np.zeros(len(x), np.int64), budgets_ms, requests, PAUSES_S[pacing], seed)


def _mean(results: tuple[BudgetResult, ...]) -> dict[str, Any]:
    """One budget's turns together, without the accuracy, which random weights don't have."""
    names = [field.name for field in fields(BudgetResult) if field.name not in ("accuracy", "requests")]
    rows = [asdict(result) for result in results]
    return {name: float(np.mean([row[name] for row in rows])) for name in names} | {
        "requests": sum(row["requests"] for row in rows)
    }


def _fastest(profile: Profile) -> OperatingPoint:
    starts = [step for step, batch in profile.times if step.first == 0 and batch == 1]
    return min(starts, key=lambda step: profile.finish_ms(step)[-1]).point
