"""Accuracy against the share of weights left: kinds of pruning above each other, learning rates side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .panels import Panel
from .variants import LONGER, RANDOM, SIGNS, TICKET, UNTRAINED, UNTRAINED_RANDOM, UNTRAINED_SIGNS, VARIANTS

COLORS = {
    TICKET: "black", RANDOM: "tab:red", SIGNS: "tab:blue", LONGER: "tab:orange",
    UNTRAINED: "black", UNTRAINED_SIGNS: "tab:blue", UNTRAINED_RANDOM: "tab:red",
}  # fmt: skip
FURTHEST = 15.0  # points below the best that are shown; what is further below would flatten the rest
TICKS = (100, 50, 20, 10, 5, 2)


def draw(panels: Sequence[Panel], picture: Path) -> None:
    """One place a panel: what was trained above, and what wasn't below, on a scale of its own."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(11, 12), constrained_layout=True)
    kinds, rates = (list(dict.fromkeys(getattr(panel, name) for panel in panels)) for name in ("kind", "rate"))
    boxes = figure.subfigures(len(kinds), len(rates), squeeze=False)
    for panel in panels:
        box = boxes[kinds.index(panel.kind), rates.index(panel.rate)]
        above, below = box.subplots(2, 1, sharex=True, height_ratios=(5, 2))
        _draw_trained(above, panel, *_range([other for other in panels if other.kind == panel.kind]))
        _draw_untrained(below, panel)
        above.set_title(panel.title, fontsize=10)
    figure.suptitle("Lottery tickets: share of the test's images right; bars are standard errors over seeds")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)


def _draw_trained(axes: Any, panel: Panel, bottom: float, top: float) -> None:
    whole, se = panel.whole.mean, panel.whole.se or 0.0
    axes.axhspan(whole - se, whole + se, color="gray", alpha=0.35, label="whole network ± standard error")
    axes.axhline(whole, color="gray", linewidth=0.8)
    for variant in (TICKET, SIGNS, LONGER, RANDOM):
        _line(axes, panel, variant)
    axes.set_ylim(bottom, top)
    axes.set_ylabel("trained, %")
    axes.legend(fontsize=7, loc="lower left")


def _draw_untrained(axes: Any, panel: Panel) -> None:
    for variant in (UNTRAINED, UNTRAINED_SIGNS, UNTRAINED_RANDOM):
        _line(axes, panel, variant, linestyle="--")
    axes.axhline(panel.chance, color="gray", linewidth=0.8, linestyle=":", label="chance")
    axes.set_ylim(0, 135)  # room for the legend
    axes.set_yticks(range(0, 101, 25))
    axes.set_ylabel("untrained, %")
    axes.set_xlabel("weights left, %")
    axes.legend(fontsize=7, loc="upper center", ncols=2)


def _line(axes: Any, panel: Panel, variant: str, linestyle: str = "-") -> None:
    line = panel.test.get(variant, {})
    shares = [100 * panel.left[number] for number in line]
    errors = [estimate.se or 0.0 for estimate in line.values()]
    axes.errorbar(
        shares, [estimate.mean for estimate in line.values()], yerr=errors, color=COLORS[variant], linestyle=linestyle,
        marker="o", markersize=3.5, linewidth=1.3, capsize=2, label=VARIANTS[variant].label,
    )  # fmt: skip
    axes.set_xscale("log")
    ticks = [tick for tick in TICKS if tick >= 85 * min(panel.left.values())]
    axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(118, 85 * min(panel.left.values()))
    axes.grid(alpha=0.25)


def _range(panels: Sequence[Panel]) -> tuple[float, float]:
    """What is shown of the accuracies of what was trained, the same at all learning rates."""
    trained = (TICKET, SIGNS, LONGER, RANDOM)
    means = [e.mean for panel in panels for name in trained for e in panel.test.get(name, {}).values()]
    return max(min(means) - 1, max(means) - FURTHEST), max(means) + 0.5
