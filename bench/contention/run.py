"""Deadlines on a busy machine: this runtime against what a user would pick instead, side by side.

`stretto bench contention BUNDLE --data PATH --controls FOLDER`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ...policies.situation import OperatingPoint
from ...runtime.bundle import Bundle
from ...runtime.engines import Engine, make_engine, runnable
from ...runtime.measure import measure_profile
from ...runtime.profile import Profile
from ...runtime.sensors import Sensors
from ..evaluate import logits_on, read_splits
from ..recordings import Recorder, Recording
from ..report import Row, machine, print_rows, write_json
from .contestants import (
    BOTH,
    FULL,
    FULL_FP32,
    PROFILE_ROUNDS,
    SMALLEST,
    Runtime,
    enter,
    enter_switched,
    full_point,
    granted_priority,
    points_of,
    smallest_point,
)
from .costs import DEADLINE_ROUNDS, OVERHEAD_ROUNDS, idle_p99_ms, overhead_rows, sensors_row
from .foresight import foresight, foresight_rows
from .picture import draw
from .report import Known, Table, choices, comparison_rows, counts, lateness_rows, precision_rows
from .rounds import Ask, Asking, Effort, Field, Tell, recording_of, run_rounds
from .switched import by_width, find_controls

DEADLINES = 5
LOWEST, HIGHEST = 1.5, 1.3  # times the smallest network's idle p99, and the largest's


@dataclass(frozen=True, slots=True)
class Asked:
    """What is measured. `controls`: bundles or folders of them; `samples`: of the test, None for all of it.

    `profile_rounds`, `overhead_rounds`, `deadline_rounds`, `sensors_s`: how long what comes before the rounds is
    measured.
    """

    bundle: Path
    data: str
    splits: tuple[str, ...] = ("test",)
    controls: tuple[Path, ...] = ()
    samples: int | None = None
    profile_rounds: int = PROFILE_ROUNDS
    overhead_rounds: int = OVERHEAD_ROUNDS
    deadline_rounds: int = DEADLINE_ROUNDS
    sensors_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Files:
    """Where things are written, None for nowhere. `recording`: the recorded times, `.npz`."""

    json: Path | None = None
    picture: Path | None = None
    recording: Path | None = None


def run(
    asked: Asked,
    runtime: Runtime,
    effort: Effort,
    files: Files = Files(),
    tell: Tell = lambda what, done, total: None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Measures everything, prints a table and writes the files; the machine should have nothing else to do."""
    facts, name = machine(), asked.bundle.stem
    with ExitStack() as stack:
        bundle, engine = open_bundle(stack, asked.bundle)
        controls = by_width(find_controls(asked.controls, asked.bundle), bundle)
        costs = [sensors_row(asked.sensors_s)]
        known, x = learn(bundle, controls, asked, tell)
        profile = measure_profile(engine, bundle, rounds=asked.profile_rounds, progress=partial(tell, "profile"))
        report = describe(asked, runtime, bundle, controls, profile) | {"machine": facts}
        asking = Asking()
        sensors = stack.enter_context(Sensors(own_running=asking))
        asks = enter(stack, bundle, profile, runtime, sensors)
        asks |= enter_switched(stack, controls, runtime, sensors, asked.profile_rounds, partial(tell, "controls"))
        report["deadlines_ms"] = deadlines_of(asks, x[0], asked.deadline_rounds)
        for who, ending in BOTH.items():
            costs += overhead_rows(asks[who], engine, x[0], name, asked.overhead_rounds, ending)
        recorder = Recorder(engine, bundle, x[0], lambda: sensors.now)
        entered = Field(asks, recorder.routes, recorder.path, asking)
        rounds = run_rounds(entered, x, report["deadlines_ms"], effort, tell)
    recording = recording_of(rounds)
    keep(recording, files.recording)  # at once: whatever fails from here on, the minutes of measuring aren't lost
    table = Table(rounds, known)
    tell("time model", 0, 1)
    foreseen = foresight(recording, bundle, profile, runtime)
    tell("time model", 1, 1)
    rows = [*rows_of(table, name), *foresight_rows(foreseen, name), *costs]
    report |= judged(table, rows) | {"time_models": foreseen}
    print_rows(console or Console(), rows, "bench contention")
    write(files, report)
    return report


