"""Accuracy against measured time of a reference network and its controls, from the bench's report alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .jobs import SUPERNET

OURS, THEIRS = "tab:blue", "tab:red"


def draw(report: dict[str, Any], path: Path) -> None:
    """Every point, and the staircase of each side: the best accuracy that there is in a time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sides = {side: [p for p in report["points"] if (p["job"] == SUPERNET) == side] for side in (True, False)}
    end_ms = max(point["ms"]["median"] for point in report["points"]) * 1.15
    figure, axes = pyplot.subplots(figsize=(8, 5), constrained_layout=True)
    _lines(axes, sides[True])
    for side, color, name in ((True, OURS, "supernet"), (False, THEIRS, "controls")):
        _staircase(axes, sides[side], end_ms, color, f"{name}: best within a time")
    _controls(axes, sides[False])
    _frame(axes, report)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _lines(axes: Any, points: Sequence[dict[str, Any]]) -> None:
    """The exits of every width, narrow ones light."""
    widths = sorted({point["width"] for point in points})
    for width, shade in zip(widths, np.linspace(0.75, 0.25, len(widths)), strict=True):
        line = sorted((p for p in points if p["width"] == width), key=lambda p: p["depth"])
        axes.plot(*_places(line), "o-", color=str(shade), markersize=4, linewidth=1, label=f"width {width:g}: exits")


def _staircase(axes: Any, points: Sequence[dict[str, Any]], end_ms: float, color: str, label: str) -> None:
    times, accuracies = (np.array(values) for values in _places(points))
    order = np.argsort(times)
    best = np.maximum.accumulate(accuracies[order])
    times, best = np.append(times[order], end_ms), np.append(best, best[-1])
    axes.step(times, best, where="post", color=color, linewidth=2, alpha=0.6, label=label)


def _controls(axes: Any, points: Sequence[dict[str, Any]]) -> None:
    hollow = {"markerfacecolor": "none", "markeredgecolor": THEIRS, "markeredgewidth": 1.8}  # hides no point
    axes.plot(*_places(points), "D", markersize=11, label="controls, trained alone", **hollow)
    for point in points:
        place = (point["ms"]["median"], point["accuracy"] * 100)
        text = f"{point['width']:g}"
        axes.annotate(text, place, (0, 11), textcoords="offset points", ha="center", color=THEIRS, fontsize=8)


def _places(points: Sequence[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Milliseconds and per cent."""
    return [point["ms"]["median"] for point in points], [point["accuracy"] * 100 for point in points]


def _frame(axes: Any, report: dict[str, Any]) -> None:
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    axes.margins(y=0.08)  # room for what is written above a point
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 4, 6, 8)))  # all of 1 to 9 wouldn't fit beside each other
    for set_formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        set_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(axis="x", which="both", labelsize=8, length=4)
    axes.set_xlabel("median time of an answer, one thread, ms")
    axes.set_ylabel(f"accuracy on {' and '.join(report['reference']['splits'])}, %")
    axes.set_title(f"{report['reference']['title']}: one supernet against a network a width")
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.25)
