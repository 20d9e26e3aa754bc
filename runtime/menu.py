"""What a request can do next, with the profile's times and the bundle's accuracies laid out for the policy."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from ..policies.exits import scores_around
from ..policies.situation import Budget, Evidence, FloatArray, OperatingPoint, Policy, Situation, Step, Stop
from .engines import Engine
from .inputs import Samples
from .manifest import Manifest, PointRecord


@dataclass(frozen=True, slots=True)
class Menu:
    """The steps possible where a request stands. Made once, shared by all requests that stand there.

    `finish_ms`: (steps, levels); `accuracy`: (steps,); `after`: the exit that each step leads to.
    """

    steps: tuple[Step, ...]
    finish_ms: FloatArray
    levels: tuple[float, ...]
    accuracy: FloatArray
    after: "dict[Step, Exit]"

    def ask(self, policy: Policy, slack_ms: float, budget: Budget, evidence: tuple[Evidence, ...]) -> Step | Stop:
        """The policy's choice, which isn't asked where nothing is left to choose.

        Raises:
            RuntimeError: it isn't offered, or an end before the first exit.
        """
        if not self.steps and evidence:
            return Stop.FINAL
        situation = Situation(slack_ms, budget, evidence, self.steps, self.finish_ms, self.levels, self.accuracy)
        choice = policy.next(situation)
        if choice in self.after or (evidence and isinstance(choice, Stop)):
            return choice
        allowed = "one of situation.steps" + (" or a Stop" if evidence else ", as no exit was reached yet")
        raise RuntimeError(f"policy {policy!r} chose {choice!r}; it must choose {allowed}")

    def take(self, engine: Engine, step: Step, x: Samples) -> "tuple[Exit, list[Evidence], Samples]":
        """Runs `step` on `x`, the samples as they stand here: its exit, what that says of each, what the next takes."""
        logits, features = engine.run(step, x)
        exit = self.after[step]
        return exit, exit.read(logits), x if features is None else features  # nothing goes on from the final exit

    def leg(self, step: Step) -> Step:
        """The nearest exit on the way that `step` goes."""
        return min((other for other in self.steps if _way(other) == _way(step)), key=lambda other: other.depth)


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
        largest = logits.argmax()
        scores = scores_around(logits, largest, self.record.temperature)
        return Evidence(self.point, scores, int(largest), float(scores[largest]), self.record.accuracy)


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


def make_menu(manifest: Manifest, levels: tuple[float, ...], finish_ms: Callable[[Step], tuple[float, ...]]) -> Menu:
    """Where every request starts; all that follows hangs on it.

    `finish_ms` gives (levels,) milliseconds from where a step starts to its exit; `levels` has 0.5 among them.
    """
    exits: dict[OperatingPoint, Exit] = {}

    def menu(steps: tuple[Step, ...]) -> Menu:
        times = np.array([finish_ms(step) for step in steps]).reshape(len(steps), len(levels))
        after = {step: exits[step.point] for step in steps}
        return Menu(steps, times, levels, np.array([exit.record.accuracy for exit in after.values()]), after)

    for record in sorted(manifest.points, key=lambda record: -record.depth):  # what lies behind an exit comes before it
        width, depth, precision = record.width, record.depth, record.precision
        point = OperatingPoint(width, depth, precision)
        median_ms = finish_ms(Step(0, depth, width, precision))[levels.index(0.5)]
        exits[point] = Exit(record, point, median_ms, menu(spans(manifest, width, precision, depth + 1)))
    return menu(tuple(step for way in ways(manifest) for step in spans(manifest, *way)))


def _way(step: Step) -> tuple[int, float, str]:
    return step.first, step.width, step.precision
