"""What a request can do next, with the profile's times and the bundle's accuracies laid out for the policy."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..policies.scores import highest_score
from ..policies.situation import Evidence, FloatArray, OperatingPoint, Policy, Situation, Step, Stop
from .manifest import Manifest, PointRecord

Way = tuple[int, float, str]  # where a step starts, width, precision
_ALIKE = 0.001  # accuracies nearer than this: the standard error of two points' difference on 10,000 samples is more


@dataclass(frozen=True, slots=True)
class Menu:
    """The steps possible where a request stands. Made once, shared by all requests that stand there.

    `idle_ms`: (steps, levels of the profile) from here to each step's exit on the idle device; `answered_ms`: the same
    until an answer is made of it, `answer_ms` later; `accuracy`: (steps,);
    `after`: the exit that each step leads to; `legs`: the same way exit by exit; `rows`: its place in the arrays;
    `on_way`: the places of the exits on its way, itself the last; `graphs`: (steps,) how many it is run as.
    `soonest_ms`: in which half of the requests would be answered by one of the exits, on the idle device.
    `energy_mj`: (steps,) of each sample, by the profile's median and power; `columns`: (steps,) of a router's answer.
    """

    steps: tuple[Step, ...]
    idle_ms: FloatArray
    answered_ms: FloatArray
    answer_ms: float
    accuracy: FloatArray
    after: "dict[Step, Exit]"
    legs: dict[Step, tuple[Step, ...]]
    rows: dict[Step, int]
    on_way: dict[Step, list[int]]
    graphs: NDArray[np.intp]
    soonest_ms: float
    energy_mj: FloatArray
    columns: NDArray[np.intp]

    def ends(self, slack_ms: float) -> Stop | None:
        """Why a request with an exit in hand ends here whatever the policy says; None: that is the policy's to say.

        Nothing goes on that would be late more often than not even on the idle device.
        """
        if not self.steps:
            return Stop.FINAL
        return Stop.DEADLINE if slack_ms < self.soonest_ms else None

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

    def taken_mj(self, step: Step, parts: tuple[Step, ...], done: int) -> float:
        """What a step of this menu took of each sample; where not all of its parts were done, those that began."""
        if done == len(parts):
            return self.energy_mj[self.rows[step]]
        menu, taken_mj = self, 0.0
        for part in parts[: done + 1]:
            taken_mj += menu.energy_mj[menu.rows[part]]
            menu = menu.after[part].menu
        return taken_mj


@dataclass(frozen=True, slots=True)
class Exit:
    """An exit on a path: what it answers with and what is possible from there.

    `record`: None where a router is, at depth 0, which answers nothing; `expected_ms`: the profile's median from a
    request's start to here; `column`: of a router's answer.
    """

    record: PointRecord | None
    point: OperatingPoint
    expected_ms: float
    menu: Menu
    column: int = -1

    def read(self, logits: FloatArray, chances: FloatArray | None = None) -> list[Evidence]:
        """What this exit says about each sample; `logits`: (samples, classes); of a router: nothing.

        `chances`: (samples, points) how likely each point is right, as a router said; None: there was none.
        """
        record = self.record
        if record is None:
            return []
        accuracies = [record.accuracy] * len(logits) if chances is None else chances[:, self.column].tolist()
        return [self._evidence(record, *row) for row in zip(logits, accuracies, strict=True)]

    def _evidence(self, record: PointRecord, logits: FloatArray, accuracy: float) -> Evidence:
        top, confidence = highest_score(logits, record.temperature)
        return Evidence(self.point, logits, record.temperature, top, confidence, accuracy)


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
    begins = (*starts(manifest), *([1] if manifest.has_router else []))
    steps = (step for way in ways(manifest) for first in begins for step in spans(manifest, *way, first))
    return (*steps, *routers(manifest))


def routers(manifest: Manifest) -> tuple[Step, ...]:
    """The stem and the router in each precision, none where there is no router."""
    return tuple(map(manifest.router_step, manifest.precisions)) if manifest.has_router else ()


def routed_legs(manifest: Manifest, width: float, precision: str) -> tuple[Step, ...]:
    """The steps of a request that goes exit by exit from a router."""
    begins = (1, *starts(manifest)[1:])
    onward = tuple(spans(manifest, width, precision, first)[0] for first in begins)
    return (manifest.router_step(precision), *onward)


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
        self._routers = tuple([step for step in routers(manifest) if routed and step.point not in failed])
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
        """As many steps more, none of which is on another's way."""
        if not self._routers:
            return start
        more = {router: len(start.steps) + number for number, router in enumerate(self._routers)}
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
