"""`make demo`: the whole way on scikit-learn's digits, from a plain network to answers under budgets."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ..policies.situation import OperatingPoint
from ..runtime.bundle import Bundle
from ..runtime.measure import measure_and_keep
from ..runtime.session import Session, load
from ..training.data import load_data
from ..training.fit import Progress, fit_options
from ..training.task import TrainTask, export_checkpoint, run_training
from .contention.load import busy_cores
from .sweep import BudgetResult, budgets_of, sweep

TASK = TrainTask("resnet", "digits", {"base": "32", "blocks": "2"}, batch=64)
EPOCHS = 12
PROFILE_ROUNDS = 8
Sweep = list[BudgetResult]


def run(
    report: Path,
    picture: Path,
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Train, export, profile, then ask under a sweep of budgets; prints a table, writes JSON and a picture.

    Checkpoint and bundle are kept beside the report; a second run goes on from the checkpoint.
    """
    folder = report.parent
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, bundle = folder / "digits.pt", folder / "digits.stretto"
    run_training(TASK, fit_options(epochs=EPOCHS), checkpoint, on_progress, tell)
    export_checkpoint(checkpoint, bundle, TASK.data, tell=tell)
    measure_and_keep(
        Bundle.open(bundle), rounds=PROFILE_ROUNDS, progress=lambda done, total: tell("profiling", done, total)
    )
    with load(bundle) as session:
        idle, busy = _ask(session, tell)
        _print(idle, busy)
        result = _result(session, idle, busy)
    report.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, picture)
    return result


def _ask(session: Session, tell: Callable[[str, int, int], None]) -> tuple[Sweep, Sweep]:
    test = load_data(TASK.data).splits["test"]
    x, budgets = session.prepare(test.x), budgets_of(session, low=1.0)
    tell("asking", 0, 2)
    idle = sweep(session, x, test.y, budgets)
    tell("asking", 1, 2)
    with busy_cores():
        busy = sweep(session, x, test.y, budgets)
    tell("asking", 2, 2)
    return idle, busy


def _print(idle: Sweep, busy: Sweep) -> None:
    columns = [f"{when}\n{name}" for when in ("idle", "busy") for name in ("met", "accuracy", "width", "depth")]
    table = Table("budget ms", *columns, title="digits: what a budget buys", title_justify="left")
    for pair in zip(idle, busy, strict=True):
        cells = [(f"{r.met:.1%}", f"{r.accuracy:.1%}", f"{r.width:.2f}", f"{r.depth:.1f}") for r in pair]
        table.add_row(f"{pair[0].budget_ms:.2f}", *cells[0], *cells[1])
    Console().print(table)


def _result(session: Session, idle: Sweep, busy: Sweep) -> dict[str, Any]:
    return {
        "bench": "demo",
        "points": [_point(session, point) for point in session.points],
        "idle": [asdict(row) for row in idle],
        "busy": [asdict(row) for row in busy],
    }


def _point(session: Session, point: OperatingPoint) -> dict[str, Any]:
    record = session.bundle.point(point.width, point.depth, point.precision)
    p50 = session.profile.whole_way_ms(point, 0.5)
    return {"width": point.width, "depth": point.depth, "accuracy": record.accuracy, "macs": record.macs, "p50_ms": p50}


def draw(result: dict[str, Any], picture: Path) -> None:
    """Accuracy against time: every operating point, and what requests got under budgets, idle and busy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.8), constrained_layout=True)
    widths = sorted({point["width"] for point in result["points"]})
    for width, shade in zip(widths, np.linspace(0.75, 0.25, len(widths)), strict=True):
        line = [point for point in result["points"] if point["width"] == width]
        times, accuracies = [p["p50_ms"] for p in line], [p["accuracy"] * 100 for p in line]
        axes.plot(
            times, accuracies, "o-", color=str(shade), markersize=4, linewidth=1, label=f"width {width:g}: its exits"
        )
    for name, color in (("idle", "tab:blue"), ("busy", "tab:red")):
        rows = result[name]
        budgets, accuracies = [r["budget_ms"] for r in rows], [r["accuracy"] * 100 for r in rows]
        label = "budgets, idle" if name == "idle" else "budgets, every core busy"
        axes.plot(budgets, accuracies, "s--", color=color, markersize=5, label=label)
        for row in rows:
            place = (row["budget_ms"], row["accuracy"] * 100)
            below = -12 if name == "busy" else 6
            axes.annotate(f"{row['met']:.0%}", place, (0, below), textcoords="offset points", color=color, fontsize=7)
    axes.set_xscale("log")
    for axis_labels in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis_labels(lambda value, _: f"{value:g}")
    axes.set_xlabel("time per answer, ms (operating points: median; budgets: what was allowed)")
    axes.set_ylabel("accuracy on test digits, %")
    axes.set_title("One network, many budgets (numbers: share of deadlines met)")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.25)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=130)
    pyplot.close(figure)
