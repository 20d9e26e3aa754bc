"""Wrong or late answers against the deadline in every environment, from the report of `bench.contention` alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .comparisons import BEST_HERE, CLAIRVOYANT, PHASE_ORACLE
from .contestants import ALERT, FULL, FULL_FP32, OURS, PROFILE, SMALLEST, SWITCHED
from .load import ENVIRONMENTS

# who is drawn, how, and the name in the legend; everybody else is in the JSON alone
STYLES = {
    OURS: ("tab:blue", "o-", 2.5),
    PROFILE: ("tab:cyan", "o-", 1.5),
    SWITCHED: ("tab:red", "D--", 1.5),
    ALERT: ("tab:purple", "^--", 1.2),
    FULL: ("tab:orange", "s:", 1.2),
    FULL_FP32: ("gold", "s:", 1.2),
    SMALLEST: ("tab:brown", "v:", 1.2),
    BEST_HERE: ("tab:green", "x--", 1.2),
    PHASE_ORACLE: ("black", "+--", 1.2),
    CLAIRVOYANT: ("gray", "-", 1.0),
}


def draw(report: Mapping[str, Any], path: Path) -> None:
    """A panel for each environment."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    environments = sorted({count["environment"] for count in report["counts"]}, key=_usual_order)
    figure, panels = pyplot.subplots(2, 3, figsize=(14, 8), constrained_layout=True)
    for axes, environment in zip(panels.flat, environments, strict=False):
        _panel(axes, [count for count in report["counts"] if count["environment"] == environment])
        axes.set_title(environment)
    for axes in panels.flat[len(environments) :]:
        axes.axis("off")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    panels.flat[-1].legend(handles, labels, loc="center", fontsize=9)
    figure.suptitle(f"{report['bundle']['name']}: wrong or late answers under other people's load")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _panel(axes: Any, counts: list[dict[str, Any]]) -> None:
    for who, (color, style, width) in STYLES.items():
        line = sorted((count for count in counts if count["who"] == who), key=lambda count: count["deadline_ms"])
        if line:
            shares = [100 * count["expected_wrong_or_late"] / count["requests"] for count in line]
            axes.plot(
                [count["deadline_ms"] for count in line],
                shares,
                style,
                color=color,
                linewidth=width,
                markersize=5,
                label=who,
            )
    axes.set_xscale("log")
    deadlines = sorted({count["deadline_ms"] for count in counts})
    axes.set_xticks(deadlines, [f"{deadline:.3g}" for deadline in deadlines], fontsize=8)
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("deadline, ms")
    axes.set_ylabel("wrong or late, %")
    axes.grid(alpha=0.25)


def _usual_order(environment: str) -> tuple[int, str]:
    usual = [each.name for each in ENVIRONMENTS]
    return (usual.index(environment) if environment in usual else len(usual), environment)
