"""What a request can do next, with the profile's times and the bundle's accuracies laid out for the policy."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from ..policies.exits import read_scores
from ..policies.situation import Evidence, FloatArray, OperatingPoint, Policy, Situation, Step, Stop
from .manifest import Manifest, PointRecord

IdleTimes = Callable[[Step], tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Menu:
    """The steps possible where a request stands. Made once, shared by all requests that stand there.

    `idle_ms`: (steps, levels of the profile) from here to each step's exit on the idle device; `accuracy`: (steps,);
    `after`: the exit that each step leads to; `legs`: the same way exit by exit; `rows`: its place in the arrays.
    """

    steps: tuple[Step, ...]
    idle_ms: FloatArray
    accuracy: FloatArray
    after: "dict[Step, Exit]"
    legs: dict[Step, tuple[Step, ...]]
    rows: dict[Step, int]

    def choose(self, policy: Policy, situation: Situation) -> Step | Stop:
        """The policy's choice in a situation of these steps.

        Raises:
            RuntimeError: it isn't offered, or an end before the first exit.
        """
        choice = policy.next(situation)
        if choice in self.after or (situation.evidence and isinstance(choice, Stop)):
            return choice
        allowed = "one of situation.steps" + (" or a Stop" if situation.evidence else ", as no exit was reached yet")
        raise RuntimeError(f"policy {policy!r} chose {choice!r}; it must choose {allowed}")


@dataclass(frozen=True, slots=True)
class Exit:
    """An exit on a path: what it answers with and what is possible from there.

    `expected_ms`: the profile's median from a request's start to here.
    """

    record: PointRecord
    point: OperatingPoint
    expected_ms: float
    menu: Menu

    def read(self, logits: FloatArray) -> list[Evidence]:
        """What this exit says about each sample; `logits`: (samples, classes)."""
        return [self._evidence(row) for row in logits]

    def _evidence(self, logits: FloatArray) -> Evidence:
        return Evidence(self.point, *read_scores(logits, self.record.temperature), self.record.accuracy)


class Menus(NamedTuple):
    """All that one number of samples can choose from: where they start, and what is behind every exit."""

    start: Menu
    exits: dict[OperatingPoint, Exit]


def spans(manifest: Manifest, width: float, precision: str, first: int = 0) -> tuple[Step, ...]:
    """The steps that start at stage `first` (0 for the stem, else 2 or more), nearest exit first."""
    return tuple(Step(first, depth, width, precision) for depth in range(max(first, 1), manifest.depths + 1))


def starts(manifest: Manifest) -> tuple[int, ...]:
    """The stages that steps can start at: the stem, and the one after each exit but the final."""
    return (0, *range(2, manifest.depths + 1))


def legs(manifest: Manifest, width: float, precision: str) -> tuple[Step, ...]:
    """The steps of a request that goes exit by exit."""
    return tuple(spans(manifest, width, precision, first)[0] for first in starts(manifest))


def ways(manifest: Manifest) -> tuple[tuple[float, str], ...]:
    """Every width and precision: what stays fixed along a request."""
    return tuple(product(manifest.widths, manifest.precisions))


def all_steps(manifest: Manifest) -> tuple[Step, ...]:
    """Every step that a request can be offered."""
    return tuple(step for way in ways(manifest) for first in starts(manifest) for step in spans(manifest, *way, first))


def make_menus(
    manifest: Manifest,
    levels: tuple[float, ...],
    idle_ms: IdleTimes,
    failed: Collection[OperatingPoint] = (),
    whole: bool = True,
) -> Menus:
    """What requests of one number of samples choose from.

    Args:
        levels: of the quantiles that `idle_ms` gives, 0.5 among them.
        idle_ms: (levels,) milliseconds from where a step starts to its exit.
        failed: points whose exits nothing leads to any more.
        whole: also offer at the start what isn't worth it, see `worthwhile`.
    """
    exits: dict[OperatingPoint, Exit] = {}
    median = levels.index(0.5)

    def menu(steps: tuple[Step, ...]) -> Menu:
        steps = tuple(step for step in steps if step.point not in failed)
        times = np.array([idle_ms(step) for step in steps]).reshape(len(steps), len(levels))
        after = {step: exits[step.point] for step in steps}
        accuracy = np.array([exit.record.accuracy for exit in after.values()])
        return Menu(steps, times, accuracy, after, _legs(after), {step: row for row, step in enumerate(steps)})

    for record in sorted(manifest.points, key=lambda record: -record.depth):  # what lies behind an exit comes before it
        point = OperatingPoint(record.width, record.depth, record.precision)
        behind = spans(manifest, record.width, record.precision, record.depth + 1)
        exits[point] = Exit(record, point, idle_ms(point.whole_way)[median], menu(behind))
    start = menu(tuple(step for way in ways(manifest) for step in spans(manifest, *way)))
    return Menus(start if whole else menu(worthwhile(start, median)), exits)


def worthwhile(start: Menu, median: int) -> tuple[Step, ...]:
    """The steps from the start without those that another beats: as accurate, and as soon at the median and the top.

    One that is beaten stays where it lies on the way to one that isn't: passing its exit is the answer in hand there.
    """
    times = start.idle_ms[:, [median, -1]]
    kept: list[Step] = []
    for row, step in enumerate(start.steps):
        as_good = (start.accuracy >= start.accuracy[row]) & (times <= times[row]).all(axis=1)
        better = (start.accuracy > start.accuracy[row]) | (times < times[row]).any(axis=1)
        if not (as_good & better).any():
            kept.append(step)
    deepest = {_way(step): step.depth for step in kept}  # of each way, nearest first
    return tuple(step for step in start.steps if step.depth <= deepest.get(_way(step), 0))


def _legs(after: dict[Step, Exit]) -> dict[Step, tuple[Step, ...]]:
    """Of the steps from one place: the nearest exit on the way, then on from there."""
    legs: dict[Step, tuple[Step, ...]] = {}
    for step in after:
        nearest = min((other for other in after if _way(other) == _way(step)), key=lambda other: other.depth)
        onward = step._replace(first=nearest.depth + 1)
        legs[step] = (step,) if step == nearest else (nearest, *after[nearest].menu.legs[onward])
    return legs


def _way(step: Step) -> tuple[int, float, str]:
    return step.first, step.width, step.precision
