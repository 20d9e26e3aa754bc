"""Accuracy against mean time of fixed points, exit rules, escalation and the oracle, from `bench.easy`'s report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .curves import ESCALATION
from .router import ROUTER

COLORS = {
    "probability": "tab:blue", "margin": "tab:cyan", "entropy": "tab:purple", "patience": "tab:pink",
    ROUTER: "tab:red",
}  # fmt: skip
ESCALATED = "tab:orange"
STYLES = ("-", "--", ":", "-.")


def draw(report: Mapping[str, Any], path: Path) -> None:
    """A panel for each precision."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = report["precisions"]
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(7.5 * len(panels), 6), constrained_layout=True, squeeze=False
    )
    for one, (precision, about) in zip(axes.flat, panels.items(), strict=True):
        _panel(one, about)
        one.set_title(precision)
    figure.suptitle(f"{report['bundle']['name']}: what easy inputs save, {report['samples']['test']} test inputs")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _panel(axes: Any, about: Mapping[str, Any]) -> None:
    """Each family by the best that it can be set to at any time."""
    for line in about["lines"]:
        rule = line["family"].removeprefix(ESCALATION)
        style = "-" if line["family"] == rule else STYLES[list(COLORS).index(rule)]
        color = COLORS[rule] if line["family"] == rule else ESCALATED
        axes.plot(line["ms"], [100 * right for right in line["accuracy"]], style, color=color, label=line["family"])
    fixed = sorted(about["fixed"], key=lambda one: one["ms"])
    axes.plot(
        [one["ms"] for one in fixed], [100 * one["accuracy"] for one in fixed], "o", color="black", label="fixed points"
    )
    axes.plot([about["oracle"]["ms"]], [100 * about["oracle"]["accuracy"]], "*", color="tab:green", markersize=14,
              label="oracle: knows which exits are right")  # fmt: skip
    axes.set_xlabel("mean time of a request, ms")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="lower right")
