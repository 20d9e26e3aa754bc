"""Requests that are answered on the thread that asks: one sample, mostly as planned before, or a batch."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..policies.load import Load
from ..policies.situation import Budget
from .answer import Answer, make_answer
from .batch import BatchRun
from .certified import IsCovered
from .course import Request
from .inputs import Samples
from .offers import Offers
from .plans import Plan, Plans
from .reception import Reception
from .run import Begun, Run
from .runner import Failed, Runner
from .stand import NOTHING, Moment, Stand, Start, start_of
from .stats import Tally
from .watchdog import Guards

_PLAIN = float, int, type(None)  # what budgets mostly are


class Direct:
    """For one session.

    Most requests were planned for, see `Plans`, and mostly that is one graph. Those go without all that a `Run` makes
    to decide at exits: after a pause, as a device has between its requests, Python finds none of its code in the
    caches, and each call takes several times as long as in a loop.

    Args:
        is_covered: says whether a promise covers an answer; None where there is none.
    """

    def __init__(
        self,
        runner: Runner,
        offers: Offers,
        reception: Reception,
        plans: Plans,
        guards: Guards,
        tally: Tally,
        classes: Sequence[str],
        is_covered: IsCovered | None,
    ):
        self._runner, self._offers, self._reception, self._plans = runner, offers, reception, plans
        self._guards, self._tally = guards, tally
        self._make_answer = partial(make_answer, classes, runner.model.levels.index(0.5), is_covered=is_covered)

    def infer(
        self, x: Any, budget_ms: float | None, deadline: float | None, budget: Budget | None
    ) -> Answer | list[Answer]:
        """As of `Session.infer`."""
        now = since = self._runner.now()
        is_plain = type(budget_ms) in _PLAIN and deadline is None and budget is None
        found = self._plans.find(budget_ms) if is_plain else None
        if found is not None and found[0].is_whole and self._reception.is_usual(x):
            try:
                return self._as_planned(x[None], now, *found)
            except Failed as failed:
                self._offers.without(failed.point, failed.reason, 1)
                found, since = None, self._runner.now()
        request, is_batch = self._reception.accept(x, budget_ms, deadline, budget, now)
        if is_batch:
            return self._infer_batch(x, request)
        samples, begun = x[None], None
        if found is not None:
            begun = _begun(samples, now, *found)
        run = Run(self._runner, self._offers, request._replace(since=since), samples, self._guards, begun=begun)
        if is_plain and found is None:
            self._plans.missed(budget_ms, request.budget, request.menus, run.start, run.choice)
        return self._finish(run, request)

    def _as_planned(self, x: Samples, now: Moment, plan: Plan, load: Load) -> Answer:
        """Raises Failed where the engine did."""
        menus, finish_ms, budget, step, exit, energy_mj, *_ = plan
        runner, start = self._runner, Start(menus.start, now.at_s, now.cpu_s, now.cpu_s, load, finish_ms)
        logits, features, end = runner.run_alone(start, step, x)
        reached = tuple(exit.read(logits))
        request = Request(now.at_s, now.at_s + budget.latency_ms / 1e3, budget, menus, now)
        stop = plan.ends((request.deadline - end.at_s) * 1e3)
        if stop is None:
            onward = x if features is None else features  # whoever goes on from a final exit starts again
            stand = Stand(onward, exit.menu, end.at_s, end.cpu_s, now.cpu_s, load, spent_mj=energy_mj)
            run = Run(runner, self._offers, request, x, self._guards, begun=Begun(start, stand, reached))
            return self._finish(run, request)
        if runner.shadow is not None:
            runner.shadow.told(x, reached, stop)
        at_s = runner.clocks.wall()
        answer = self._make_answer(at_s, request, start, reached, (step.depth,), stop, energy_mj)
        self._tally.add(answer.deadline_met, False)
        return answer

    def _finish(self, run: Run, request: Request) -> Answer:
        try:
            while run.advance():
                pass
        finally:
            run.end()
        at_s = self._runner.clocks.wall()
        answer = self._make_answer(at_s, request, run.start, run.reached, run.exits, run.stopped_by, run.spent_mj)
        self._tally.add(answer.deadline_met, run.was_cut_off)
        return answer

    def _infer_batch(self, x: Samples, request: Request) -> list[Answer]:
        run = BatchRun(self._runner, self._offers, request, x, self._guards)
        try:
            run.finish()
        finally:
            run.end()
        wall = self._runner.clocks.wall
        answers = [
            self._make_answer(wall(), request, run.start, reached, exits, run.stops[sample], run.spent_mj[sample])
            for sample, (reached, exits) in enumerate(zip(run.reached, run.exits, strict=True))
        ]
        self._tally.add(all(answer.deadline_met for answer in answers), run.was_cut_off)
        return answers


def _begun(x: Samples, now: Moment, plan: Plan, load: Load) -> Begun:
    """A request that is to go exit by exit as planned."""
    stand = Stand(x, plan.menus.start, now.at_s, now.cpu_s, now.cpu_s, load, plan.finish_ms)
    return Begun(start_of(stand), stand, NOTHING, plan.step)
