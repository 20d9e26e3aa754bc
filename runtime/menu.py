"""What a request can do next, with the profile's times and the bundle's accuracies laid out for the policy."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..policies.scores import highest_score
from ..policies.situation import Evidence, FloatArray, OperatingPoint, Policy, Situation, Step, Stop
from .manifest import PointRecord


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
