"""Requests that are answered on the thread that asks: one sample, mostly as planned before, or a batch."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from ..policies.situation import Budget, FloatArray, Step
from .answer import Answer, make_answer
from .batch import BatchRun
from .certified import IsCovered
from .course import Request
from .inputs import Samples
from .menu import Exit, Menus
from .offers import Offers
from .reception import Reception
from .run import Begun, Run
from .runner import Failed, Runner
from .stand import Moment, Stand, Start
from .stats import Tally
from .watchdog import Guards

_PLANS = 64  # that are kept
_PLAIN = float, int  # what budgets mostly are


class Plan(NamedTuple):
    """A first decision for requests of one budget: one graph, to `exit`.

    It holds where these `menus` are offered and the model foretells the very same, `finish_ms`.
    """

    menus: Menus
    finish_ms: FloatArray
    budget: Budget
    step: Step
    exit: Exit
    energy_mj: float


class Direct:
    """For one session.

    Most requests are like one before: the same budget, and times that haven't changed since. They go as planned then,
    without all that a `Run` makes to decide at exits: after a pause, as a device has between its requests, Python finds
    none of its code in the caches, and each call takes several times as long as in a loop.

    Args:
        is_covered: says whether a promise covers an answer; None where there is none.
    """

    def __init__(
        self,
        runner: Runner,
        offers: Offers,
        reception: Reception,
        guards: Guards,
        tally: Tally,
        classes: Sequence[str],
        is_covered: IsCovered | None,
    ):
        self._runner, self._offers, self._reception = runner, offers, reception
        self._guards, self._tally = guards, tally
        self._make_answer = partial(make_answer, classes, runner.model.levels.index(0.5), is_covered=is_covered)
        # by a budget in milliseconds and the identity of what the model foretold, which is held so that it stays that
        self._foretold: dict[tuple[float | None, int], FloatArray] = {}
        self._plans: dict[tuple[float | None, int], Plan] = {}

    def infer(
        self, x: Any, budget_ms: float | None, deadline: float | None, budget: Budget | None
    ) -> Answer | list[Answer]:
        """As of `Session.infer`."""
        now = since = self._runner.now()
        is_plain = type(budget_ms) in _PLAIN and deadline is None and budget is None
        if is_plain and self._plans:
            try:
                answer = self._as_planned(x, budget_ms, now)
            except Failed as failed:
                self._offers.without(failed.point, failed.reason, 1)
                since = self._runner.now()
            else:
                if answer is not None:
                    return answer
        request, is_batch = self._reception.accept(x, budget_ms, deadline, budget, now)
        if is_batch:
            return self._infer_batch(x, request)
        run = Run(self._runner, self._offers, request._replace(since=since), x[None], self._guards)
        if is_plain:
            self._plan(budget_ms, request, run)
        return self._finish(run, request)

    def _as_planned(self, x: Any, budget_ms: float | None, now: Moment) -> Answer | None:
        """None where nothing is planned for that, and nothing was done.

        Raises:
            Failed: the engine did.
        """
        runner, load, menus = self._runner, self._runner.sensors.now, self._offers.menus(1)
        finish_ms = runner.foretell(menus.start, 0.0, load)
        plan = self._plans.get((budget_ms, id(finish_ms)))
        if plan is None or plan.menus is not menus or plan.finish_ms is not finish_ms:
            return None
        if not self._reception.is_usual(x):
            return None
        _, _, budget, step, exit, energy_mj = plan
        samples = x[None]
        start = Start(menus.start, now.at_s, now.cpu_s, now.cpu_s, load, finish_ms)
        logits, features, end = runner.run_alone(start, step, samples)
        (seen,) = exit.read(logits)
        request = Request(now.at_s, now.at_s + budget.latency_ms / 1e3, budget, menus, now)
        stop = exit.menu.ends((request.aim_s - end.at_s) * 1e3)
        if stop is None and features is not None:
            stand = Stand(features, exit.menu, end.at_s, end.cpu_s, now.cpu_s, load, spent_mj=energy_mj)
            run = Run(runner, self._offers, request, samples, self._guards, begun=Begun(start, seen, stand))
            return self._finish(run, request)
        if runner.shadow is not None:
            runner.shadow.told(samples, (seen,), stop)
        at_s = runner.clocks.wall()
        answer = self._make_answer(at_s, request, start, (seen,), (step.depth,), stop, energy_mj)
        self._tally.add(answer.deadline_met, False)
        return answer

    def _plan(self, budget_ms: float | None, request: Request, run: Run) -> None:
        """Keeps what a run decided first, where the next one may do the same.

        Only once the model said a thing twice, as some never do, and would be asked in vain.
        """
        finish_ms, menu, step = run.start.predicted_ms, run.start.menu, run.choice
        if finish_ms is None or not isinstance(step, Step) or self._runner.looks_at_load:
            return
        if self._offers.parts(menu, step) != (step,):
            return
        if len(self._foretold) >= _PLANS:
            self._foretold.clear()
            self._plans.clear()
        key = budget_ms, id(finish_ms)
        if self._foretold.get(key) is finish_ms:
            energy_mj = float(menu.energy_mj[menu.rows[step]])
            self._plans[key] = Plan(request.menus, finish_ms, request.budget, step, menu.after[step], energy_mj)
        else:
            self._plans.pop(key, None)
            self._foretold[key] = finish_ms

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
