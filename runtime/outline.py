"""What requests can choose from where they stand, laid out once, so that a number of samples adds its times only."""

from collections.abc import Collection, Sequence
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..policies.situation import FloatArray, OperatingPoint, Step
from .manifest import Manifest
from .menu import Exit, Menu, Menus
from .steps import all_steps, routers, spans, ways

Way = tuple[int, float, str]  # where a step starts, width, precision
_ALIKE = 0.001  # accuracies nearer than this: the standard error of two points' difference on 10,000 samples is more


class Place(NamedTuple):
    """Where requests stand, but for the times. `at`: (steps,) where each step is in `Outline.steps`."""

    steps: tuple[Step, ...]
    accuracy: FloatArray
    legs: dict[Step, tuple[Step, ...]]
    rows: dict[Step, int]
    on_way: dict[Step, list[int]]
    graphs: NDArray[np.intp]
    at: NDArray[np.intp]


class Outline:
    """All that requests can choose from, but for the times: made once, so that a number of samples adds those only.

    `steps`: what `menus` wants to know the times of.

    Args:
        failed: points whose exits nothing leads to any more.
        whole: steps that are run as one graph; all others exit by exit.
        first: a point that is offered at the start whatever it is worth, from whose exits on one may start again at
            a greater width; None: nobody does.
        routed: what a router's answer is of, which is offered at the start then.
    """

    def __init__(
        self,
        manifest: Manifest,
        failed: Collection[OperatingPoint] = (),
        whole: Collection[Step] = (),
        first: OperatingPoint | None = None,
        routed: Sequence[OperatingPoint] = (),
    ):
        self.steps = all_steps(manifest)
        self._failed, self._whole, self._at = failed, whole, {step: at for at, step in enumerate(self.steps)}
        self._first, self._columns = first, {point: column for column, point in enumerate(routed)}
        self._routers = routers(manifest) if routed else ()
        # where an exit leads comes before it
        records = sorted(manifest.points, key=lambda record: (-record.width, -record.depth))
        self._points = {record.point: record for record in records}
        self._behind: dict[OperatingPoint, Place] = {}
        for point in self._points:
            self._behind[point] = self._place(spans(manifest, point.width, point.precision, point.depth + 1))
        self._start = self._place(tuple(step for way in ways(manifest) for step in spans(manifest, *way)))
        self._kept: dict[tuple[Step, ...], Place] = {self._start.steps: self._start}

    def targets(self, times: FloatArray, median: int) -> tuple[Step, ...]:
        """What is worth heading for from the start, or from a router; arguments as of `menus`."""
        targets = self._targets(times, median)
        return tuple(target._replace(first=1) for target in targets) if self._routers else targets

    def _targets(self, times: FloatArray, median: int) -> tuple[Step, ...]:
        start = self._start
        targets = unbeaten(start.steps, start.accuracy, times[start.at][:, [median, -1]])
        first = None if self._first is None else self._first.whole_way
        return targets if first in targets or first not in start.rows else (*targets, first)

    def menus(
        self, times: FloatArray, median: int, every: bool = True, watts: float = 0.0, answer_ms: float = 0.0
    ) -> Menus:
        """What requests of one number of samples choose from.

        Args:
            times: (`steps`, levels) milliseconds from where each step starts to its exit, on the idle device.
            median: the place of 0.5 among the levels.
            every: also offer at the start what isn't worth it, see `worthwhile`.
            watts: power while these steps run, each sample's share of it.
            answer_ms: from the last exit on, to make the answers.
        """
        energy_mj = times[:, median] * watts
        exits: dict[OperatingPoint, Exit] = {}

        def menu(place: Place) -> Menu:
            after = {step: exits[step.point] for step in place.steps}
            steps, accuracy, legs, rows, on_way, graphs, at = place
            answered_ms = times[at] + answer_ms
            soonest_ms = float(answered_ms[:, median].min(initial=inf))
            columns = np.array([self._columns.get(step.point, -1) for step in steps], np.intp)
            return Menu(
                steps, times[at], answered_ms, answer_ms, accuracy, after, legs, rows, on_way, graphs, soonest_ms,
                energy_mj[at], columns,
            )  # fmt: skip

        start = self._start if every else self._worthwhile(times, median)
        for point, record in self._points.items():
            expected_ms = float(times[self._at[point.whole_way], median])
            exits[point] = Exit(
                record, point, expected_ms, menu(self._onward(point, start)), self._columns.get(point, -1)
            )
        for router in self._routers:
            behind, took_ms = menu(self._behind_router(router)), float(times[self._at[router], median])
            exits[router.point] = Exit(None, router.point, took_ms, behind)
        return Menus(menu(self._with_routers(start)), exits)

    def _behind_router(self, router: Step) -> Place:
        """All in its precision, from the stem's features on: what isn't worth it for most may be for some."""
        steps = tuple(step._replace(first=1) for step in self._start.steps if step.precision == router.precision)
        return self._kept_place(steps)

    def _with_routers(self, start: Place) -> Place:
        """As many steps more, none of which is on another's way: those that work and lead somewhere."""
        working = [router for router in self._routers if router.point not in self._failed]
        useful = [router for router in working if self._behind_router(router).steps]
        if not useful:
            return start
        more = {router: len(start.steps) + number for number, router in enumerate(useful)}
        return Place(
            (*start.steps, *more),
            np.append(start.accuracy, np.zeros(len(more))),
            start.legs | {router: (router,) for router in more},
            start.rows | more,
            start.on_way | {router: [row] for router, row in more.items()},
            np.append(start.graphs, np.ones(len(more), np.intp)),
            np.append(start.at, [self._at[router] for router in more]),
        )

    def _worthwhile(self, times: FloatArray, median: int) -> Place:
        return self._kept_place(worthwhile(self._start.steps, self._targets(times, median)))

    def _onward(self, point: OperatingPoint, start: Place) -> Place:
        """Behind an exit; where that is on the way to `first`, also what is wider, from the start."""
        behind, first = self._behind[point], self._first
        if first is None or first._replace(depth=point.depth) != point or point.depth > first.depth:
            return behind
        wider = tuple(step for step in start.steps if step.width > point.width)
        return self._kept_place((*behind.steps, *wider))

    def _kept_place(self, steps: tuple[Step, ...]) -> Place:
        if steps not in self._kept:
            self._kept[steps] = self._place(steps)
        return self._kept[steps]

    def _place(self, steps: tuple[Step, ...]) -> Place:
        """`steps`: those of a way nearest exit first."""
        steps = tuple(step for step in steps if step.point not in self._failed)
        accuracy = np.array([self._points[step.point].accuracy for step in steps])
        at = np.array([self._at[step] for step in steps], np.intp)
        on_way = _on_way(steps)
        graphs = np.array([1 if step in self._whole else len(on_way[step]) for step in steps], np.intp)
        return Place(steps, accuracy, self._legs(steps), _rows(steps), on_way, graphs, at)

    def _legs(self, steps: tuple[Step, ...]) -> dict[Step, tuple[Step, ...]]:
        """Of the steps from one place: the nearest exit on the way, then on from there."""
        nearest: dict[Way, Step] = {}
        legs: dict[Step, tuple[Step, ...]] = {}
        for step in steps:
            near = nearest.setdefault(_way(step), step)
            onward = step._replace(first=near.depth + 1)
            legs[step] = (step,) if step is near else (near, *self._behind[near.point].legs[onward])
        return legs


