"""What a switch is worth: gains of paired runs with their standard error, as table and picture."""

from collections.abc import Callable, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

Point = dict[str, Any]
Pair = tuple[dict[str, Any], dict[str, Any]]  # results of the run with the switch on, and of that with it off
ALL = "all points"
LEAST_SEEDS = 3
# of a point, with the narrowest and the widest width and the last depth
SPLITS: dict[str, Callable[[Point, float, float, int], bool]] = {
    ALL: lambda point, narrowest, widest, last: True,
    "final exits": lambda point, narrowest, widest, last: point["depth"] == last,
    "early exits": lambda point, narrowest, widest, last: point["depth"] < last,
    "narrowest width": lambda point, narrowest, widest, last: point["width"] == narrowest,
    "widest final": lambda point, narrowest, widest, last: (point["width"], point["depth"]) == (widest, last),
}


def compared(pairs: dict[int, Pair]) -> dict[str, Any]:
    """What pairs of runs, by seed, say of their switch.

    Returns:
        `gains`: by split, of accuracy on − off, in points (1 % of the samples), see `estimate`. `seconds`: mean
        training time of a run, on and off. `macs_ratio`: mean over the points of the MACs, on over off. `pays`:
        whether the gain over all points is more than twice its standard error; None of fewer than 3 seeds.
    """
    gains = {split: estimate([_gain(split, on, off) for on, off in pairs.values()]) for split in SPLITS}
    on, off = next(iter(pairs.values()))
    ways = {"on": [on for on, _ in pairs.values()], "off": [off for _, off in pairs.values()]}
    return {
        "seeds": list(pairs),
        "gains": gains,
        "seconds": {way: float(np.mean([result["seconds"] for result in ways[way]])) for way in ways},
        "macs_ratio": float(np.mean([a["macs"] / b["macs"] for a, b in _matched(on, off)])),
        "pays": pays(gains[ALL], len(pairs)),
    }


def estimate(values: Sequence[float]) -> dict[str, Any]:
    """`values` by seed, their `mean`, and its standard error `se`, of the sample's deviation; None of a single one."""
    se = float(np.std(values, ddof=1)) / sqrt(len(values)) if len(values) > 1 else None
    return {"by_seed": list(values), "mean": float(np.mean(values)), "se": se}


def pays(gain: dict[str, Any], seeds: int) -> bool | None:
    """Whether a switch is worth being on by default; None where too few seeds were measured to say."""
    return None if seeds < LEAST_SEEDS else bool(gain["mean"] > 2 * gain["se"])


def _gain(split: str, on: dict[str, Any], off: dict[str, Any]) -> float:
    """Mean gain of the split's points, in points."""
    pairs = _matched(on, off)
    widths = [point["width"] for point, _ in pairs]
    ends = (min(widths), max(widths), max(point["depth"] for point, _ in pairs))
    return 100 * float(np.mean([a["accuracy"] - b["accuracy"] for a, b in pairs if SPLITS[split](a, *ends)]))


def _matched(on: dict[str, Any], off: dict[str, Any]) -> list[tuple[Point, Point]]:
    """The two runs' points, width and depth of a pair alike."""
    ours, theirs = ({(p["width"], p["depth"]): p for p in result["points"]} for result in (on, off))
    if ours.keys() != theirs.keys():
        raise ValueError(f"runs of different points can't be compared: {sorted(ours)} and {sorted(theirs)}")
    return [(point, theirs[at]) for at, point in ours.items()]


def print_report(report: dict[str, Any], console: Console) -> None:
    """A line a switch: gains above their standard errors, what time and MACs it takes, and whether it pays."""
    splits = (split.replace(" ", "\n", 1) for split in SPLITS)
    table = Table("switch", *splits, "time\non/off", "MACs\non/off", "pays", padding=(0, 1, 0, 0), box=box.HORIZONTALS,
                  title="Gain of each switch, points ± standard error", title_justify="left")  # fmt: skip
    for row in report["switches"]:
        if "gains" in row:
            table.add_row(row["name"].replace("_", "\n", 1), *_cells(row))
    console.print(table)
    for row in report["switches"]:
        on, off = (", ".join(f"{name} {value}" for name, value in row[way].items()) for way in ("on", "off"))
        line = f"{row['name']}: {on or 'as the base'}, against {off or 'the base'}, {row['base']}"
        missing = f"not measured: {row['not_measured']}" if "not_measured" in row else ""
        console.print("; ".join(filter(None, (line, missing, row["note"]))), highlight=False, soft_wrap=True)


def _cells(row: dict[str, Any]) -> list[str]:
    gains = [f"{g['mean']:+.2f}\n±{'?' if g['se'] is None else format(g['se'], '.2f')}" for g in row["gains"].values()]
    verdict = {True: "yes", False: "no", None: "too few\nseeds"}[row["pays"]]
    return [*gains, f"{row['seconds']['on'] / row['seconds']['off']:.2f}", f"{row['macs_ratio']:.2f}", verdict]


def draw(report: dict[str, Any], picture: Path) -> None:
    """Every measured switch's gains with two standard errors to each side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in report["switches"] if "gains" in row]
    height = 1.2 + 0.75 * len(rows)
    figure, axes = pyplot.subplots(figsize=(8, height), constrained_layout=True)
    for i, (split, color) in enumerate(
        zip(SPLITS, ("black", "tab:blue", "tab:orange", "tab:green", "tab:red"), strict=True)
    ):
        gains = [row["gains"][split] for row in rows]
        places = np.arange(len(rows)) + (i - (len(SPLITS) - 1) / 2) * 0.14
        errors = [2 * (gain["se"] or 0.0) for gain in gains]
        style = {"markersize": 6, "linewidth": 2} if split == ALL else {"markersize": 3.5, "linewidth": 1}
        axes.errorbar([g["mean"] for g in gains], places, xerr=errors, fmt="o", color=color, label=split, **style)
    axes.axvline(0, color="gray", linewidth=1)
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("gain of accuracy, points; bars: two standard errors to each side")
    axes.set_title("What each switch of training is worth")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.25, axis="x")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=130)
    pyplot.close(figure)


def _label(row: dict[str, Any]) -> str:
    verdict = {True: "pays", False: "no gain shown", None: "too few seeds"}[row["pays"]]
    return f"{row['name']}\n({verdict}; seeds: {len(row['seeds'])})"