def judged(table: Table, rows: Sequence[Row]) -> dict[str, Any]:
    """What the report says of the rounds."""
    return {
        "rounds": len(table.rounds),
        "rows": [row.to_json() for row in rows],
        "counts": counts(table),
        "choices": choices(table),
    }


def open_bundle(stack: ExitStack, path: Path) -> tuple[Bundle, Engine]:
    """What its engine can run of a bundle; closed with `stack`."""
    opened = Bundle.open(path)
    engine = stack.enter_context(closing(make_engine("onnx", opened)))
    return runnable(engine, opened), engine


def keep(recording: Recording, path: Path | None) -> None:
    """Saves the recorded times, making the folder if need be."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        recording.save(path)


def write(files: Files, report: Mapping[str, Any]) -> None:
    """The report, as it is asked for."""
    if files.json is not None:
        write_json(files.json, report)
    if files.picture is not None:
        draw(report, files.picture)


def describe(
    asked: Asked, runtime: Runtime, bundle: Bundle, controls: Mapping[float, Bundle], profile: Profile
) -> dict[str, Any]:
    """What the report says before anything is asked."""
    points = {"smallest": smallest_point(bundle, profile), "full": full_point(bundle)}
    return {
        "bench": "contention",
        "bundle": {"name": asked.bundle.name, "sha256": bundle.sha256, "network": bundle.manifest.network},
        "controls": [control.path.name for control in controls.values()],
        "data": Path(asked.data).name,
        "splits": asked.splits,
        "runtime": asdict(runtime),
        "priority": granted_priority(),
        "points": {name: point._asdict() | {"p99_ms": profile.whole_way_ms(point)} for name, point in points.items()},
    }


def deadlines_of(asks: Mapping[str, Ask], x: NDArray[np.float32], rounds: int) -> list[float]:
    """(deadlines,) milliseconds, evenly spaced in the logarithm, from what fixed networks take on the idle machine.

    Not from the profile, whose few runs of each point say little of the highest percent. `rounds`: requests of each.
    """
    slowest_ms = max(idle_p99_ms(asks[who], x, rounds) for who in (FULL, FULL_FP32) if who in asks)
    fastest_ms = idle_p99_ms(asks[SMALLEST], x, rounds)
    return [float(each) for each in np.geomspace(LOWEST * fastest_ms, HIGHEST * slowest_ms, DEADLINES)]


def learn(
    bundle: Bundle, controls: Mapping[float, Bundle], asked: Asked, tell: Tell
) -> tuple[Known, NDArray[np.float32]]:
    """What every point answers to the test, also of the controls, and the test's inputs as the session takes them."""
    _, pixels, labels = read_splits(bundle, asked.data, asked.splits, tell)
    chosen = np.random.default_rng(0).permutation(len(labels))[: asked.samples]
    pixels, labels = pixels[chosen], labels[chosen]
    by_point = right_answers(bundle, pixels, labels, partial(tell, "evaluating"))
    points = tuple(points_of(bundle))
    accuracy = np.array([bundle.point(*point).accuracy for point in points])
    switched = {
        point._replace(width=width): float(1 - right.mean())
        for width, control in controls.items()
        for point, right in right_answers(control, pixels, labels, partial(tell, f"width {width:g}")).items()
    }
    right = np.stack([by_point[point] for point in points], axis=1)
    return Known(points, accuracy, right, labels, switched), bundle.manifest.input.prepare(pixels)


def right_answers(
    bundle: Bundle, pixels: NDArray[np.uint8], labels: NDArray[np.int64], tell: Callable[[int, int], None]
) -> dict[OperatingPoint, NDArray[np.bool_]]:
    """(samples,) of every point, whether it answers each rightly."""
    logits = logits_on(bundle, pixels, labels, progress=lambda done: tell(done, len(labels)))
    return {point: each.argmax(axis=1) == labels for point, each in logits.items()}


def rows_of(table: Table, network: str) -> list[Row]:
    """All figures."""
    return [*comparison_rows(table, network), *lateness_rows(table, network), *precision_rows(table, network)]
