"""Rows and counts of `bench.contention`, from its rounds alone.

Wrong or late answers are counted as expected over the whole test (`Outcome.expected`), beside it as they came.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...policies.situation import OperatingPoint
from ..bootstrap import interval, resample
from ..recordings import Route
from ..report import FloatArray, Row, spread
from .comparisons import (
    BEST_FIXED,
    BEST_HERE,
    CLAIRVOYANT,
    COMPARISONS,
    COUNTED,
    FAILED,
    HERE_BY_ALL,
    MET,
    PHASE_BY_ALL,
    PHASE_ORACLE,
    Comparison,
)
from .contestants import ONWARD, SWITCHED
from .rounds import Round
from .statistics import (
    RESAMPLES,
    Counted,
    Flags,
    Outcome,
    Ratio,
    Resampled,
    best_in_hindsight,
    best_of_phases,
    clairvoyant,
    ratio,
)

LATE_MS = 2.0


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the points of a bundle, and of its controls'.

    accuracy: (points,) held out, as the bundle says. right: (samples, points) whether a point answers a test sample
    rightly. labels: (samples,). switched: the share of the test that each point of the switched networks gets wrong.
    """

    points: tuple[OperatingPoint, ...]
    accuracy: FloatArray
    right: Flags
    labels: NDArray[np.int64]
    switched: Mapping[OperatingPoint, float] = field(default_factory=dict)

    @property
    def error(self) -> FloatArray:
        """(points,) the share of the test that each gets wrong."""
        wrong: FloatArray = 1 - self.right.mean(axis=0)
        return wrong

    def errors(self, name: str, answered: Sequence[OperatingPoint | None]) -> FloatArray:
        """(rounds,) the same of the points that a contestant answered at; 1 where it didn't."""
        of = self.switched if name == SWITCHED else dict(zip(self.points, self.error.tolist(), strict=True))
        return np.array([1.0 if point is None else of[point] for point in answered])


class Table:
    """All rounds as arrays.

    `points`: (rounds, points) what would have come of each; `outcomes`: of everybody by name, those who choose in
    hindsight among them.
    """

    def __init__(self, rounds: Sequence[Round], known: Known) -> None:
        self.rounds, self.known = rounds, known
        self.deadline_ms = np.array([now.deadline_ms for now in rounds])
        self.environments = [now.environment for now in rounds]
        self.resampled = Resampled.of([now.visit for now in rounds], self.environments)
        self.reached_ms = np.array([_reached_ms(now, known.points) for now in rounds])
        self._samples = np.array([now.sample for now in rounds])
        self.points = self._points()
        self.chosen = self._choices()
        hindsight = {name: self.points.pick(chosen) for name, chosen in self.chosen.items()}
        self.outcomes = {name: self._answered(name) for name in rounds[0].answers} | hindsight

    def where(self, environment: str | None) -> Flags:
        """(rounds,) those of an environment, or all."""
        return np.array([environment in (None, name) for name in self.environments])

    def latencies_ms(self, name: str) -> FloatArray:
        """(rounds,) of a contestant."""
        return np.array([now.answers[name].latency_ms for now in self.rounds])

    def _answered(self, name: str) -> Outcome:
        labels = np.array([now.answers[name].label for now in self.rounds])
        late = self.latencies_ms(name) > self.deadline_ms
        errors = self.known.errors(name, [now.answers[name].point for now in self.rounds])
        return Outcome.of(late, labels == self.known.labels[self._samples], errors)

    def _points(self) -> Outcome:
        late = self.reached_ms > self.deadline_ms[:, None]
        return Outcome.of(late, self.known.right[self._samples], self.known.error)

    def _choices(self) -> dict[str, NDArray[np.integer]]:
        here = [(now.environment, now.deadline_ms) for now in self.rounds]
        phases = [(now.phase, now.deadline_ms) for now in self.rounds]
        by_all = partial(
            best_of_phases, deadline_ms=self.deadline_ms, reached_ms=self.reached_ms, error=self.known.error
        )
        return {
            BEST_FIXED: best_in_hindsight(self.deadline_ms.tolist(), self.points),
            BEST_HERE: best_in_hindsight(here, self.points),
            HERE_BY_ALL: by_all(self.environments),
            PHASE_ORACLE: best_in_hindsight(phases, self.points),
            PHASE_BY_ALL: by_all([now.phase for now in self.rounds]),
            CLAIRVOYANT: clairvoyant(self.reached_ms, self.deadline_ms, self.known.accuracy),
        }


def comparison_rows(table: Table, network: str) -> list[Row]:
    """Every comparison whose contestants took part and whose other side ever counted anything."""
    rows = [_comparison_row(table, network, each) for each in COMPARISONS
            if {each.ours, each.theirs} <= set(table.outcomes)]  # fmt: skip
    return [row for row in rows if row is not None]


def _comparison_row(table: Table, network: str, each: Comparison) -> Row | None:
    mask = table.where(each.environment)
    found = _ratio(table, each, each.count, mask)
    if found is None:
        return None
    control: dict[str, Any] = {"rounds": int(mask.sum())} | _amounts(table, each, mask)
    places = {name: table.where(name) & mask for name in sorted(set(table.environments))}
    control["by environment"] = {name: _amounts(table, each, place) for name, place in places.items() if place.any()}
    if each.count == FAILED and (counted := _ratio(table, each, COUNTED, mask)) is not None:
        control["counted"] = {"value": counted.value, "interval": counted.interval}
    return Row(each.figure, network, found.value, "×", each.at_most, each.at_least, found.interval, control, each.note)


