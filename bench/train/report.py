"""What comes out of a reference network and its controls: the figures that issue 4 asks for, with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..bootstrap import interval, resample, resampled_ratio
from ..jobs import Record
from ..references import Reference
from ..report import Row
from .jobs import SUPERNET
from .points import Committed, MeasuredPoint
from .statistics import (
    FloatArray,
    cross_fitted,
    halves,
    shared_stretch,
)

MANIFEST_POINTS_MAX = 0.1  # between a bundle's own accuracies and those measured here
NEAR = 0.08  # an exit's share of the MACs may be this far from the share that a goal names
STEP_NOTE = "{controls} controls; training steps in turns, on networks as they begin; the interval resamples rounds"
TIME_NOTE = (
    "{controls} controls; the interval resamples epochs; joint training and controls share the machine with each other "
    "and whatever else runs, and not for all of the time alike: see the steps in turns"
)
CURVE_NOTE = (
    "accuracy(t) = of the best point whose median time is at most t, which is chosen by one half of the test's samples "
    "and scored on the other, both ways; its mean from the slower of the two sides' fastest points to the slower of "
    "their slowest; the interval resamples each half, times stay the medians"
)


@dataclass(frozen=True, slots=True)
class Column:
    """A measured point, and its accuracy on every resample of the test, (resamples,), paired between points."""

    point: MeasuredPoint
    resampled: FloatArray


def make_rows(
    reference: Reference,
    points: Sequence[MeasuredPoint],
    records: dict[str, Record],
    step_ms: Mapping[str, FloatArray],
    committed: Committed | None = None,
) -> list[Row]:
    """All figures; `records`, `step_ms`: of the trainings, by the jobs' names; `committed`: the bundle in the
    repository."""
    resampled = resample(np.stack([point.right for point in points], axis=1))
    columns = [Column(point, resampled[:, i]) for i, point in enumerate(points)]
    return [
        *_width_rows(reference, columns),
        *_exit_rows(reference, columns),
        _step_row(reference, step_ms),
        *_time_rows(reference, records),
        _curve_row(reference, points),
        _manifest_row(reference, points, committed),
    ]


def _of_supernet(columns: Sequence[Column]) -> list[Column]:
    return [column for column in columns if column.point.job == SUPERNET]


def _controls(columns: Sequence[Column]) -> list[Column]:
    return [column for column in columns if column.point.job != SUPERNET]


def _width_rows(reference: Reference, columns: Sequence[Column]) -> list[Row]:
    """The widest final exit's accuracy, then each width's final exit against its control, widest first."""
    controls = {column.point.width: column for column in _controls(columns)}
    depth = max(column.point.depth for column in _of_supernet(columns))
    finals = {c.point.width: c for c in _of_supernet(columns) if c.point.depth == depth}
    widths = sorted(finals, reverse=True)
    goal, widest = reference.goals.full, finals[widths[0]]
    accuracy = Row(
        "full width, final exit", reference.name, _percent(widest.point), "%",
        at_least=None if goal is None else goal * 100, spread=interval(widest.resampled * 100),
    )  # fmt: skip
    goals = dict.fromkeys(widths, reference.goals.gain)
    goals |= {widths[-1]: reference.goals.narrowest_gain, widths[0]: reference.goals.full_gain}
    return [accuracy, *(_gain_row(reference, finals[w], controls[w], goals[w]) for w in widths)]


def _gain_row(reference: Reference, ours: Column, control: Column, at_least: float) -> Row:
    """From counts of samples, as a difference of two shares would miss a goal that it exactly meets."""
    difference = int(ours.point.right.sum()) - int(control.point.right.sum())
    return Row(
        f"width {ours.point.width:g}, final exit, over its control", reference.name,
        100 * difference / len(ours.point.right), "points", at_least=at_least,
        spread=interval((ours.resampled - control.resampled) * 100),
        control={"supernet, %": _percent(ours.point), "control, %": _percent(control.point)},
        note="paired bootstrap over the test's samples",
    )  # fmt: skip


def _exit_rows(reference: Reference, columns: Sequence[Column]) -> list[Row]:
    """Each early exit of the full width: the share that it keeps of the final accuracy; then goals without an exit."""
    line = sorted((c for c in _of_supernet(columns) if c.point.width == 1), key=lambda c: c.point.depth)
    *early, final = line
    shares = [column.point.record.macs / final.point.record.macs for column in early]
    served = nearest_exits([asked for asked, _ in reference.goals.exits], shares)
    goals = {exit_: reference.goals.exits[goal][1] for goal, exit_ in served.items()}
    return [
        *(_exit_row(reference, column, final, goals.get(i), shares[i]) for i, column in enumerate(early)),
        *(_absent_row(reference, asked, kept, shares)
          for goal, (asked, kept) in enumerate(reference.goals.exits) if goal not in served),
    ]  # fmt: skip


def nearest_exits(asked: Sequence[float], shares: Sequence[float]) -> dict[int, int]:
    """Which exit serves which goal, by their numbers: the nearest pair first, within `NEAR`, an exit only one goal."""
    pairs = sorted((abs(a - share), goal, i) for goal, a in enumerate(asked) for i, share in enumerate(shares))
    served: dict[int, int] = {}
    for distance, goal, exit_ in pairs:
        if distance <= NEAR and goal not in served and exit_ not in served.values():
            served[goal] = exit_
    return served


def _absent_row(reference: Reference, asked: float, kept: float, shares: Sequence[float]) -> Row:
    """A goal that no exit is there for, and so isn't met."""
    return Row(
        f"exit at {asked:.0%} of the full width's MACs, share kept of its final accuracy", reference.name, 0.0, "",
        at_least=kept, control={"shares of the MACs": list(shares)},
        note=f"no exit within {NEAR:.0%} of the MACs that serves no other goal",
    )  # fmt: skip


