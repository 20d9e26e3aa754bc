"""What comes out of a reference network and its controls: the figures that issue 4 asks for, with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .references import Reference
from .report import Row, spread
from .train_jobs import SUPERNET
from .train_points import MeasuredPoint
from .train_statistics import FloatArray, interval, mean_accuracy, resample, shared_stretch

History = list[dict[str, float]]
MANIFEST_POINTS_MAX = 0.1  # between a bundle's own accuracies and those measured here
CURVE_NOTE = (
    "accuracy(t) = the best accuracy of a point whose median time is at most t; its mean from the slower of the two "
    "sides' fastest points to the slower of their slowest; the interval resamples the test, times stay the medians"
)


@dataclass(frozen=True, slots=True)
class Column:
    """A measured point, and its accuracy on every resample of the test, (resamples,), paired between points."""

    point: MeasuredPoint
    resampled: FloatArray


def make_rows(reference: Reference, points: Sequence[MeasuredPoint], histories: dict[str, History]) -> list[Row]:
    """All figures; `histories`: by the jobs' names."""
    resampled = resample(np.stack([point.right for point in points], axis=1))
    columns = [Column(point, resampled[:, i]) for i, point in enumerate(points)]
    return [
        *_width_rows(reference, columns),
        *_exit_rows(reference, columns),
        *_time_rows(reference, histories),
        _curve_row(reference, columns),
        _manifest_row(reference, points),
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
    """Each early exit of the full width: the share that it keeps of the final exit's accuracy."""
    line = sorted((c for c in _of_supernet(columns) if c.point.width == 1), key=lambda c: c.point.depth)
    *early, final = line
    shares = [column.point.record.macs / final.point.record.macs for column in early]
    goals: dict[int, float] = {}
    for asked, kept in reference.goals.exits if early else ():
        nearest = int(np.argmin(np.abs(np.array(shares) - asked)))
        goals[nearest] = max(kept, goals.get(nearest, 0.0))
    return [_exit_row(reference, column, final, goals.get(i), shares[i]) for i, column in enumerate(early)]


def _exit_row(reference: Reference, ours: Column, final: Column, at_least: float | None, share: float) -> Row:
    kept = int(ours.point.right.sum()) / max(int(final.point.right.sum()), 1)
    return Row(
        f"exit {ours.point.depth} of the full width, share kept of its final accuracy", reference.name, kept, "",
        at_least=at_least, spread=interval(ours.resampled / np.maximum(final.resampled, 1e-9)),
        control={"share of the MACs": share, "share of the time": ours.point.median_ms / final.point.median_ms},
        note="its own head counts to its MACs; paired bootstrap over the test's samples",
    )  # fmt: skip


def _time_rows(reference: Reference, histories: dict[str, History]) -> list[Row]:
    """Joint training against all controls' trainings, by the epochs' seconds."""
    seconds = {name: np.array([epoch["seconds"] for epoch in history]) for name, history in histories.items()}
    joint = seconds.pop(SUPERNET)
    apart = np.sum(list(seconds.values()), axis=0)
    note = f"trained {len(seconds)} controls; the interval is over the epochs' ratios, epoch by epoch"
    in_all = {"joint, s": float(joint.sum()), "controls, s": float(apart.sum())}
    return [
        Row(
            "joint training over the controls together", reference.name, float(joint.sum() / apart.sum()), "×",
            at_most=1.0, spread=spread(joint / apart), control=in_all, note=note,
        ),
        Row("joint training", reference.name, float(joint.sum() / 60), "min", at_most=reference.goals.minutes),
    ]  # fmt: skip


def _curve_row(reference: Reference, columns: Sequence[Column]) -> Row:
    """Area under accuracy against time, the supernet's over the controls'."""
    sides = (_of_supernet(columns), _controls(columns))
    times = [np.array([column.point.median_ms for column in side]) for side in sides]
    stretch = shared_stretch(*times)
    ours, theirs = (mean_accuracy(t, _accuracies(side), *stretch) for t, side in zip(times, sides, strict=True))
    ratios = ours / np.maximum(theirs, 1e-9)
    control = {"supernet": float(ours[0]), "controls": float(theirs[0]), "from, to, ms": list(stretch)}
    return Row(
        "area under accuracy against time, over the controls'", reference.name, float(ratios[0]), "×",
        at_least=1.0, spread=interval(ratios[1:]), control=control, note=CURVE_NOTE,
    )  # fmt: skip


def _accuracies(side: Sequence[Column]) -> FloatArray:
    """(1 + resamples, points): on the test itself, then on its resamples."""
    return np.stack([np.append(column.point.accuracy, column.resampled) for column in side], axis=1)


def _manifest_row(reference: Reference, points: Sequence[MeasuredPoint]) -> Row:
    off = max(abs(point.accuracy - point.record.accuracy) for point in points) * 100
    figure = "a bundle's own accuracies, largest difference from these"
    return Row(figure, reference.name, off, "points", at_most=MANIFEST_POINTS_MAX)


def _percent(point: MeasuredPoint) -> float:
    return point.accuracy * 100
