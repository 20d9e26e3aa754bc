"""One sample on its way from exit to exit."""

from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import NamedTuple

import numpy as np

from ..policies.exits import rule_of
from ..policies.fixed import Fixed
from ..policies.situation import FloatArray, OperatingPoint, Step, Stop
from ..policies.targets import walk
from .course import Course, Request, depths_of, is_behind_router
from .engines.cut import Cut, CutOff
from .inputs import UNLIMITED, Samples
from .menu import Exit, Menu
from .offers import Offers
from .runner import Failed, Runner
from .stand import NOTHING, Reached, Stand, Start, start_of
from .watchdog import Guards

Passing = Callable[["SoFar"], object]


class SoFar(NamedTuple):
    """How far a sample was at a moment, in the middle of a step; what exits said is read when it is looked at.

    Args:
        at_s: the moment.
        start: its request's.
        before: what exits said before this step.
        passed: exits on the way of this step, with their logits.
        exits: depths of all exits.
        chances: (1, points) as a router said; None: it wasn't asked.
        step: that is run, in its legs.
        menu: where that began.
        spent_before_mj: before this step.
    """

    at_s: float
    start: Start
    before: Reached
    passed: tuple[tuple[Exit, FloatArray], ...]
    exits: tuple[int, ...]
    step: Step
    menu: Menu
    spent_before_mj: float
    chances: FloatArray | None

    @property
    def reached(self) -> Reached:
        """As of a run that ended here."""
        return (*self.before, *(seen for exit, logits in self.passed for seen in exit.read(logits, self.chances)))

    @property
    def spent_mj(self) -> float:
        """The same."""
        menu, done = self.menu, len(self.passed)
        legs = menu.legs[self.step]
        return self.spent_before_mj + menu.taken_mj(self.step, legs, done if done == len(legs) else done - 1)


class Begun(NamedTuple):
    """What was done before there was a run: from `start`, what exits said, `reached`, and `stand`, where it is now.

    `choice`: how it goes on; None: that is to be decided.
    """

    start: Start
    stand: Stand
    reached: Reached
    choice: Step | None = None


