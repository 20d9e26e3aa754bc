"""What a request of one sample and a batch have in common on their way from exit to exit."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import inf
from typing import NamedTuple

from ..policies.situation import Budget, Evidence, OperatingPoint, Step, Stop
from .engines.cut import Cut
from .errors import EngineError
from .inputs import Samples
from .menu import Exit, Menus
from .offers import Offers
from .runner import Failed, Runner
from .stand import Moment, Reached, Stand
from .watchdog import Guard, Guards


class Request(NamedTuple):
    """`arrival`, `deadline`: seconds of `time.monotonic()`; `menus`: for its number of samples.

    `since`: the arrival by both clocks, where the thread that asked works on it at once.
    """

    arrival: float
    deadline: float
    budget: Budget
    menus: Menus
    since: Moment | None = None


class Course:
    """Decides, protects, and finds a way around a point where the engine fails.

    Args:
        x: (samples, …) as the network takes them.
        guards: give one who cuts off what would end too late, once an exit was reached; None: nobody does.
    """

    def __init__(self, runner: Runner, offers: Offers, request: Request, x: Samples, guards: Guards | None):
        self._runner, self._offers, self._request, self._x, self._guards = runner, offers, request, x, guards
        self._guard: Guard | None = None  # made where a step is so long that it helps

    def end(self) -> None:
        """Calls the guard off."""
        if self._guard is not None:
            self._guard.call_off()

    def _ask(self, stand: Stand, reached: Sequence[Reached]) -> list[Step | Stop]:
        """The policy's choice for each of the samples at `stand`, which reached these exits.

        Raises:
            EngineError: none, because the engine failed at too many points.
        """
        if not stand.menu.steps and not reached[0]:
            raise EngineError(f"no point is left: {self._offers.say_failures()}")
        try:
            return self._runner.ask(stand, self._request.deadline, self._request.budget, reached)
        except ValueError as error:
            if not self._offers.failures:
                raise
            raise EngineError(f"{error}; {self._offers.say_failures()}") from error

    def _take(
        self,
        stand: Stand,
        step: Step,
        has_answer: bool,
        cut: Cut | None = None,
        passing: Callable[[], object] | None = None,
    ) -> tuple[Exit, list[Evidence]]:
        """Runs a step, or as much of it as is worth it; results and errors as of `Runner.take`.

        At each exit on the way it goes on if what is left of the step is expected in time, as it was when the step was
        chosen; otherwise that is to be decided anew.

        Args:
            has_answer: whether an exit was reached before.
            cut: may end any part; otherwise the guard does, but nothing before the first exit, as a late answer is
                better than none.
            passing: called at every exit, so that it is run exit by exit in any case.
        """
        parts = stand.menu.legs[step] if passing else self._offers.parts(stand.menu, step)
        if self._request.deadline == inf or (len(parts) == 1 and not has_answer):
            return self._runner.take(stand, step, parts, lambda: cut, passing=passing)
        answer_ms = stand.menu.answer_ms
        ends_ms = [end_ms - answer_ms for end_ms in self._runner.ends_ms(stand, step)]
        due_s = [self._request.deadline - (answer_ms + ends_ms[-1] - end_ms) / 1e3 for end_ms in ends_ms[:-1]]
        if self._guards is None or not self._guards.help(ends_ms, has_answer):
            return self._runner.take(stand, step, parts, lambda: cut, due_s, passing)
        self._guard = guard = self._guard or self._guards.until(self._request.deadline)
        protect = partial(_protection, guard, stand, ends_ms[-1], has_answer)
        return self._runner.take(stand, step, parts, protect, due_s, passing)

    def _without(self, failed: Failed, stand: Stand, at: OperatingPoint | None) -> Menus:
        """Stays where it is, at the exit `at` or at the start, but with menus without the point that failed."""
        menus = self._offers.without(failed.point, failed.reason, len(stand.x))
        stand.menu = menus.start if at is None else menus.exits[at].menu
        self._runner.pick_up(stand)
        return menus


def is_behind_router(stand: Stand, at: OperatingPoint | None, reached: Reached) -> bool:
    """Whether nothing is left behind the router where it stands, so that it must start again: no exit is in hand."""
    return at is not None and not reached and not stand.menu.steps


def depths_of(passed: Iterable[tuple[Exit, object]]) -> list[int]:
    """Of these exits; a router is none."""
    return [exit.point.depth for exit, _ in passed if exit.point.depth]


def _protection(guard: Guard, stand: Stand, end_ms: float, has_answer: bool) -> Cut | None:
    """What may end the next part of a step that ends so many milliseconds after it began."""
    if not (has_answer or stand.passed):
        return None
    if len(stand.passed) > (not has_answer):  # it was told before
        guard.look()
    else:
        guard.expect(stand.at_s, stand.at_s + end_ms / 1e3)
    return guard.cut