def _ratio(table: Table, each: Comparison, count: str, mask: Flags) -> Ratio | None:
    ours, theirs = (_count(table.outcomes[name], count) * mask for name in (each.ours, each.theirs))
    return ratio(ours, theirs, table.resampled)


def _amounts(table: Table, each: Comparison, mask: Flags) -> dict[str, float]:
    return {name: _amount(table.outcomes[name], each.count, mask) for name in (each.ours, each.theirs)}


def _amount(outcome: Outcome, count: str, mask: Flags) -> float:
    return round(float(_count(outcome, count)[mask].sum()), 2)


def _count(outcome: Outcome, count: str) -> Counted:
    """(rounds,) what is counted of each."""
    counted: dict[str, Counted] = {MET: ~outcome.late, FAILED: outcome.expected, COUNTED: outcome.failed}
    return counted[count]


def lateness_rows(table: Table, network: str) -> list[Row]:
    """How much later than the deadline `result()` returned where an exit had been reached, in each environment."""
    if ONWARD not in table.outcomes:
        return []
    reached = np.array([now.answers[ONWARD].point is not None for now in table.rounds])
    late_ms = np.maximum(table.latencies_ms(ONWARD) - table.deadline_ms, 0.0)
    masks = {name: reached & table.where(name) for name in sorted(set(table.environments))}
    return [_lateness_row(late_ms[mask], network, name) for name, mask in masks.items() if mask.any()]


def _lateness_row(late_ms: FloatArray, network: str, environment: str) -> Row:
    drawn = np.random.default_rng(0).choice(late_ms, (RESAMPLES, len(late_ms)))
    control = {"requests": len(late_ms), "median, ms": float(np.median(late_ms)), "most, ms": float(late_ms.max())}
    return Row(
        f"result() later than the deadline, p99, {environment}", network, float(np.quantile(late_ms, 0.99)), "ms",
        at_most=LATE_MS if environment == "idle" else None, spread=interval(np.quantile(drawn, 0.99, axis=1)),
        control=control, note="of requests that go on until the deadline, an exit having been reached",
    )  # fmt: skip


def precision_rows(table: Table, network: str) -> list[Row]:
    """int8 against fp32 at the full width's final exit: accuracy on the test, time on the idle machine."""
    final = {point.precision: place for place, point in enumerate(table.known.points) if _is_full(point, table.known)}
    if not {"fp32", "int8"} <= set(final):
        return []
    right = table.known.right[:, [final["fp32"], final["int8"]]]
    lost = resample(right)[:, 0] - resample(right)[:, 1]
    idle = table.reached_ms[table.where("idle")]
    faster = idle[:, final["fp32"]] / idle[:, final["int8"]]
    points = 100 * float(right[:, 0].mean() - right[:, 1].mean())
    return [
        Row("accuracy that int8 loses, full width", network, points, "points", at_most=0.5, spread=interval(100 * lost),
            control={"samples": len(right), "fp32, int8": right.mean(axis=0).tolist()}),
        Row("int8 faster than fp32, full width, idle", network, float(np.median(faster)), "×", at_least=2.5,
            spread=spread(faster)),
    ]  # fmt: skip


def _is_full(point: OperatingPoint, known: Known) -> bool:
    largest = max((other.width, other.depth) for other in known.points)
    return (point.width, point.depth) == largest


def counts(table: Table) -> list[dict[str, Any]]:
    """Of everybody in every environment at every deadline: requests, met, wrong or late as counted and as expected."""
    places = sorted({(now.environment, now.deadline_ms) for now in table.rounds})
    return [_counts(table, name, *place) for place in places for name in table.outcomes]


def _counts(table: Table, name: str, environment: str, deadline_ms: float) -> dict[str, Any]:
    mask = table.where(environment) & (table.deadline_ms == deadline_ms)
    outcome = table.outcomes[name]
    return {
        "environment": environment,
        "deadline_ms": deadline_ms,
        "who": name,
        "requests": int(mask.sum()),
        "met": int((~outcome.late & mask).sum()),
        "wrong_or_late": int((outcome.failed & mask).sum()),
        "expected_wrong_or_late": _amount(outcome, FAILED, mask),
    }


def choices(table: Table) -> list[dict[str, Any]]:
    """The points chosen in hindsight: by whom, for which phase and deadline."""
    chosen = {
        (who, now.phase, now.deadline_ms, table.known.points[point])
        for who in (BEST_FIXED, BEST_HERE, PHASE_ORACLE)
        for now, point in zip(table.rounds, table.chosen[who], strict=True)
    }
    named = ("who", "phase", "deadline_ms", "point")
    return [dict(zip(named, each, strict=True)) for each in sorted(chosen)]


def _reached_ms(now: Round, points: Sequence[OperatingPoint]) -> list[float]:
    """(points,) when each was reached in this round: a final exit in one graph, any other on the way there."""
    at_exits = {route: np.cumsum([leg.wall_ms for leg in path.legs]).tolist() for route, path in now.paths.items()}
    return [
        at_exits[Route(point.width, point.precision, in_one=True)][-1]
        if point.depth == len(at_exits[Route(point.width, point.precision)])
        else at_exits[Route(point.width, point.precision)][point.depth - 1]
        for point in points
    ]