class Run(Course):
    """Takes a sample to one exit after the other, until the policy stops or what remains is cut off.

    `reached`: what exits said so far; `exits`: the depths of all that were passed, also those not looked at;
    `choice`: how it goes on. It is over once `advance` gave False, and is then to be told so by `end`.

    Args:
        x: (1, …) as the network takes it.
        guards: give one who cuts off what would end too late, once an exit was reached; None: nobody does, or whoever
            has `cut`.
        cut: ends any step, even the first; instead of a guard.
        awake_cpu_s: by the thread's clock, since when it has been running; None: since now.
        begun: what was done so far; None: nothing.

    Raises:
        EngineError: the engine failed at so many points that the policy finds none.
        RuntimeError, ValueError: the policy chose what it can't, or can't choose.
    """

    def __init__(
        self,
        runner: Runner,
        offers: Offers,
        request: Request,
        x: Samples,
        guards: Guards | None = None,
        cut: Cut | None = None,
        awake_cpu_s: float | None = None,
        begun: Begun | None = None,
    ):
        super().__init__(runner, offers, request, x, guards)
        self._cut = cut
        self._cut_off: Step | None = None
        self._is_path = True  # whether nothing but steps that follow each other took the time
        if begun is None:
            stand = runner.begin(x, request.menus.start, request.since, awake_cpu_s)
            reached, choice = NOTHING, None
        else:
            _, stand, reached, choice = begun
        self._stand, self.reached, self._steps = stand, reached, len(reached)
        self.exits = [seen.point.depth for seen in reached]
        self._at: OperatingPoint | None = reached[-1].point if reached else None  # the exit where it stands
        self.choice: Step | Stop
        (self.choice,) = (choice,) if choice is not None else self._ask(stand, (reached,))
        self.start = start_of(stand) if begun is None else begun.start

    @property
    def stopped_by(self) -> Stop | None:
        """Why there will be no more exits; None as long as there may be."""
        return self.choice if isinstance(self.choice, Stop) else None

    @property
    def was_cut_off(self) -> bool:
        """Whether a step was ended before its exit."""
        return self._cut_off is not None

    @property
    def spent_mj(self) -> float:
        """What its steps took so far, by the profile."""
        return self._stand.spent_mj

    def advance(self, leg: bool = False, passing: Passing | None = None) -> bool:
        """Runs the step that the policy chose; whether that reached an exit, or False as it's over.

        Where the engine fails, it goes on by another point.

        Args:
            leg: only its first leg, to the nearest exit.
            passing: told at every exit, so that the step is run exit by exit.

        Raises:
            EngineError: there is no other point, nor an exit in hand.
        """
        stand = self._stand
        while isinstance(self.choice, Step):
            if not self.choice.first and self._at is not None:
                self._start_again()
            step = stand.menu.legs[self.choice][0] if leg else self.choice
            try:
                show = None if passing is None else partial(self._show, step, passing)
                exit, seen = self._take(stand, step, bool(self.reached), self._cut, show)
            except CutOff:
                self._be_cut_off(step)
            except Failed as failed:
                self._fall_back(failed)
            else:
                self._pass()
                self._at, self._steps = exit.point, self._steps + 1
                self.reached = (*self.reached, *seen)
                (self.choice,) = self._ask(stand, (self.reached,))
                if seen:
                    return True
                self._is_path = False  # a router was between its steps
        return False

    def look_again(self) -> None:
        """Decides anew, as the caller took time."""
        self._is_path = False
        if isinstance(self.choice, Step):
            self._runner.pick_up(self._stand)
            (self.choice,) = self._ask(self._stand, (self.reached,))

    def end(self) -> None:
        """Calls the guard off, and notes the whole path for the time model, if it was one of several steps."""
        super().end()
        if (shadow := self._runner.shadow) is not None:
            shadow.told(self._x, self.reached, self.stopped_by)
        last = self._cut_off or self._at
        if self._is_path and last is not None and self._steps + self.was_cut_off > 1:
            way = Step(0, last.depth, last.width, last.precision)
            if way in self.start.menu.rows:
                self._runner.note_path(self.start, self._stand, way, len(self.exits), self.was_cut_off)

    def _start_again(self) -> None:
        """At the input, as the next step does; the exits reached stay in hand."""
        self._at, self._stand.x, self._is_path = None, self._x, False

    def _show(self, step: Step, passing: Passing) -> None:
        stand, passed = self._stand, tuple(self._stand.passed)
        exits = (*self.exits, *depths_of(passed))
        at_s = self._runner.clocks.wall()
        if exits:  # not a router alone
            passing(
                SoFar(at_s, self.start, self.reached, passed, exits, step, stand.menu, stand.spent_mj, stand.chances)
            )

    def _pass(self) -> None:
        passed = self._stand.passed
        self.exits += depths_of(passed)
        passed.clear()

    def _read_passed(self) -> None:
        """The step ended early: the exits on its way are those in hand."""
        for exit, logits in self._stand.passed:
            self.reached = (*self.reached, *exit.read(logits, self._stand.chances))
            self._at = exit.point
        self._pass()

    def _be_cut_off(self, step: Step) -> None:
        self._read_passed()
        self.choice, self._cut_off = Stop.DEADLINE, step
        if self._guard is not None:
            self._guard.was_cut(self._stand.at_s)

    def _fall_back(self, failed: Failed) -> None:
        """Decides again without the point: how to go on from here, or else whether to start again at another width."""
        self._is_path = False
        self._read_passed()
        menus, stand = self._without(failed, self._stand, self._at), self._stand
        is_stuck = is_behind_router(stand, self._at, self.reached)
        if not is_stuck:
            (self.choice,) = self._ask(stand, (self.reached,))
        if self._at is not None and (is_stuck or isinstance(self.choice, Stop)):
            self._at, stand.x, stand.menu, stand.chances = None, self._x, menus.start, None
            (self.choice,) = self._ask(stand, (self.reached,))


def rehearse(runner: Runner, offers: Offers, shape: tuple[int, ...], exit_by_exit: bool) -> None:
    """One request's first decision: a policy that doesn't fit the bundle fails here.

    Then what is worth heading for is loaded as one graph each and run once, as what only a first run does is no
    request's to wait for; where a rule passes over some exits, as a graph for each that it looks at.

    `exit_by_exit`: nothing is, but for the way to a fixed point.
    """
    zeros, start = np.zeros((1, *shape), np.float32), offers.menus(1).start
    runner.ask(runner.begin(zeros, start), inf, UNLIMITED, (NOTHING,))
    policy, rule = runner.policy, rule_of(runner.policy)
    if isinstance(policy, Fixed):
        targets: Sequence[Step] = (policy.point.whole_way,)
    else:
        targets = () if exit_by_exit else offers.targets()
    walks = [way for way in (walk(target, rule) for target in targets) if rule is None or any(map(_passes_over, way))]
    offers.load([*offers.routers, *[step for way in walks for step in way]])
    routed = {router.precision: runner.engine.run(router, zeros)[1] for router in offers.routers}
    for way in walks:
        x = routed[way[0].precision] if way[0].first else zeros
        for step in way:
            if x is not None:
                _, x = runner.engine.run(step, x)


def _passes_over(step: Step) -> bool:
    """Whether there are exits on its way, none of which is computed."""
    return step.depth > max(step.first, 1)
