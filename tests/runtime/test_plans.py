"""What requests will be answered with is decided before they come, and never otherwise than they would decide."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from stretto.policies.deadline import Deadline
from stretto.policies.load import UNKNOWN, Load
from stretto.policies.situation import Budget, OperatingPoint, Stop
from stretto.runtime.bundle import Bundle
from stretto.runtime.course import Request
from stretto.runtime.offers import Offers
from stretto.runtime.plans import Plans
from stretto.runtime.run import Run
from stretto.runtime.runner import Runner
from stretto.runtime.stand import Clocks

from .fakes import LEVELS, Clock, SetPace, set_profile
from .toy import toy_bundle

STAGE_MS = 1000.0
SAMPLE = np.zeros((1, 3, 8, 8), np.float32)
FREE, BUSY = Load(others=0.0, machine_cores=2.0), Load(others=3.0, machine_cores=2.0)


class Slowing:
    """A time model that takes everything for `factor` times as long, half as much again where others want to run."""

    levels, looks_at_load, learns = LEVELS, True, True

    def __init__(self):
        self.factor, self._said = 1.0, {}

    def finish_ms(self, idle_ms, ran_ms, load, legs=None):
        factor = self.factor * (1.5 if load.others else 1.0)
        key = id(idle_ms), factor  # an identity is another array's once its own is gone, so that is kept too
        return self._said.setdefault(key, (idle_ms, idle_ms * factor))[1]

    def observe(self, ran):
        """Nothing to learn."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("plans") / "toy.stretto"
    return Bundle.open(toy_bundle(path, widths=(0.5, 1.0), depths=3).path)


@pytest.fixture
def made(bundle):
    """Plans with their model and policy, what sets the load, and what decides a request that found none."""

    def made(policy=None, whole=True):
        model, clock = Slowing(), Clock()
        engine = SetPace(bundle, clock, STAGE_MS)
        policy = policy or Counting()
        runner = Runner(engine, policy, model, Clocks(clock, clock))
        runner.sensors = SimpleNamespace(now=FREE)
        offers = Offers("toy", bundle.manifest, set_profile(bundle, STAGE_MS), engine, fixed=False)
        if whole:
            offers.load(offers.targets())
        plans = Plans(runner, offers)

        def miss(budget_ms):
            budget = Budget(budget_ms)
            request = Request(clock(), clock() + budget_ms / 1e3, budget, offers.menus(1))
            run = Run(runner, offers, request, SAMPLE)
            plans.missed(budget_ms, budget, request.menus, run.start, run.choice)

        return SimpleNamespace(plans=plans, model=model, policy=policy, runner=runner, offers=offers, miss=miss)

    return made


class Counting(Deadline):
    def __post_init__(self):
        Deadline.__post_init__(self)
        object.__setattr__(self, "decided", 0)

    def target(self, situation):
        object.__setattr__(self, "decided", self.decided + 1)
        return super().target(situation)


def point(found):
    return None if found is None else found[0].step.point


def test_nothing_is_found_before_the_first_request(made):
    assert made().plans.find(5000.0) is None


def test_what_a_request_decided_is_found_by_the_next(made):
    it = made()
    it.miss(5000.0)
    plan, load = it.plans.find(5000.0)
    assert (plan.step.point, load, plan.is_whole) == (OperatingPoint(1.0, 3), FREE, True)
    assert plan.energy_mj == pytest.approx(3 * STAGE_MS * 5.0)
    assert it.plans.find(5001.0) is None


def test_a_step_that_is_run_exit_by_exit_is_planned_as_such(made):
    it = made(whole=False)
    it.miss(5000.0)
    assert not it.plans.find(5000.0)[0].is_whole


def test_once_the_model_says_something_else_a_plan_is_off_until_it_is_renewed(made):
    it = made()
    it.miss(5000.0), it.miss(5000.0)
    it.model.factor = 2.6
    assert it.plans.find(5000.0) is None
    it.plans.renew()
    before = it.policy.decided
    assert point(it.plans.find(5000.0)) == OperatingPoint(0.5, 3)
    assert it.policy.decided == before


def test_loads_that_were_seen_are_planned_for(made):
    it = made()
    it.miss(4000.0), it.miss(4000.0)
    it.runner.sensors.now = BUSY
    assert it.plans.find(4000.0) is None
    it.miss(4000.0)
    it.model.factor = 1.25
    it.plans.renew()
    assert point(it.plans.find(4000.0)) == OperatingPoint(1.0, 2)
    it.runner.sensors.now = FREE
    assert point(it.plans.find(4000.0)) == OperatingPoint(1.0, 3)
    it.runner.sensors.now = UNKNOWN  # not seen, but as the model takes it, like one that was
    assert it.plans.find(4000.0) is not None


def test_a_budget_that_came_once_is_not_planned_for_again(made):
    it = made()
    it.miss(4000.0)
    for _ in range(2):
        it.miss(5000.0)
    it.plans.renew()
    assert it.plans.find(4000.0) is None and it.plans.find(5000.0) is not None


def test_renewing_decides_only_what_has_changed(made):
    it = made()
    it.miss(5000.0), it.miss(5000.0)
    it.plans.renew()
    before = it.policy.decided
    it.plans.renew()
    assert it.policy.decided == before


def test_point_that_failed_is_in_no_plan(made):
    it = made()
    it.miss(5000.0), it.miss(5000.0)
    it.offers.without(OperatingPoint(1.0, 3), RuntimeError("no luck"), 1)
    assert it.plans.find(5000.0) is None
    it.plans.renew()
    assert point(it.plans.find(5000.0)) == OperatingPoint(1.0, 2)


def test_a_policy_that_looks_at_the_load_has_no_plans(made):
    class Watching(Counting):
        looks_at_load = True

    it = made(Watching())
    it.miss(5000.0), it.miss(5000.0)
    it.plans.renew()
    assert it.plans.find(5000.0) is None


def test_at_a_planned_exit_it_is_known_before_with_how_little_time_left_it_ends(made):
    it = made()
    it.miss(2400.0), it.miss(2400.0)
    it.plans.renew()
    plan, _ = it.plans.find(2400.0)
    assert plan.step.point == OperatingPoint(1.0, 2)
    before = it.policy.decided
    assert plan.ends(400.0) is Stop.DEADLINE
    assert plan.ends(1e4) is None  # so much that it may go on
    assert it.policy.decided == before


def test_before_plans_are_renewed_exits_are_decided_at(made):
    it = made()
    it.miss(2400.0)
    assert it.plans.find(2400.0)[0].settled == (-math.inf, Stop.DEADLINE)


def test_a_policy_that_looks_at_answers_is_asked_at_every_exit(made):
    it = made(Counting(confidence=0.9))
    it.miss(2400.0), it.miss(2400.0)
    it.plans.renew()
    assert it.plans.find(2400.0)[0].settled is None


def test_a_policy_that_would_go_on_however_late_it_is_is_asked_there(made):
    class Onward(Counting):
        def target(self, situation):
            return situation.steps[0]

    it = made(Onward())
    it.miss(9000.0), it.miss(9000.0)
    it.plans.renew()
    plan, _ = it.plans.find(9000.0)
    assert plan.step.depth == 1 and plan.settled is None


def test_many_budgets_and_loads_do_not_pile_up(made):
    it = made()
    for at in range(2000):
        it.runner.sensors.now = Load(others=float(at), machine_cores=2.0)
        it.miss(5000.0 + at // 2)
    assert len(it.plans._plans) <= 512
    assert len(it.plans._asked) <= 64 and len(it.plans._loads) <= 8
    it.plans.renew()
    assert len(it.plans._plans) <= 64 * 8
