"""Requests that go as one before was decided: the same answers as if each were decided anew."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stretto.policies.alert import Alert
from stretto.policies.deadline import Deadline
from stretto.policies.load import Load
from stretto.policies.situation import Budget, OperatingPoint, Step, Stop
from stretto.runtime import direct
from stretto.runtime.bundle import Bundle
from stretto.runtime.engines import make_engine
from stretto.runtime.errors import ClosedError, InputError
from stretto.runtime.session import Session
from stretto.runtime.stand import Clocks

from .fakes import LEVELS, Clock, Faulty, SetPace, expected_ms, set_profile
from .toy import toy_bundle

DEPTHS = 3
STAGE_MS = 1000.0
AMPLE_MS = 1e6
SAMPLE = np.zeros((3, 8, 8), np.float32)
FULL = Step(0, DEPTHS, 1.0)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_bundle(tmp_path_factory.mktemp("direct") / "toy.stretto", widths=(0.5, 1.0), depths=DEPTHS)


@pytest.fixture(scope="module")
def bundle(toy):
    return Bundle.open(toy.path)


class Saying:
    """A time model that says what it is set to, the same array each time, and keeps what it is told."""

    levels, looks_at_load, learns = LEVELS, False, True

    def __init__(self):
        self.factor, self.told, self._said = 1.0, [], {}

    def finish_ms(self, idle_ms, ran_ms, load, legs=None):
        key = id(idle_ms), self.factor  # an identity is another array's once its own is gone, so that is kept too
        return self._said.setdefault(key, (idle_ms, idle_ms * self.factor))[1]

    def observe(self, ran):
        self.told.append(ran)

    def study(self):
        return None


@pytest.fixture
def opened(bundle):
    """A session on a clock that only its engine moves; with its model, engine and clock."""
    sessions = []

    def opened(policy=None, pace=SetPace, profile=None, **options):
        clock, model = Clock(), Saying()
        engine = pace(bundle, clock, STAGE_MS)
        profile = profile or set_profile(bundle, STAGE_MS)
        session = Session(
            bundle, engine, policy or Deadline(), profile, model=model, clocks=Clocks(clock, clock), **options
        )
        sessions.append(session)
        engine.runs.clear()
        return session, model, engine, clock

    yield opened
    for session in sessions:
        session.close()


@pytest.fixture
def runs(monkeypatch):
    """How many requests were decided at their exits."""
    made = []

    class Noted(direct.Run):
        def __init__(self, *given, **options):
            made.append(self)
            super().__init__(*given, **options)

    monkeypatch.setattr(direct, "Run", Noted)
    return made


def test_second_request_alike_is_decided_no_more(opened, runs):
    session, _, engine, _ = opened()
    answers = [session.infer(SAMPLE, AMPLE_MS) for _ in range(4)]
    assert len(runs) == 1
    assert engine.runs == [FULL] * 4
    for answer in answers[1:]:
        assert replace(answer, seen=answers[0].seen) == answers[0]
    assert session.stats.requests == session.stats.deadlines_met == 4


def test_same_number_of_another_type_is_the_same_budget(opened, runs):
    session, *_ = opened()
    session.infer(SAMPLE, AMPLE_MS)
    session.infer(SAMPLE, int(AMPLE_MS))
    assert len(runs) == 1


def test_no_budget_is_planned_for_too(opened, runs):
    session, *_ = opened()
    answers = [session.infer(SAMPLE) for _ in range(3)]
    assert len(runs) == 1
    assert replace(answers[2], seen=answers[0].seen) == answers[0]


def test_a_deadline_and_a_whole_budget_are_decided_anew(opened, runs):
    session, _, _, clock = opened()
    for _ in range(2):
        assert session.infer(SAMPLE, deadline=clock() + AMPLE_MS / 1e3).point == OperatingPoint(1.0, DEPTHS)
        assert session.infer(SAMPLE, budget=Budget(AMPLE_MS)).point == OperatingPoint(1.0, DEPTHS)
    assert len(runs) == 4


def test_times_that_change_are_planned_with_anew(opened):
    session, model, _, _ = opened()
    narrow = [session.infer(SAMPLE, 3500).point for _ in range(3)]
    model.factor = 2.0
    assert {session.infer(SAMPLE, 3500).point for _ in range(3)} == {OperatingPoint(0.5, DEPTHS)}
    model.factor = 1.0
    assert {session.infer(SAMPLE, 3500).point for _ in range(3)} == set(narrow) == {OperatingPoint(1.0, DEPTHS)}


def test_each_budget_has_a_plan_of_its_own(opened):
    session, *_ = opened()
    for _ in range(3):
        assert session.infer(SAMPLE, 3500).point == OperatingPoint(1.0, DEPTHS)
        assert session.infer(SAMPLE, 1600).point == OperatingPoint(0.5, DEPTHS)


def test_nothing_is_planned_for_a_policy_that_looks_at_the_load(opened, runs):
    class Watching(Deadline):
        looks_at_load = True

    session, *_ = opened(Watching())
    for _ in range(4):
        session.infer(SAMPLE, AMPLE_MS)
    assert len(runs) == 4


def test_way_that_looks_at_exits_is_always_a_run(opened, runs):
    session, *_ = opened(Deadline(confidence=1.0))
    for _ in range(3):
        assert session.infer(SAMPLE, AMPLE_MS).exits == (1, 2, 3)
    assert len(runs) == 3


class Nearest:
    """Goes to the nearest exit of the full width each time, as long as there is one."""

    looks_at_load = False

    def next(self, situation):
        ahead = [step for step in situation.steps if step.width == 1.0]
        return min(ahead, key=lambda step: step.depth) if ahead else Stop.FINAL


def test_what_was_planned_goes_on_at_its_exit(opened, runs):
    session, model, *_ = opened(Nearest())
    first, *others = [session.infer(SAMPLE, AMPLE_MS) for _ in range(3)]
    for answer in others:
        assert replace(answer, seen=first.seen) == first
        assert (answer.exits, answer.stopped_by) == ((1, 2, 3), Stop.FINAL)
    session._runner.learn()
    steps = [(ran.step, ran.ran_ms, ran.wall_ms, ran.whole_path) for ran in model.told]
    assert steps[-4:] == steps[:4]  # the model hears of a planned way what it hears of any other
    assert [step for step, *_ in steps[:4]] == [Step(0, 1, 1.0), Step(2, 2, 1.0), Step(3, 3, 1.0), FULL]


def test_what_was_planned_ends_at_its_exit_once_nothing_further_is_in_time(opened):
    class Late(SetPace):
        late_ms = 0.0

        def run(self, step, x, cut=None):
            self._clock.sleep(self.late_ms / 1e3)
            return super().run(step, x, cut)

    session, _, engine, _ = opened(Nearest(), Late)
    for _ in range(3):
        assert session.infer(SAMPLE, 3100).exits == (1, 2, 3)
    engine.late_ms = 1500.0
    answer = session.infer(SAMPLE, 3100)
    assert (answer.exits, answer.stopped_by, answer.deadline_met) == ((1,), Stop.DEADLINE, True)
    engine.late_ms = 2500.0
    answer = session.infer(SAMPLE, 3100)
    assert (answer.exits, answer.stopped_by, answer.deadline_met) == ((1,), Stop.DEADLINE, False)


def test_time_to_make_the_answer_is_kept_free_in_a_plan_too(opened, bundle):
    profile = replace(set_profile(bundle, STAGE_MS), answers={1: (10.0, 50.0, 90.0)})
    session, *_ = opened(profile=profile)
    for _ in range(3):
        assert session.infer(SAMPLE, 3051).point.width == 1.0
        assert session.infer(SAMPLE, 3049).point.width < 1.0 or session.infer(SAMPLE, 3049).point.depth < DEPTHS


def test_a_leg_is_not_begun_where_there_is_time_for_it_but_not_for_the_answer(opened, bundle):
    class Late(SetPace):
        late_s = 0.0

        def run(self, step, x, cut=None):
            self._clock.sleep(self.late_s if step.depth == 1 else 0.0)
            return super().run(step, x, cut)

    profile = replace(set_profile(bundle, STAGE_MS), answers={1: (400.0, 400.0, 400.0)})
    session, _, engine, _ = opened(Deadline(), Late, profile, exit_by_exit=True)
    assert session.infer(SAMPLE, 3500.0).exits == (1, 2, 3)
    engine.late_s = 0.3
    assert session.infer(SAMPLE, 3500.0).exits == (1, 2)


def test_bad_input_is_told_as_ever(opened):
    session, *_ = opened()
    for _ in range(3):
        session.infer(SAMPLE, AMPLE_MS)
    for bad in (SAMPLE[0], SAMPLE.astype(np.float64), SAMPLE + np.nan, "cat"):
        with pytest.raises(InputError):
            session.infer(bad, AMPLE_MS)
    assert len(session.infer(SAMPLE[None], AMPLE_MS)) == 1


def test_closed_session_has_no_plans(opened):
    session, *_ = opened()
    for _ in range(3):
        session.infer(SAMPLE, AMPLE_MS)
    session.close()
    with pytest.raises(ClosedError):
        session.infer(SAMPLE, AMPLE_MS)


def test_planned_point_that_fails_is_left_and_the_deadline_stays(bundle, caplog):
    clock = Clock()
    engine = Faulty(SetPace(bundle, clock, STAGE_MS), lambda step: False)
    run = engine.run

    def slow_to_fail(step, x, cut=None):
        if engine.fails(step):
            clock.sleep(0.5)
        return run(step, x, cut)

    engine.run = slow_to_fail
    profile, model = set_profile(bundle, STAGE_MS), Saying()
    with Session(bundle, engine, Deadline(), profile, model=model, clocks=Clocks(clock, clock)) as session:
        for _ in range(3):
            session.infer(SAMPLE, 3500)
        engine.fails = lambda step: step.width == 1.0 and step.depth == DEPTHS
        with caplog.at_level(logging.ERROR):
            answer = session.infer(SAMPLE, 3500)
        assert len(caplog.records) == 1
        assert session.stats.failures == {OperatingPoint(1.0, DEPTHS): 1}
        assert answer.point != OperatingPoint(1.0, DEPTHS)
        assert answer.latency_ms == pytest.approx(500 + expected_ms(answer.point.whole_way, STAGE_MS))
        session._runner.learn()
        assert model.told[-1].wall_ms == pytest.approx(expected_ms(answer.point.whole_way, STAGE_MS))
        for _ in range(3):
            assert session.infer(SAMPLE, 3500).point == answer.point
        assert session.stats.failures == {OperatingPoint(1.0, DEPTHS): 1}


def test_at_its_exit_a_planned_request_is_decided_only_with_more_time_left_than_foreseen(opened, runs):
    session, model, engine, _ = opened(Alert())
    model.factor, engine._stage_ms = 2.0, 2.02 * STAGE_MS
    for _ in range(2):
        session.infer(SAMPLE, 5200.0)
        session._student.learn()
    runs.clear()
    answer = session.infer(SAMPLE, 5200.0)
    assert (answer.exits, answer.stopped_by, runs) == ((2,), Stop.DEADLINE, [])
    engine._stage_ms = STAGE_MS  # so much sooner that there is time for more
    assert session.infer(SAMPLE, 5200.0).exits == (2, 3)
    assert len(runs) == 1


@given(budgets=st.lists(st.sampled_from([0.5, 1.0, 3.0, 50.0]), max_size=12), factors=st.data())
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_planned_requests_answer_like_decided_ones(opened, budgets, factors):
    planned, model, *_ = opened(Alert())
    decided, other, *_ = opened(Alert())
    decided._direct._plans.find = lambda budget_ms: None
    for budget in budgets:
        model.factor = other.factor = factors.draw(st.sampled_from([0.5, 1.0, 2.0]))
        one, same = planned.infer(SAMPLE, budget * STAGE_MS), decided.infer(SAMPLE, budget * STAGE_MS)
        assert replace(one, seen=same.seen) == same
        assert one.seen.point == same.seen.point
    planned._runner.learn(), decided._runner.learn()
    assert [(ran.step, ran.wall_ms, ran.graphs) for ran in model.told] == [
        (ran.step, ran.wall_ms, ran.graphs) for ran in other.told
    ]


def test_real_graphs_answer_the_same_as_planned(toy):
    bundle = Bundle.open(toy.path)
    with Session(bundle, make_engine("onnx", bundle), Deadline(), set_profile(bundle, 1.0), sensors=False) as session:
        for x in toy.samples(6):
            answer = session.infer(x, AMPLE_MS)
            expected = toy.logits(x[None], *reversed(answer.point[:2]))[0]
            assert answer.seen.logits == pytest.approx(expected, abs=1e-4)


def test_a_plan_s_load_is_what_the_model_is_told(opened):
    class Busy:
        now = Load(others=3.0, cores=2.0, busy=0.75)

    session, model, *_ = opened(sensors=Busy())
    for _ in range(3):
        session.infer(SAMPLE, AMPLE_MS)
    session._runner.learn()
    assert [ran.load for ran in model.told] == [Busy.now] * 3
