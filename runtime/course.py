"""What a request of one sample and a batch have in common on their way from exit to exit."""

from collections.abc import Sequence
from typing import NamedTuple

from ..policies.situation import Budget, OperatingPoint, Step, Stop
from .engines.cut import Cut
from .errors import EngineError
from .inputs import Samples
from .menu import Menus
from .offers import Offers
from .runner import Failed, Reached, Runner, Stand
from .watchdog import Guard


class Request(NamedTuple):
    """`arrival`, `deadline`: seconds of `time.monotonic()`; `menus`: for its number of samples."""

    arrival: float
    deadline: float
    budget: Budget
    menus: Menus


class Course:
    """Decides, protects, and finds a way around a point where the engine fails.

    Args:
        x: (samples, …) as the network takes them.
        guard: cuts off what would end too late, once an exit was reached; None: nobody does.
    """

    def __init__(self, runner: Runner, offers: Offers, request: Request, x: Samples, guard: Guard | None):
        self._runner, self._offers, self._request, self._x, self._guard = runner, offers, request, x, guard

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

    def _protect(self, stand: Stand, step: Step, has_answer: bool) -> Cut | None:
        """What may end the next part of a step; nothing before the first exit, as a late answer is better than none."""
        guard = self._guard
        if guard is None or not (has_answer or stand.passed):
            return None
        if len(stand.passed) > (not has_answer):  # it was told before
            guard.look()
        else:
            guard.expect(stand.at_s, stand.at_s + self._runner.latest_ms(stand, step) / 1e3)
        return guard.cut

    def _without(self, failed: Failed, stand: Stand, at: OperatingPoint | None) -> Menus:
        """Stays where it is, at the exit `at` or at the start, but with menus without the point that failed."""
        menus = self._offers.without(failed.point, failed.reason, len(stand.x))
        stand.menu = menus.start if at is None else menus.exits[at].menu
        self._runner.pick_up(stand)
        return menus
