"""What the time model is asked and told, to the millisecond, on a clock that only the engine moves."""

from dataclasses import replace
from threading import Event

import numpy as np
import pytest
from stretto.policies.deadline import Deadline
from stretto.policies.load import Load
from stretto.policies.situation import Step, Stop
from stretto.runtime.bundle import Bundle
from stretto.runtime.engines.cut import CutOff
from stretto.runtime.session import Session
from stretto.runtime.stand import Clocks

from .fakes import LEVELS, Clock, SetPace, expected_ms, set_profile
from .toy import toy_bundle

DEPTHS = 3
STAGE_MS = 1000.0
STEPWISE = Deadline(confidence=1.0)  # so that every exit is looked at
SAMPLE = np.zeros((3, 8, 8), np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("runner") / "toy.stretto"
    return Bundle.open(toy_bundle(path, widths=(0.5, 1.0), depths=DEPTHS).path)


class Noting:
    """A time model that takes everything for `factor` times as long, and keeps what it hears.

    `learn`: has it told of all that ran.
    """

    levels = LEVELS
    looks_at_load = False

    def __init__(self, factor=1.0):
        self.factor, self.asked, self.learn, self._told = factor, [], lambda: None, []

    @property
    def told(self):
        self.learn()
        return self._told

    def finish_ms(self, idle_ms, ran_ms, load, legs=None):
        self.asked.append((len(idle_ms), ran_ms, load))
        return idle_ms * self.factor

    def observe(self, ran):
        self._told.append(ran)


class Busy:
    now = Load(others=3.0, cores=2.0, busy=0.75)


@pytest.fixture
def opened(bundle):
    """Opens sessions on a clock of the wall, of which the thread gets a share."""

    def opened(model, engine=None, share=1.0, policy=None, **options):
        clock = Clock()
        engine = (engine or SetPace)(bundle, clock, STAGE_MS)
        clocks = Clocks(clock, lambda: clock.now_s * share)
        session = Session(
            bundle, engine, policy or STEPWISE, set_profile(bundle, STAGE_MS), model=model, clocks=clocks,
            exit_by_exit=True, **options
        )  # fmt: skip
        model.learn = session._runner.learn
        model.asked.clear()
        model.told.clear()
        return session, engine, clock

    return opened


def test_model_is_told_of_every_step_and_of_the_whole_path(opened):
    model = Noting(1.25)
    session, _, _ = opened(model, share=0.5)
    session.infer(SAMPLE)
    steps = [Step(0, 1, 1.0), Step(2, 2, 1.0), Step(3, 3, 1.0), Step(0, 3, 1.0)]
    assert [ran.step for ran in model.told] == steps
    assert [ran.whole_path for ran in model.told] == [False, False, False, True]
    for ran, ran_ms, wall_ms in zip(model.told, (0, 500, 1000, 0), (1000, 1000, 1000, 3000), strict=True):
        assert ran.idle_ms == pytest.approx(np.full(3, expected_ms(ran.step, STAGE_MS)))
        assert ran.predicted_ms == pytest.approx(1.25 * ran.idle_ms)
        assert (ran.ran_ms, ran.wall_ms, ran.cpu_ms) == pytest.approx((ran_ms, wall_ms, wall_ms / 2))
        assert not ran.cut_off


def test_model_is_asked_once_a_decision_with_what_the_request_has_used(opened):
    model = Noting()
    session, _, _ = opened(model, share=0.5, sensors=Busy())
    session.infer(SAMPLE)
    assert [(steps, ran_ms) for steps, ran_ms, _ in model.asked] == [
        (6, pytest.approx(0)),
        (2, pytest.approx(500)),
        (1, pytest.approx(1000)),
    ]
    assert {load for _, _, load in model.asked} == {Busy.now}
    assert {ran.load for ran in model.told} == {Busy.now}


def test_policy_decides_by_what_the_model_says(opened):
    session, _, _ = opened(Noting(2.0))
    answer = session.infer(SAMPLE, budget_ms=3500)
    assert answer.exits == (1, 2, 3)
    assert answer.point.width == 0.5  # 3 stages of half width, twice as long as in the profile
    assert answer.expected_ms == pytest.approx(3000)


def test_policy_sees_the_load_and_the_model_s_levels(opened):
    seen = []

    class Curious(Deadline):
        def next(self, situation):
            seen.append((situation.load, situation.levels))
            return super().next(situation)

    session, _, _ = opened(Noting(), policy=Curious(), sensors=Busy())
    seen.clear()
    session.infer(SAMPLE)
    assert set(seen) == {(0.75, LEVELS)}


def test_processor_time_is_unknown_where_others_than_the_caller_run_the_step(opened):
    class Elsewhere(SetPace):
        in_caller = False

    model = Noting()
    session, _, _ = opened(model, Elsewhere)
    session.infer(SAMPLE)
    assert {ran.cpu_ms for ran in model.told} == {None}


def test_step_that_was_cut_off_is_told_as_such_and_so_is_its_path(opened):
    class CutAtTwo(SetPace):
        def run(self, step, x, cut=None):
            found = super().run(step, x, cut)
            if step.first == 2:
                raise CutOff
            return found

    model = Noting()
    session, _, _ = opened(model, CutAtTwo)
    answer = session.infer(SAMPLE, budget_ms=1e6)
    assert (answer.exits, answer.stopped_by) == ((1,), Stop.DEADLINE)
    assert [(ran.step, ran.cut_off) for ran in model.told] == [
        (Step(0, 1, 1.0), False),
        (Step(2, 2, 1.0), True),
        (Step(0, 2, 1.0), True),
    ]
    assert session.stats.cut_offs == 1


def test_single_step_is_told_once(opened):
    class OneStep:
        def next(self, situation):
            return Stop.TARGET if situation.evidence else situation.steps[0]

    model = Noting()
    session, _, _ = opened(model, policy=OneStep())
    session.infer(SAMPLE)
    assert [ran.whole_path for ran in model.told] == [False]


def test_what_the_caller_of_refine_does_in_between_is_no_step_s_time(opened):
    model = Noting()
    session, _, clock = opened(model)
    for _ in session.refine(SAMPLE):
        clock.sleep(77)
    assert [(ran.wall_ms, ran.ran_ms) for ran in model.told] == [
        (pytest.approx(1000), pytest.approx(ran_ms)) for ran_ms in (0, 1000, 2000)
    ]


def test_batch_is_told_by_its_steps_with_the_times_of_so_many(opened):
    model = Noting()
    session, _, _ = opened(model)
    session.infer(np.stack([SAMPLE] * 4))
    assert [ran.step for ran in model.told] == [Step(0, 1, 1.0), Step(2, 2, 1.0), Step(3, 3, 1.0)]
    for ran in model.told:
        assert ran.idle_ms == pytest.approx(np.full(3, 4 * STAGE_MS))
        assert ran.wall_ms == pytest.approx(4 * STAGE_MS)
    assert len(model.asked) == 3


def test_what_would_be_late_even_on_the_idle_device_does_not_go_on_whatever_the_policy_says(opened):
    class Careless:
        def next(self, situation):
            return situation.steps[0] if situation.steps else Stop.FINAL

    model = Noting()
    session, _, _ = opened(model, policy=Careless())
    answer = session.infer(SAMPLE, budget_ms=1499)
    assert (answer.exits, answer.stopped_by) == ((1, 2), Stop.DEADLINE)
    assert len(model.asked) == 2  # not at the second exit
    assert session.infer(SAMPLE, budget_ms=1500).exits == (1, 2, 3)


class Straight:
    """Goes to the final exit in one step."""

    def next(self, situation):
        return situation.steps[-1] if situation.steps else Stop.FINAL


def test_span_is_run_leg_by_leg_with_one_decision(opened):
    model = Noting()
    session, engine, _ = opened(model, policy=Straight())
    engine.runs.clear()
    answer = session.infer(SAMPLE)
    assert engine.runs == [Step(0, 1, 1.0), Step(2, 2, 1.0), Step(3, 3, 1.0)]
    assert (answer.point.depth, answer.exits, answer.stopped_by) == (3, (1, 2, 3), Stop.FINAL)
    assert len(model.asked) == 1
    assert [(ran.step, ran.wall_ms) for ran in model.told] == [(Step(0, 3, 1.0), pytest.approx(3000))]


def test_span_of_a_batch_is_run_leg_by_leg_too(opened):
    session, engine, _ = opened(Noting(), policy=Straight())
    engine.runs.clear()
    for answer in session.infer(np.stack([SAMPLE] * 2)):
        assert (answer.point.depth, answer.exits) == (3, (1, 2, 3))
    assert len(engine.runs) == 3


class CutAt(SetPace):
    depth = 3

    def run(self, step, x, cut=None):
        found = super().run(step, x, cut)
        if step.depth == self.depth and cut is not None:
            raise CutOff
        return found


@pytest.mark.parametrize("samples", [1, 3])
def test_span_that_is_cut_off_answers_with_the_exits_it_passed(opened, samples):
    model = Noting()
    session, _, _ = opened(model, CutAt, policy=Straight())
    for answer in session.infer(np.stack([SAMPLE] * samples), budget_ms=1e6):
        assert (answer.point.depth, answer.exits, answer.stopped_by) == (2, (1, 2), Stop.DEADLINE)
    assert [(ran.step, ran.cut_off) for ran in model.told] == [(Step(0, 3, 1.0), True)]


def test_first_leg_of_a_span_is_not_cut_off(opened):
    class CutAtOne(CutAt):
        depth = 1

    session, _, _ = opened(Noting(), CutAtOne, policy=Straight())
    assert session.infer(SAMPLE, budget_ms=1e6).exits == (1, 2, 3)


class Slower(SetPace):
    """From exit 1 on, everything takes three times as long."""

    def run(self, step, x, cut=None):
        for _ in range(1 if step.first == 0 else 3):
            found = super().run(step, x, cut)
        return found


def test_step_that_falls_behind_is_decided_anew_at_the_exit_where_that_shows(opened):
    model = Noting()
    session, engine, _ = opened(model, Slower, policy=Deadline())
    engine.runs.clear()
    answer = session.infer(SAMPLE, budget_ms=3500)
    assert engine.runs == [Step(0, 1, 1.0), *[Step(2, 2, 1.0)] * 3]  # done after 4 s of 3.5, no use in going on
    assert (answer.point.depth, answer.exits, answer.stopped_by) == (2, (1, 2), Stop.DEADLINE)
    assert [(ran.step, ran.wall_ms) for ran in model.told] == [(Step(0, 2, 1.0), pytest.approx(4000))]


def test_step_in_time_goes_on_without_a_decision(opened):
    model = Noting()
    session, engine, _ = opened(model, policy=Deadline())
    engine.runs.clear()
    assert session.infer(SAMPLE, budget_ms=3001).exits == (1, 2, 3)
    assert len(engine.runs) == 3 and len(model.asked) == 1


@pytest.mark.parametrize("samples", [1, 2])
def test_whoever_fell_behind_may_still_go_on_to_a_nearer_exit(opened, samples):
    class Late(SetPace):
        """The first exit is late by three quarters of a stage."""

        def run(self, step, x, cut=None):
            self._clock.sleep(0.75 * STAGE_MS * len(x) / 1e3 if step.first == 0 else 0.0)
            return super().run(step, x, cut)

    session, engine, _ = opened(Noting(), Late, policy=Deadline())
    engine.runs.clear()
    for answer in session.infer(np.stack([SAMPLE] * samples), budget_ms=3001 * samples):
        assert (answer.exits, answer.stopped_by) == ((1, 2), Stop.DEADLINE)


def test_time_to_make_the_answer_is_kept_free_before_the_deadline(bundle):
    clock = Clock()
    profile = replace(set_profile(bundle, STAGE_MS), answers={1: (10.0, 50.0, 90.0)})
    engine = SetPace(bundle, clock, STAGE_MS)
    with Session(bundle, engine, Deadline(), profile, clocks=Clocks(clock, clock), exit_by_exit=True) as session:
        assert session.infer(SAMPLE, budget_ms=3051).exits == (1, 2, 3)
        assert session.infer(SAMPLE, budget_ms=3049).exits == (1, 2)


def test_what_a_request_does_before_its_first_step_is_its_own_time(opened, monkeypatch):
    model = Noting()
    session, _, clock = opened(model, policy=Straight())

    def checked(x, spec, every_number):
        clock.sleep(0.25)
        return False

    monkeypatch.setattr("stretto.runtime.reception.check_input", checked)
    session.infer(SAMPLE)
    assert [(ran.wall_ms, ran.cpu_ms) for ran in model.told] == [(pytest.approx(3250), pytest.approx(3250))]


def test_ticket_s_wait_for_its_turn_is_no_step_s_time(opened):
    model = Noting()
    session, engine, clock = opened(model)
    first, run = Event(), engine.run

    def held(step, x, cut=None):
        first.wait(30)
        return run(step, x, cut)

    engine.run = held
    tickets = [session.submit(SAMPLE) for _ in range(2)]
    clock.sleep(500)
    first.set()
    for ticket in tickets:
        ticket.result(30)
    session.close()
    second = [ran.wall_ms for ran in model.told if not ran.whole_path][3:]
    assert second == pytest.approx([1000, 1000, 1000])


class Yielding:
    """A policy of somebody's own: goes to the end of the widest where the device is free, else to the nearest exit."""

    def next(self, situation):
        if situation.evidence:
            return Stop.TARGET
        return min(situation.steps) if situation.load else max(situation.steps)


class Changing:
    now = Load(busy=0.0)


def test_decision_is_not_kept_for_a_policy_that_looks_at_the_load(bundle):
    clock, sensors = Clock(), Changing()
    with Session(
        bundle, SetPace(bundle, clock, STAGE_MS), Yielding(), set_profile(bundle, STAGE_MS), sensors=sensors,
        clocks=Clocks(clock, clock),
    ) as session:  # fmt: skip
        free = session.infer(SAMPLE).point
        sensors.now = Load(busy=0.9)
        assert session.infer(SAMPLE).point != free


def test_decision_is_kept_where_nothing_that_it_depends_on_has_changed(bundle):
    asked = []

    class Counting(Deadline):
        def target(self, situation):
            asked.append(situation.slack_ms)
            return super().target(situation)

    clock = Clock()
    with Session(
        bundle, SetPace(bundle, clock, STAGE_MS), Counting(), set_profile(bundle, STAGE_MS), clocks=Clocks(clock, clock)
    ) as session:
        asked.clear()
        points = [session.infer(SAMPLE, budget_ms=2e3 * STAGE_MS).point for _ in range(3)]
        assert len(set(points)) == 1 and len(asked) == 1
