"""An input that ends unsure at a narrow width starts again wider, alone and in a batch."""

import numpy as np
import pytest
from stretto.policies.alert import Alert
from stretto.policies.deadline import Deadline
from stretto.policies.escalate import Escalate
from stretto.policies.exits import MarginRule
from stretto.policies.situation import OperatingPoint, Step, Stop
from stretto.runtime.bundle import Bundle
from stretto.runtime.engines import make_engine
from stretto.runtime.session import Session

from stretto import load

from .fakes import Faulty, Recorder, set_profile
from .toy import toy_bundle

DEPTHS = 3
AMPLE_MS = 1e7
FIRST, FULL = OperatingPoint(0.5, DEPTHS), OperatingPoint(1.0, DEPTHS)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_bundle(tmp_path_factory.mktemp("escalation") / "toy.stretto", widths=(0.5, 1.0), depths=DEPTHS)


@pytest.fixture
def opened(toy):
    sessions = []

    def opened(policy, wrap=Recorder, **options):
        bundle = Bundle.open(toy.path)
        engine = wrap(make_engine("onnx", bundle))
        sessions.append(Session(bundle, engine, policy, set_profile(bundle, 1.0), **options))
        engine.runs.clear()
        return sessions[-1], engine

    yield opened
    for session in sessions:
        session.close()


def margins(toy, x):
    scores = np.sort(np.exp(toy.logits(x, DEPTHS, 0.5)), axis=1)
    return (scores[:, -1] - scores[:, -2]) / scores.sum(axis=1)


@pytest.fixture(scope="module")
def inputs(toy):
    return toy.samples(12)


@pytest.fixture(scope="module")
def policy(toy, inputs):
    """Sure of half of the inputs."""
    return Escalate(FIRST, MarginRule(float(np.median(margins(toy, inputs)))))


def ends(toy, inputs, policy):
    sure = margins(toy, inputs) >= policy.confidence.threshold
    assert 0 < sure.sum() < len(sure)
    return [FIRST if one else FULL for one in sure]


def right(toy, answer, x):
    expected = toy.logits(x[None], answer.point.depth, answer.point.width)[0]
    assert answer.seen.logits == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("budget_ms", [None, AMPLE_MS])
def test_unsure_inputs_end_at_the_full_width_and_sure_ones_at_the_first_look(toy, inputs, policy, opened, budget_ms):
    session, engine = opened(policy)
    for x, point in zip(inputs, ends(toy, inputs, policy), strict=True):
        engine.runs.clear()
        answer = session.infer(x, budget_ms)
        is_first = point == FIRST
        assert answer.point == point
        assert answer.stopped_by is (Stop.CONFIDENCE if is_first else Stop.FINAL)
        assert answer.exits == ((DEPTHS,) if is_first else (DEPTHS, DEPTHS))
        assert [step for step, _ in engine.runs] == [Step(0, DEPTHS, 0.5), Step(0, DEPTHS, 1.0)][: 2 - is_first]
        right(toy, answer, x)


def test_a_batch_parts_into_those_that_are_sure_and_those_that_start_again(toy, inputs, policy, opened):
    session, engine = opened(policy)
    points = ends(toy, inputs, policy)
    for x, point, answer in zip(inputs, points, session.infer(inputs), strict=True):
        assert answer.point == point
        right(toy, answer, x)
    assert sum(samples for step, samples in engine.runs if step.width == 1.0) == points.count(FULL)
    assert {samples for step, samples in engine.runs if step.width == 0.5} == {len(inputs)}


def test_a_whole_batch_that_is_unsure_starts_again(toy, inputs, opened):
    session, _ = opened(Escalate(FIRST, MarginRule(1.0)))
    for x, answer in zip(inputs, session.infer(inputs), strict=True):
        assert answer.point == FULL
        right(toy, answer, x)


def test_going_on_exit_by_exit_gives_the_same(toy, inputs, policy, opened):
    session, _ = opened(policy, exit_by_exit=True)
    for x, point in zip(inputs, ends(toy, inputs, policy), strict=True):
        answer = session.infer(x)
        assert answer.point == point
        right(toy, answer, x)


def test_refine_goes_to_the_first_look_and_then_on(toy, inputs, policy, opened):
    session, _ = opened(policy)
    for x, point in zip(inputs, ends(toy, inputs, policy), strict=True):
        answers = list(session.refine(x))
        assert answers[DEPTHS - 1].exits == (1, 2, 3)
        assert (len(answers) == DEPTHS) == (point == FIRST)
        right(toy, answers[-1], x)


def test_ticket_ends_where_a_request_does(toy, inputs, policy, opened):
    session, _ = opened(policy)
    for x, point in zip(inputs, ends(toy, inputs, policy), strict=True):
        answer = session.submit(x).result(30)
        assert answer.point == point
        right(toy, answer, x)


@pytest.mark.parametrize("batch", [False, True])
def test_width_that_fails_when_it_is_started_again_leaves_the_first_look_s_answer(toy, inputs, opened, batch):
    session, engine = opened(Escalate(FIRST, MarginRule(1.0)), lambda engine: Faulty(engine, lambda step: False))
    engine.fails = lambda step: step.width == 1.0
    answers = session.infer(inputs) if batch else [session.infer(x) for x in inputs]
    for x, answer in zip(inputs, answers, strict=True):
        assert answer.point == FIRST
        right(toy, answer, x)


@pytest.mark.parametrize("batch", [False, True])
def test_final_exit_that_fails_after_a_first_look_is_replaced_by_one_before(toy, inputs, opened, batch):
    session, engine = opened(
        Escalate(FIRST, MarginRule(1.0), Deadline()), lambda engine: Faulty(engine, lambda step: False)
    )
    engine.fails = lambda step: step.point == FULL
    answers = session.infer(inputs) if batch else [session.infer(x) for x in inputs]
    for x, answer in zip(inputs, answers, strict=True):
        assert answer.point == OperatingPoint(1.0, DEPTHS - 1)
        right(toy, answer, x)


def test_what_it_takes_is_both(toy, inputs, opened):
    session, _ = opened(Escalate(FIRST, MarginRule(1.0)))
    answer = session.infer(inputs[0])
    assert answer.energy_mj == pytest.approx(5.0 * DEPTHS * (0.5 + 1.0))


def test_other_policies_are_never_offered_a_start_behind_an_exit(toy, inputs, opened):
    seen = []

    class Curious(Deadline):
        def next(self, situation):
            seen.append(situation)
            return super().next(situation)

    session, _ = opened(Curious(confidence=1.0))
    session.infer(inputs[0])
    assert all(step.first for situation in seen if situation.evidence for step in situation.steps)


def test_by_name_it_looks_at_the_least_width_first(toy, inputs):
    with load(toy.path, policy="escalate", confidence=0.9) as session:
        assert session._runner.policy == Escalate(FIRST, 0.9, Alert())
        assert session.infer(inputs[0]).point in (FIRST, FULL)
