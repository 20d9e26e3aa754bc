"""First decisions that are made before their requests come, for the budgets and the loads that were seen lately."""

from math import inf
from typing import NamedTuple

import numpy as np

from ..policies.load import Load
from ..policies.situation import Budget, FloatArray, Step, Stop
from .handover import SOON
from .menu import Exit, Menus
from .offers import Offers
from .runner import Runner
from .stand import Start

_BUDGETS = 64  # whose requests are counted
_LOADS = 8  # that are planned for
_PLANS = 512
_OFTEN = 2  # requests of a budget, from which on there may be more
_Key = tuple[float | None, int]
_Settled = tuple[float, Stop] | None  # see `Plan`
_LATER: _Settled = (-inf, Stop.DEADLINE)  # it is yet to be found out


class Plan(NamedTuple):
    """What a request of one budget does first, where these `menus` are offered and the model foretells `finish_ms`.

    `exit`: where `step` leads; `energy_mj`: what it takes; `is_whole`: whether it is run as one graph; `settled`: with
    how many milliseconds left at the exit it ends there, and why; None: that is to be decided there.
    """

    menus: Menus
    finish_ms: FloatArray
    budget: Budget
    step: Step
    exit: Exit
    energy_mj: float
    is_whole: bool
    settled: _Settled

    def ends(self, slack_ms: float) -> Stop | None:
        """Why the request ends at the exit, with so much time left; None: it may go on."""
        stop = self.exit.menu.ends(slack_ms)
        if stop is None and self.settled is not None and slack_ms <= self.settled[0]:
            stop = self.settled[1]
        return stop


class _Asked(NamedTuple):
    """For a budget, how often no plan was found."""

    budget: Budget
    times: int


class Plans:
    """For one session. A request finds what was planned; who teaches the time model renews the plans after that.

    So that no request decides what could be decided while nobody waited. A plan holds as long as the model foretells
    the same array, so only models that don't make a new one each time gain. There are none for a policy that looks at
    the load itself.

    Requests call it from any thread, one other renews it. Nothing is locked: whoever comes too early misses a plan, and
    decides for itself.
    """

    def __init__(self, runner: Runner, offers: Offers):
        self._runner, self._offers = runner, offers
        self._asked: dict[float | None, _Asked] = {}  # by milliseconds
        self._loads: dict[tuple[float | None, float | None], Load] = {}
        self._plans: dict[_Key, Plan] = {}  # that budget, and the identity of what was foretold, which the plan holds

    def find(self, budget_ms: float | None) -> tuple[Plan, Load] | None:
        """What was planned for now, and the load that it was found by."""
        if not self._plans:
            return None
        runner, menus = self._runner, self._offers.menus(1)
        load = runner.sensors.now
        finish_ms = runner.foretell(menus.start, 0.0, load)
        plan = self._plans.get((budget_ms, id(finish_ms)))
        if plan is None or plan.finish_ms is not finish_ms or plan.menus is not menus:
            return None
        return plan, load

    def missed(self, budget_ms: float | None, budget: Budget, menus: Menus, start: Start, choice: Step | Stop) -> None:
        """A request had found nothing; from where it started, that was its choice."""
        if self._runner.looks_at_load or start.predicted_ms is None or isinstance(choice, Stop):
            return
        if len(self._asked) >= _BUDGETS and budget_ms not in self._asked:
            self._asked.clear()
        before = self._asked.get(budget_ms)
        self._asked[budget_ms] = _Asked(budget, 1 if before is None else before.times + 1)
        kind = start.load.others, start.load.machine_cores
        self._loads.pop(kind, None)
        self._loads[kind] = start.load
        for oldest in list(self._loads)[:-_LOADS]:
            self._loads.pop(oldest, None)
        if len(self._plans) >= _PLANS:
            self._plans.clear()
        finish_ms, settled = start.predicted_ms, _LATER
        if not self._runner.learns:  # else plans are renewed soon, when nobody waits
            settled = self._settled(menus, finish_ms, budget, choice, start.load)
        self._plans[budget_ms, id(finish_ms)] = self._plan(menus, finish_ms, budget, choice, settled)

    def renew(self) -> None:
        """Plans for what is asked often, by what the model says now, and forgets all other plans."""
        often = [(budget_ms, asked.budget) for budget_ms, asked in list(self._asked.items()) if asked.times >= _OFTEN]
        menus, runner = self._offers.menus(1), self._runner
        plans: dict[_Key, Plan] = {}
        for load in list(self._loads.values()) if often else ():
            with SOON:  # a request that arrives needn't wait for all
                finish_ms = runner.foretell(menus.start, 0.0, load)
                for budget_ms, budget in often:
                    key = budget_ms, id(finish_ms)
                    plan = self._plans.get(key)
                    is_valid = plan is not None and plan.menus is menus and plan.finish_ms is finish_ms
                    if plan is None or not is_valid or plan.settled is _LATER:
                        choice = runner.choose(menus.start, budget.latency_ms, budget, finish_ms, load)
                        if isinstance(choice, Stop):  # never, with no exit in hand
                            continue
                        settled = self._settled(menus, finish_ms, budget, choice, load)
                        plan = self._plan(menus, finish_ms, budget, choice, settled)
                    plans[key] = plan
        self._plans = plans

    def _plan(self, menus: Menus, finish_ms: FloatArray, budget: Budget, step: Step, settled: _Settled) -> Plan:
        start = menus.start
        energy_mj, is_whole = float(start.energy_mj[start.rows[step]]), self._is_whole(menus, step)
        return Plan(menus, finish_ms, budget, step, start.after[step], energy_mj, is_whole, settled)

    def _is_whole(self, menus: Menus, step: Step) -> bool:
        """Whether it is run as one graph, to an exit."""
        return step.depth > 0 and self._offers.parts(menus.start, step) == (step,)

    def _settled(self, menus: Menus, finish_ms: FloatArray, budget: Budget, step: Step, load: Load) -> _Settled:
        """For an exit that is reached soon, about when it is expected, or late; the first of them that it ends at."""
        runner, start = self._runner, menus.start
        exit, row, median = start.after[step], start.rows[step], runner.model.levels.index(0.5)
        if runner.looks_at_answers or not exit.menu.steps or not self._is_whole(menus, step):
            return None
        reached_ms = [ms - start.answer_ms for ms in finish_ms[row, [0, median, -1]].tolist()]
        onward_ms = runner.foretell(exit.menu, reached_ms[1], load)
        seen, spent_mj = tuple(exit.read(np.zeros((1, 1), np.float32))), float(start.energy_mj[row])
        for at_ms in reached_ms:
            slack_ms = budget.latency_ms - at_ms
            choice = runner.choose(exit.menu, slack_ms, budget, onward_ms, load, seen, spent_mj)
            if isinstance(choice, Stop):
                return slack_ms, choice
        return None
