"""What early exits and escalation would have answered, for every threshold, on samples whose exits are all known."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ...policies import EXIT_RULES, make_exit_rule
from ...policies.early import certainties, early_labels, stop_depths
from ...policies.exits import ThresholdRule
from ...policies.situation import OperatingPoint
from ...runtime.manifest import PointRecord
from ...training.certify import Logits, thresholds

PLAIN = "probability"  # the rule that all others are compared with
ESCALATION = "escalation by "
_RESAMPLES = 2000
_ONE_SIDED = 1.645  # standard errors above which 5 % are

IntArray = NDArray[np.integer]
Route = tuple[OperatingPoint, ...]  # exits that a request ends at: one, or where it looked first and where it ended


class Sides(NamedTuple):
    """Something of the samples that choose, and of the test's."""

    fit: NDArray[Any]
    test: NDArray[Any]


class Times(NamedTuple):
    """Median milliseconds: along routes whose exits are looked at, and to points in one graph."""

    adaptive: Mapping[Route, float]
    fixed: Mapping[OperatingPoint, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """One rule on the way to one point, or one escalation, under every threshold, safest first.

    `family`: what it is a case of; `routes`: where samples can end; `ends`: (samples, thresholds) which of them each
    does; `right`: (samples, thresholds) whether that is the label; both on either side. `macs`: (routes,).
    """

    family: str
    name: str
    precision: str
    thresholds: tuple[float, ...]
    routes: tuple[Route, ...]
    macs: NDArray[np.float64]
    ends: Sides
    right: Sides

    def accuracy(self, side: str) -> NDArray[np.float64]:
        """(thresholds,) on one side."""
        right: NDArray[np.float64] = getattr(self.right, side).mean(axis=0)
        return right

    def mean_macs(self, side: str) -> NDArray[np.float64]:
        """(thresholds,) on one side."""
        macs: NDArray[np.float64] = self.macs[getattr(self.ends, side)].mean(axis=0)
        return macs

    def times_ms(self, side: str, times: Times) -> NDArray[np.float64]:
        """(samples, thresholds); where nothing stops early, that is one graph."""
        each = np.array([times.adaptive[route] for route in self.routes])
        taken: NDArray[np.float64] = each[getattr(self.ends, side)]
        if len(self.routes[-1]) == 1:
            taken[:, np.isinf(self.thresholds)] = times.fixed[self.routes[-1][0]]
        return taken


class Pick(NamedTuple):
    """A curve at one of its thresholds."""

    curve: Curve
    at: int

    @property
    def threshold(self) -> float:
        return self.curve.thresholds[self.at]

    @property
    def right(self) -> NDArray[np.bool_]:
        """(samples,) of the test."""
        right: NDArray[np.bool_] = self.curve.right.test[:, self.at].astype(bool)
        return right

    @property
    def says(self) -> str:
        return f"{self.curve.name}, threshold {self.threshold:.4g}"


def all_curves(points: Sequence[PointRecord], logits: tuple[Logits, Logits], labels: Sides) -> list[Curve]:
    """Every rule on the way to every point, and every escalation from a width's final exit to the full network.

    Args:
        points: with their temperatures.
        logits: of both sides, by point, (samples, classes).
        labels: of both sides, (samples,).
    """
    by_point = {record.point: record for record in points}
    ways: dict[tuple[float, str], list[PointRecord]] = {}
    for record in sorted(points, key=lambda record: record.depth):
        ways.setdefault((record.width, record.precision), []).append(record)
    curves: list[Curve] = []
    for rule, records in product(EXIT_RULES, ways.values()):
        curves += _chains(rule, records, logits, labels)
    for precision in dict.fromkeys(record.precision for record in points):
        last = full_point(by_point, precision)
        firsts = [records[-1] for way, records in ways.items() if way[1] == precision and way[0] < last.width]
        rules = [rule for rule in EXIT_RULES if rule != "patience"]  # which needs more than one exit
        curves += [_escalation(rule, first, by_point[last], logits, labels) for rule, first in product(rules, firsts)]
    return curves


def full_point(points: Iterable[OperatingPoint], precision: str) -> OperatingPoint:
    """The final exit of the full width."""
    return max(point for point in points if point.precision == precision)


def _chains(rule: str, records: Sequence[PointRecord], logits: Sequence[Logits], labels: Sides) -> Iterator[Curve]:
    """To each exit of a width, nearest first; `records` by depth."""
    points = [record.point for record in records]
    exits = [[of_points[point] for point in points] for of_points in logits]
    certainty = [_certainty(rule, each, records) for each in exits]
    answers = [np.stack([one.argmax(axis=1) for one in each], axis=1) for each in exits]
    for last in range(1, len(points) + 1):
        grid = thresholds(rule, last)
        depths = [stop_depths(each[:, :last], np.array(grid)) for each in certainty]
        right = [
            early_labels(each[:, :last], at) == truth[:, None]
            for each, at, truth in zip(answers, depths, labels, strict=True)
        ]
        point, macs = points[last - 1], np.array([float(record.macs) for record in records[:last]])
        name = f"{rule} on the way to width {point.width:g}, exit {point.depth}, {point.precision}"
        routes = tuple((point,) for point in points[:last])
        ends = Sides(*((at - 1).astype(np.int8) for at in depths))
        yield Curve(rule, name, point.precision, grid, routes, macs, ends, Sides(*right))


def _escalation(rule: str, first: PointRecord, last: PointRecord, logits: Sequence[Logits], labels: Sides) -> Curve:
    grid = thresholds(rule, last.depth)
    ends, right = [], []
    for of_points, truth in zip(logits, labels, strict=True):
        look, full = of_points[first.point], of_points[last.point]
        unsure = _certainty(rule, [look], [first])[:, :1] < np.array(grid)[None]
        ends.append(unsure.astype(np.int8))
        both = np.stack([look.argmax(axis=1) == truth, full.argmax(axis=1) == truth], axis=1)
        right.append(np.take_along_axis(both, unsure.astype(np.intp), axis=1))
    macs = np.array([float(first.macs), float(first.macs + last.macs)])
    routes: tuple[Route, ...] = ((first.point,), (first.point, last.point))
    name = f"{ESCALATION}{rule} from width {first.width:g}, {first.precision}"
    return Curve(ESCALATION + rule, name, first.precision, grid, routes, macs, Sides(*ends), Sides(*right))


def _certainty(rule: str, exits: Sequence[NDArray[np.float32]], records: Sequence[PointRecord]) -> NDArray[np.floating]:
    measure = cast(ThresholdRule, make_exit_rule(rule, threshold=inf))
    return certainties(measure, exits, [record.temperature for record in records])


def cheapest(curves: Iterable[Curve], reference: NDArray[np.bool_], lost: float) -> Pick:
    """Of the fewest MACs among those that lose at most so much accuracy by the upper end of a one-sided 95 % interval.

    What is chosen among many by few samples is in part the luckiest of them, and loses more on others.

    Args:
        reference: whether the full network is right on each of the samples that choose.

    Raises:
        ValueError: there is none.
    """
    picks = [
        Pick(curve, at) for curve in curves for at in np.flatnonzero(_surely_lost(curve, reference) <= lost).tolist()
    ]
    if not picks:
        raise ValueError(f"nothing loses at most {lost:.1%}, as far as {len(reference)} samples can show")
    return min(picks, key=lambda pick: float(pick.curve.mean_macs("fit")[pick.at]))


def _surely_lost(curve: Curve, reference: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(thresholds,) the upper end of the mean accuracy lost, of pairs, taken to be normal."""
    more, less = reference[:, None] & ~curve.right.fit, ~reference[:, None] & curve.right.fit
    differing = (more | less).mean(axis=0)
    mean = more.mean(axis=0) - less.mean(axis=0)
    surely: NDArray[np.float64] = mean + _ONE_SIDED * np.sqrt(np.maximum(differing - mean**2, 0.0) / len(reference))
    return surely


def best_within(curves: Iterable[Curve], cost: Callable[[Curve], NDArray[np.float64]], most: float) -> Pick | None:
    """The most accurate on the samples that choose, whose cost, (thresholds,), is at most that; None where none is."""
    best: tuple[float, Pick] | None = None
    for curve in curves:
        accuracy = np.where(cost(curve) <= most, curve.accuracy("fit"), -1.0)
        at = int(accuracy.argmax())
        if accuracy[at] >= 0 and (best is None or accuracy[at] > best[0]):
            best = float(accuracy[at]), Pick(curve, at)
    return None if best is None else best[1]


def gain(one: NDArray[np.generic], other: NDArray[np.generic]) -> dict[str, float]:
    """Mean difference of paired samples, and its 95 % bootstrap interval (fixed seed), as `report.spread` names it."""
    difference = one.astype(float) - other.astype(float)
    means = _resampled_means(difference)
    low, high = np.quantile(means, (0.025, 0.975))
    return {"mean": float(difference.mean()), "low": float(low), "high": float(high), "count": len(difference)}


def _resampled_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(resamples,), by how often each value is drawn: few different ones make that quick."""
    different, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(values), counts / len(values), _RESAMPLES)
    means: NDArray[np.float64] = drawn @ different / len(values)
    return means
