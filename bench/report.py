"""What the benches share: interleaved timing, medians with their spread, rows with a goal, JSON and a table."""

import importlib.metadata
import json
import os
import platform
import random
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ..runtime.files import replacing
from ..runtime.profile import processor

FloatArray = NDArray[np.float64]
Name = TypeVar("Name", bound=Hashable)
PACKAGES = ("numpy", "onnxruntime", "onnx", "torch")
_RESAMPLES = 2000


def machine() -> dict[str, Any]:
    """Where and with what a figure was measured; `load_1min` above the bench's own share says that others ran too."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def interleaved(
    tasks: Mapping[Name, Callable[[], object]],
    rounds: int,
    calls: int = 1,
    pause_s: float = 0.0,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Name, FloatArray]:
    """Times tasks side by side, so that what disturbs the machine disturbs all alike.

    Args:
        tasks: by name; each is called once beforehand, untimed.
        rounds: in each, every task has one block; the order is drawn anew from a fixed seed.
        calls: of a task in one block, back to back.
        pause_s: before every block, for threads of the block before that spin on.
        tell: called with the rounds done and their number.

    Returns:
        (rounds, calls) milliseconds by name; the same row of two tasks is a pair.
    """
    for task in tasks.values():
        task()
    order, shuffle = list(tasks), random.Random(0).shuffle
    times = {name: np.zeros((rounds, calls)) for name in tasks}
    for turn in range(rounds):
        shuffle(order)
        for name in order:
            time.sleep(pause_s)
            times[name][turn] = [time_ms(tasks[name]) for _ in range(calls)]
        tell(turn + 1, rounds)
    return times


def time_ms(task: Callable[[], object]) -> float:
    """Milliseconds of one call, by the wall clock."""
    started = time.perf_counter()
    task()
    return (time.perf_counter() - started) * 1e3


def block_ratios(times: FloatArray, of: FloatArray) -> FloatArray:
    """(rounds,) each block's median time over that of its neighbour; both (rounds, calls)."""
    ratios: FloatArray = np.median(times, axis=1) / np.median(of, axis=1)
    return ratios


def spread(values: Sequence[float] | FloatArray) -> dict[str, float]:
    """Median, its 95 % bootstrap interval (percentiles of resampled medians, fixed seed), quartiles, minimum, count."""
    data = np.asarray(values, dtype=float).ravel()
    if not len(data):
        raise ValueError("spread of no values; measure at least once")
    resampled = np.median(np.random.default_rng(0).choice(data, (_RESAMPLES, len(data))), axis=1)
    low, high = np.quantile(resampled, (0.025, 0.975))
    lower, median, upper = np.quantile(data, (0.25, 0.5, 0.75))
    named = {"median": median, "low": low, "high": high, "p25": lower, "p75": upper, "min": data.min()}
    return {name: float(value) for name, value in named.items()} | {"count": len(data)}


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `at_most` or `at_least` is its goal, neither says that it has none.

    `spread`: as `spread` gives it; `control`: what the same measurement gives where there is nothing to find, or what
    it was compared with; `note`: what a reader needs to know beside.
    """

    figure: str
    network: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    spread: dict[str, float] | None = None
    control: dict[str, Any] | None = None
    note: str = ""

    @property
    def goal(self) -> str | None:
        """The goal as text, such as "≤ 1.05"."""
        if self.at_most is not None:
            return f"≤ {self.at_most:g}"
        return f"≥ {self.at_least:g}" if self.at_least is not None else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return self.value >= self.at_least if self.at_least is not None else None

    def to_json(self) -> dict[str, Any]:
        """Plain data, every key there."""
        named = ("figure", "network", "value", "unit", "goal", "met", "spread", "control", "note")
        return {name: getattr(self, name) for name in named}


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Writes all of it or nothing, making the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def print_rows(console: Console, rows: Sequence[Row], title: str) -> None:
    """A table of figures, goals and whether they are met."""
    table = Table(title=title, title_justify="left")
    for name in ("figure", "network", "value", "95 % interval", "goal", "met"):
        table.add_column(name, justify="right" if name in ("value", "goal") else "left")
    for row in rows:
        interval = f"{row.spread['low']:.4g} … {row.spread['high']:.4g}" if row.spread else ""
        met = {True: "yes", False: "NO", None: ""}[row.met]
        table.add_row(row.figure, row.network, f"{row.value:.4g} {row.unit}".strip(), interval, row.goal or "", met)
    console.print(table)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
