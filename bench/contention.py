"""Deadlines on a busy machine: this runtime against what a user would pick instead, side by side.

`stretto bench contention BUNDLE --data PATH --controls FOLDER`.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ..runtime.bundle import Bundle
from ..runtime.engines import Engine, make_engine
from ..runtime.menu import legs, ways
from ..runtime.profile import Profile
from .contention_contestants import (
    PROFILE_ROUNDS,
    Runtime,
    enter,
    full_point,
    idle_ms,
    measured_profile,
    points_of,
    smallest_point,
)
from .contention_picture import draw
from .contention_report import Known, Table, comparison_rows, counts, lateness_rows, precision_rows
from .contention_rounds import Effort, Field, Record, Tell, Way, run_rounds
from .contention_switched import find_controls
from .evaluate import logits_on, read_splits
from .report import Row, machine, print_rows, write_json

DEADLINES = 5
LOWEST, HIGHEST = 1.5, 1.3  # times the smallest network's idle p99, and the largest's


@dataclass(frozen=True, slots=True)
class Asked:
    """What is measured. `controls`: bundles or folders of them; `samples`: of the test, None for all of it."""

    bundle: Path
    data: str
    splits: tuple[str, ...] = ("test",)
    controls: tuple[Path, ...] = ()
    samples: int | None = None
    profile_rounds: int = PROFILE_ROUNDS


def run(
    asked: Asked,
    runtime: Runtime,
    effort: Effort,
    json: Path | None = None,
    picture: Path | None = None,
    tell: Tell = lambda what, done, total: None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Measures everything, prints a table, writes JSON and picture; the machine should have nothing else to do."""
    facts, bundle = machine(), Bundle.open(asked.bundle)
    controls = find_controls(asked.controls, asked.bundle)
    known, x = learn(bundle, asked, tell)
    profile = measured_profile(bundle, asked.profile_rounds, partial(tell, "profile"))
    report = describe(asked, runtime, bundle, controls, profile) | {"machine": facts}
    with ExitStack() as stack:
        asks = enter(stack, bundle, profile, runtime, controls, asked.profile_rounds, partial(tell, "controls"))
        engine = stack.enter_context(closing(make_engine("onnx", bundle)))
        entered = Field(asks, ways(bundle.manifest), recorder(engine, bundle))
        rounds = run_rounds(entered, x, report["deadlines_ms"], effort, tell)
    table = Table(rounds, known)
    rows = rows_of(table, asked.bundle.stem)
    report |= {"rounds": len(rounds), "rows": [row.to_json() for row in rows], "counts": counts(table)}
    print_rows(console or Console(), rows, "bench contention")
    if json is not None:
        write_json(json, report)
    if picture is not None:
        draw(report, picture)
    return report


def describe(
    asked: Asked, runtime: Runtime, bundle: Bundle, controls: Sequence[Bundle], profile: Profile
) -> dict[str, Any]:
    """What the report says before anything is asked."""
    points = {"smallest": smallest_point(bundle, profile), "full": full_point(bundle)}
    return {
        "bench": "contention",
        "bundle": {"name": asked.bundle.name, "sha256": bundle.sha256, "network": bundle.manifest.network},
        "controls": [control.path.name for control in controls],
        "data": Path(asked.data).name,
        "splits": asked.splits,
        "runtime": asdict(runtime),
        "points": {name: point._asdict() | {"p99_ms": idle_ms(profile, point)} for name, point in points.items()},
        "deadlines_ms": deadlines_of(bundle, profile),
    }


def deadlines_of(bundle: Bundle, profile: Profile) -> list[float]:
    """(deadlines,) milliseconds, evenly spaced in the logarithm."""
    slowest_ms = max(idle_ms(profile, point) for point in points_of(bundle))
    fastest_ms = idle_ms(profile, smallest_point(bundle, profile))
    return [float(each) for each in np.geomspace(LOWEST * fastest_ms, HIGHEST * slowest_ms, DEADLINES)]


def learn(bundle: Bundle, asked: Asked, tell: Tell) -> tuple[Known, NDArray[np.float32]]:
    """What every point answers to the test, and the test's inputs as the session takes them."""
    _, pixels, labels = read_splits(bundle, asked.data, asked.splits, tell)
    chosen = np.random.default_rng(0).permutation(len(labels))[: asked.samples]
    pixels, labels = pixels[chosen], labels[chosen]
    logits = logits_on(bundle, pixels, labels, progress=lambda done: tell("evaluating", done, len(labels)))
    points = tuple(points_of(bundle))
    right = np.stack([logits[point].argmax(axis=1) == labels for point in points], axis=1)
    accuracy = np.array([bundle.point(*point).accuracy for point in points])
    return Known(points, accuracy, right, labels), bundle.manifest.input.prepare(pixels)


def recorder(engine: Engine, bundle: Bundle) -> Record:
    """Runs a width and precision exit by exit to the end, and says when it was at each exit, in milliseconds."""

    def record(way: Way, x: NDArray[np.float32]) -> list[float]:
        features: NDArray[np.float32] | None = x[None]
        reached_ms, started = [], time.perf_counter()
        for leg in legs(bundle.manifest, *way):
            _, features = engine.run(leg, features)
            reached_ms.append((time.perf_counter() - started) * 1e3)
        return reached_ms

    return record


def rows_of(table: Table, network: str) -> list[Row]:
    """All figures."""
    return [*comparison_rows(table, network), *lateness_rows(table, network), *precision_rows(table, network)]