def _exit_row(reference: Reference, ours: Column, final: Column, at_least: float | None, share: float) -> Row:
    kept = int(ours.point.right.sum()) / max(int(final.point.right.sum()), 1)
    return Row(
        f"exit {ours.point.depth} of the full width, share kept of its final accuracy", reference.name, kept, "",
        at_least=at_least, spread=interval(ours.resampled / np.maximum(final.resampled, 1e-9)),
        control={"share of the MACs": share, "share of the time": ours.point.median_ms / final.point.median_ms},
        note="its own head counts to its MACs; paired bootstrap over the test's samples",
    )  # fmt: skip


def _step_row(reference: Reference, step_ms: Mapping[str, FloatArray]) -> Row:
    """A joint step over one step of every control: as all trainings have as many, this is the trainings' ratio."""
    joint = step_ms[SUPERNET]
    apart = np.sum([taken for name, taken in step_ms.items() if name != SUPERNET], axis=0)
    return Row(
        "joint training over the controls together, steps in turns", reference.name,
        float(joint.sum() / apart.sum()), "×", at_most=1.0, spread=interval(resampled_ratio(joint, apart)),
        control={"joint, ms": float(joint.mean()), "controls, ms": float(apart.mean())},
        note=STEP_NOTE.format(controls=len(step_ms) - 1),
    )  # fmt: skip


def _time_rows(reference: Reference, records: dict[str, Record]) -> list[Row]:
    """Joint training against all controls' trainings, by the epochs' seconds."""
    seconds = {name: np.array([epoch["seconds"] for epoch in made["history"]]) for name, made in records.items()}
    joint = seconds.pop(SUPERNET)
    apart = np.sum(list(seconds.values()), axis=0)
    note = "; ".join(filter(None, (TIME_NOTE.format(controls=len(seconds)), _mixture(records))))
    in_all = {"joint, s": float(joint.sum()), "controls, s": float(apart.sum())}
    return [
        Row(
            "joint training over the controls together, as they ran", reference.name,
            float(joint.sum() / apart.sum()), "×", spread=interval(resampled_ratio(joint, apart)),
            control=in_all, note=note,
        ),
        Row("joint training", reference.name, float(joint.sum() / 60), "min", at_most=reference.goals.minutes),
    ]  # fmt: skip


def _mixture(records: dict[str, Record]) -> str:
    """Names what the jobs were trained on, where that differs."""
    places = {name: _place(record) for name, record in records.items()}
    if len(set(places.values())) == 1:
        return ""
    return "not all trained alike: " + ", ".join(f"{name} on {place}" for name, place in places.items())


def _place(record: Record) -> str:
    """Processor, cores and threads of a training; records of before they were kept have no machine."""
    machine, threads = record.get("machine"), f"{record['settings']['threads']} threads"
    if machine is None:
        return f"an unknown machine, {threads}"
    return f"{machine['processor']}, {machine['cores']} cores, torch {machine['packages']['torch']}, {threads}"


def _curve_row(reference: Reference, points: Sequence[MeasuredPoint]) -> Row:
    """Area under accuracy against time, the supernet's over the controls'."""
    sides = [[i for i, point in enumerate(points) if (point.job == SUPERNET) == ours] for ours in (True, False)]
    times, (first, second) = np.array([point.median_ms for point in points]), _half_accuracies(points)
    stretch = shared_stretch(*(times[side] for side in sides))
    ours, theirs = (cross_fitted(times[side], first[:, side], second[:, side], *stretch) for side in sides)
    ratios = ours / np.maximum(theirs, 1e-9)
    control = {"supernet": float(ours[0]), "controls": float(theirs[0]), "from, to, ms": list(stretch)}
    return Row(
        "area under accuracy against time, over the controls'", reference.name, float(ratios[0]), "×",
        at_least=1.0, spread=interval(ratios[1:]), control=control, note=CURVE_NOTE,
    )  # fmt: skip


def _half_accuracies(points: Sequence[MeasuredPoint]) -> list[FloatArray]:
    """Of each half of the test (1 + resamples, points): on the half itself, then on its resamples."""
    right = np.stack([point.right for point in points], axis=1)
    parts = [right[half] for half in halves(len(right))]
    return [np.vstack([part.mean(axis=0), resample(part, seed=seed)]) for seed, part in enumerate(parts)]


def _manifest_row(reference: Reference, points: Sequence[MeasuredPoint], committed: Committed | None) -> Row:
    """Of the bundle in the repository; where there is none yet, of those in the folder."""
    off = max(abs(point.accuracy - point.record.accuracy) for point in points) * 100
    control, note = None, "of the bundles in the folder, as none is committed yet"
    if committed is not None:
        off, control = committed.off_points, {"sha256": committed.sha256}
        note = f"of {committed.path.name}, committed" + (
            "" if committed.measured else "; the points are of another bundle"
        )
    figure = "a bundle's own accuracies, largest difference from those measured"
    return Row(figure, reference.name, off, "points", at_most=MANIFEST_POINTS_MAX, control=control, note=note)


def _percent(point: MeasuredPoint) -> float:
    return point.accuracy * 100
