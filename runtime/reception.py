"""What a caller gives becomes a request, or an error that says what is wrong with it."""

from typing import Any

from ..policies.situation import Budget
from .course import Request
from .errors import InputError
from .inputs import budget_of, check_input, is_usual
from .lifetime import Lifetime
from .manifest import InputSpec
from .offers import Offers
from .runner import Runner
from .stand import Moment


class Reception:
    """Of a session. `checks`: also look at every number of an input."""

    def __init__(self, runner: Runner, offers: Offers, life: Lifetime, spec: InputSpec, checks: bool):
        self._runner, self._offers, self._life, self._spec, self._checks = runner, offers, life, spec, checks

    def is_usual(self, x: Any) -> bool:
        """Whether `x` is one sample with nothing wrong; raises ClosedError as `accept` does."""
        self._life.require()
        return is_usual(x, self._spec, self._checks)

    def accept(
        self, x: Any, budget_ms: float | None, deadline: float | None, budget: Budget | None, now: Moment
    ) -> tuple[Request, bool]:
        """The request that arrived `now`, and whether it is a batch; arguments and errors as of `Session.infer`."""
        arrival = now.at_s
        self._life.require()
        allowed = budget_of(arrival, budget_ms, deadline, budget, self._runner.policy)
        is_batch = check_input(x, self._spec, self._checks)
        menus = self._offers.menus(len(x) if is_batch else 1)
        return Request(arrival, arrival + allowed.latency_ms / 1e3, allowed, menus, now), is_batch

    def accept_one(
        self, verb: str, x: Any, budget_ms: float | None, deadline: float | None, budget: Budget | None
    ) -> Request:
        """The same of one sample, for a `verb` that takes no batch."""
        request, is_batch = self.accept(x, budget_ms, deadline, budget, self._runner.now())
        if is_batch:
            raise InputError(f"{verb} takes one sample, {self._spec.shape}, and got {x.shape}; use infer")
        return request._replace(since=None)  # it is worked on later, maybe by another thread
