"""One sample on its way from exit to exit."""

from math import inf

import numpy as np

from ..policies.situation import OperatingPoint, Step, Stop
from .course import Course, Request
from .engines.cut import Cut, CutOff
from .inputs import UNLIMITED, Samples
from .offers import Offers
from .runner import NOTHING, Failed, Reached, Runner, Stand
from .watchdog import Guard


class Run(Course):
    """Takes a sample to one exit after the other, until the policy stops or what remains is cut off.

    `reached`: the exits so far. It is over once `advance` gave False, and is then to be told so by `end`.

    Args:
        x: (1, …) as the network takes it.
        guard: cuts off what would end too late, once an exit was reached; None: nobody does, or whoever has `cut`.
        cut: ends any step, even the first; instead of a guard.
        awake_cpu_s: by the thread's clock, since when it has been running; None: since now.

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
        guard: Guard | None = None,
        cut: Cut | None = None,
        awake_cpu_s: float | None = None,
    ):
        super().__init__(runner, offers, request, x, guard)
        self._cut = cut
        self.reached: Reached = NOTHING
        self._at: OperatingPoint | None = None  # the exit where it stands
        self._stand = stand = runner.begin(x, request.menus.start, request.arrival, awake_cpu_s)
        (self._choice,) = self._ask(stand, (NOTHING,))
        self.start = Stand(  # as it is now; dataclasses.replace would take longer
            x, stand.menu, stand.at_s, stand.cpu_s, stand.awake_cpu_s, stand.load, stand.predicted_ms
        )
        self._steps, self._is_path = 0, True  # whether nothing but steps that follow each other took the time
        self._cut_off: Step | None = None

    @property
    def stopped_by(self) -> Stop | None:
        """Why there will be no more exits; None as long as there may be."""
        return self._choice if isinstance(self._choice, Stop) else None

    @property
    def was_cut_off(self) -> bool:
        """Whether a step was ended before its exit."""
        return self._cut_off is not None

    def advance(self, leg: bool = False) -> bool:
        """Runs the step that the policy chose; whether that reached an exit, or False as it's over.

        `leg`: only its first leg, to the nearest exit. Where the engine fails, it goes on by another point.

        Raises:
            EngineError: there is no other point, nor an exit in hand.
        """
        stand = self._stand
        while isinstance(self._choice, Step):
            step = stand.menu.leg(self._choice) if leg else self._ready(self._choice)
            cut = self._protect(stand, step) if self.reached and self._guard else self._cut
            try:
                exit, seen = self._runner.take(stand, step, cut)
            except CutOff:
                self._be_cut_off(step)
            except Failed as failed:
                self._fall_back(step, failed)
            else:
                self._at, self._steps = exit.point, self._steps + 1
                self.reached = (*self.reached, *seen)
                (self._choice,) = self._ask(stand, (self.reached,))
                return True
        return False

    def look_again(self) -> None:
        """Decides anew, as the caller took time."""
        self._is_path = False
        if isinstance(self._choice, Step):
            self._runner.pick_up(self._stand)
            (self._choice,) = self._ask(self._stand, (self.reached,))

    def end(self) -> None:
        """Calls the guard off, and tells the time model of the whole path, if it was one of several steps."""
        if self._guard is not None:
            self._guard.call_off()
        last = self._cut_off or self._at
        if self._is_path and last is not None and self._steps + self.was_cut_off > 1:
            way = Step(0, last.depth, last.width, last.precision)
            if way in self.start.menu.rows:
                self._runner.tell_path(self.start, self._stand, way, self.was_cut_off)

    def _ready(self, step: Step) -> Step:
        return self._offers.ready(self._stand.menu, step, self._request.deadline)

    def _be_cut_off(self, step: Step) -> None:
        self._choice, self._cut_off = Stop.DEADLINE, step
        if self._guard is not None:
            self._guard.was_cut(self._stand.at_s)

    def _fall_back(self, step: Step, failed: Failed) -> None:
        """Decides again without the point: how to go on from here, or else whether to start again at another width."""
        self._is_path = False
        menus = self._without(step, failed, self._stand, self._at)
        (self._choice,) = self._ask(self._stand, (self.reached,))
        if self._at is not None and isinstance(self._choice, Stop):
            self._at, self._stand.x, self._stand.menu = None, self._x, menus.start
            (self._choice,) = self._ask(self._stand, (self.reached,))


def rehearse(runner: Runner, offers: Offers, shape: tuple[int, ...]) -> None:
    """One request's first step: a policy that doesn't fit the bundle fails here, and a span is loaded."""
    zeros, start = np.zeros((1, *shape), np.float32), offers.menus(1).start
    (first,) = runner.ask(runner.begin(zeros, start, runner.clocks.wall()), inf, UNLIMITED, (NOTHING,))
    if isinstance(first, Step):  # nothing else is possible, which `ask` made sure of
        runner.engine.run(offers.ready(start, first, inf), zeros)