def unbeaten(steps: tuple[Step, ...], accuracy: FloatArray, times: FloatArray) -> tuple[Step, ...]:
    """The steps without those that another beats: about as accurate, and as soon at the median and the top.

    About, as so little more on held-out samples is mostly chance, and a policy would risk the deadline for it.

    Args:
        accuracy: (steps,)
        times: (steps, 2) at the median and at the top.
    """
    others, later = accuracy[None], times[:, None]  # each step's row has what the others are like
    as_good = (others >= accuracy[:, None] - _ALIKE) & (times[None] <= later).all(axis=2)
    better = (others > accuracy[:, None]) | (times[None] < later).any(axis=2)
    is_beaten = np.any(as_good & better, axis=1)
    return tuple(step for step, beaten in zip(steps, is_beaten, strict=True) if not beaten)


def worthwhile(steps: tuple[Step, ...], targets: tuple[Step, ...]) -> tuple[Step, ...]:
    """The steps that lie on the way to any of the targets: passing their exits is the answer in hand there."""
    deepest: dict[Way, int] = {}
    for target in targets:
        deepest[_way(target)] = max(target.depth, deepest.get(_way(target), 0))
    return tuple(step for step in steps if step.depth <= deepest.get(_way(step), 0))


def _rows(steps: tuple[Step, ...]) -> dict[Step, int]:
    return {step: row for row, step in enumerate(steps)}


def _on_way(steps: tuple[Step, ...]) -> dict[Step, list[int]]:
    """`steps`: those of a way nearest exit first."""
    on_way: dict[Step, list[int]] = {}
    latest: dict[Way, list[int]] = {}
    for row, step in enumerate(steps):
        on_way[step] = latest[_way(step)] = [*latest.get(_way(step), ()), row]
    return on_way


def _way(step: Step) -> Way:
    return step.first, step.width, step.precision
