"""First decisions that are made before their requests come, for the budgets and the loads that were seen lately."""

from typing import NamedTuple

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


class Plan(NamedTuple):
    """What a request of one budget does first, where these `menus` are offered and the model foretells `finish_ms`.

    `exit`: where `step` leads; `energy_mj`: what it takes; `is_whole`: whether it is run as one graph.
    """

    menus: Menus
    finish_ms: FloatArray
    budget: Budget
    step: Step
    exit: Exit
    energy_mj: float
    is_whole: bool


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
        self._plans[budget_ms, id(start.predicted_ms)] = self._plan(menus, start.predicted_ms, budget, choice)

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
                    if plan is None or plan.menus is not menus or plan.finish_ms is not finish_ms:
                        slack_ms = budget.latency_ms - menus.answer_ms
                        choice = runner.choose(menus.start, slack_ms, budget, finish_ms, load)
                        if isinstance(choice, Stop):  # never, with no exit in hand
                            continue
                        plan = self._plan(menus, finish_ms, budget, choice)
                    plans[key] = plan
        self._plans = plans

    def _plan(self, menus: Menus, finish_ms: FloatArray, budget: Budget, choice: Step) -> Plan:
        start = menus.start
        is_whole = self._offers.parts(start, choice) == (choice,)
        energy_mj = float(start.energy_mj[start.rows[choice]])
        return Plan(menus, finish_ms, budget, choice, start.after[choice], energy_mj, is_whole)
