"""An engine that fails at a point: the request goes on by another one, and nobody is sent there again."""

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from stretto.policies.deadline import Deadline
from stretto.policies.fixed import Fixed
from stretto.policies.scores import calibrated_scores
from stretto.policies.situation import OperatingPoint, Step, Stop
from stretto.runtime.bundle import Bundle
from stretto.runtime.engines import make_engine
from stretto.runtime.errors import ClosedError, EngineError
from stretto.runtime.session import Session
from stretto.runtime.stand import Clocks

from .fakes import Clock, Faulty, SetPace, set_profile
from .toy import toy_bundle

DEPTHS = 3


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_bundle(tmp_path_factory.mktemp("fallback") / "toy.stretto", widths=(0.5, 1.0), depths=DEPTHS)


@pytest.fixture(scope="module")
def bundle(toy):
    return Bundle.open(toy.path)


@pytest.fixture
def opened(bundle):
    """Opens a session whose engine fails, from then on, at the steps that `fails` says."""
    sessions = []

    def opened(fails, policy=None):
        engine = Faulty(make_engine("onnx", bundle), lambda step: False)
        sessions.append(Session(bundle, engine, policy or Deadline(), set_profile(bundle, 1.0), exit_by_exit=True))
        engine.runs.clear()
        engine.fails = fails
        return sessions[-1], engine

    yield opened
    for session in sessions:
        session.close()


def leads_to(*points):
    return lambda step: (step.width, step.depth) in points


def right(toy, answer, x):
    expected = calibrated_scores(toy.logits(x[None], answer.point.depth, answer.point.width)[0])
    assert answer.scores == pytest.approx(expected, abs=1e-5)


def test_first_step_that_fails_is_replaced_by_another_way(toy, opened):
    session, _ = opened(lambda step: step.width == 1.0)
    x = toy.samples(1)[0]
    answer = session.infer(x)
    assert answer.point == OperatingPoint(0.5, DEPTHS)
    right(toy, answer, x)


def test_exit_that_fails_is_left_out_by_a_span(toy, opened):
    session, engine = opened(leads_to((1.0, 2)))
    x = toy.samples(1)[0]
    answer = session.infer(x)
    assert (answer.point, answer.exits) == (OperatingPoint(1.0, 3), (1, 3))
    assert [step for step, _ in engine.runs] == [Step(0, 1, 1.0), Step(2, 3, 1.0)]
    right(toy, answer, x)


def test_request_starts_again_at_another_width_where_that_is_better_than_what_it_has(toy, opened):
    session, _ = opened(leads_to((1.0, 2), (1.0, 3)))
    x = toy.samples(1)[0]
    answer = session.infer(x)  # exit 1 at width 1 is 70 % right in the toy's manifest, exit 3 at half width 75 %
    assert (answer.point, answer.exits) == (OperatingPoint(0.5, 3), (1, 1, 2, 3))
    right(toy, answer, x)


def test_without_the_time_to_start_again_the_best_so_far_is_the_answer(toy, bundle):
    class Slow(SetPace):
        def run(self, step, x, cut=None):
            if step == Step(2, 2, 1.0):
                raise RuntimeError("no luck")
            return super().run(step, x, cut)

    clock = Clock()
    engine = Slow(bundle, clock, 1000.0)
    with Session(
        bundle, engine, Deadline(), set_profile(bundle, 1000.0), clocks=Clocks(clock, clock), exit_by_exit=True
    ) as session:
        answer = session.infer(toy.samples(1)[0], budget_ms=2100)  # half width, 3 exits: 1500 more
    assert (answer.point, answer.exits) == (OperatingPoint(1.0, 1), (1,))
    assert (answer.stopped_by, answer.deadline_met) == (Stop.DEADLINE, True)


def test_point_that_failed_is_not_tried_again_logged_once_and_counted(toy, opened, caplog):
    session, _ = opened(leads_to((1.0, 1)))
    x = toy.samples(1)[0]
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            session.infer(x)
    assert session.stats.failures == {OperatingPoint(1.0, 1): 1}
    (record,) = caplog.records
    assert record.message.startswith("toy.stretto: onnx fails at OperatingPoint(width=1.0, depth=1, precision='fp32')")
    assert "no luck with 1" in record.message


@pytest.mark.parametrize("policy", [Deadline(), Fixed(OperatingPoint(1.0, 2))], ids=repr)
def test_engine_that_fails_everywhere_is_an_error_naming_points_and_reasons(toy, opened, policy):
    session, _ = opened(lambda step: True, policy)
    for _ in range(2):
        with pytest.raises(
            EngineError, match=r"engine 'onnx' of toy\.stretto failed at OperatingPoint\(width=.*no luck"
        ):
            session.infer(toy.samples(1)[0])
    with pytest.raises(EngineError):
        session.infer(toy.samples(2))
    with pytest.raises(EngineError):
        session.submit(toy.samples(1)[0]).result(30)


def test_fixed_point_that_fails_is_an_error_and_other_points_are_no_answer_to_it(toy, opened):
    session, _ = opened(leads_to((1.0, 2)), Fixed(OperatingPoint(1.0, 2)))
    with pytest.raises(EngineError, match=r"isn't offered.*failed at OperatingPoint\(width=1\.0, depth=2"):
        session.infer(toy.samples(1)[0])


def test_batch_goes_on_by_another_point(toy, opened):
    session, _ = opened(leads_to((1.0, 2), (1.0, 3)))
    x = toy.samples(5)
    answers = session.infer(x)
    for answer, sample in zip(answers, x, strict=True):
        assert (answer.point, answer.exits) == (OperatingPoint(0.5, 3), (1, 1, 2, 3))
        right(toy, answer, sample)


def test_batch_whose_first_step_fails_starts_at_another_width(toy, opened):
    session, _ = opened(lambda step: step.width == 1.0)
    assert {answer.point for answer in session.infer(toy.samples(3))} == {OperatingPoint(0.5, 3)}


def test_batch_that_is_too_large_for_the_engine_takes_nothing_from_smaller_ones(toy, bundle):
    class Small(Faulty):
        def run(self, step, x, cut=None):
            if len(x) > 4:
                raise MemoryError("no room")
            return super().run(step, x, cut)

    engine = Small(make_engine("onnx", bundle), lambda step: False)
    with Session(bundle, engine, Deadline(), set_profile(bundle, 1.0), exit_by_exit=True) as session:
        with pytest.raises(EngineError, match="no room"):
            session.infer(toy.samples(6))
        with pytest.raises(EngineError, match="no room"):
            session.infer(toy.samples(5))
        engine.runs.clear()
        with pytest.raises(EngineError):
            session.infer(toy.samples(7))
        assert engine.runs == []  # what failed with fewer isn't tried with more
        assert [answer.exits for answer in session.infer(toy.samples(4))] == [(1, 2, 3)] * 4


@pytest.mark.parametrize("samples", [1, 2])
def test_start_at_another_width_is_cut_off_at_the_deadline_as_an_answer_is_in_hand(toy, bundle, samples):
    class TurnsBack:
        """To the first exit, on at full width while that is offered, then from the start at half of it."""

        def next(self, situation):
            wanted = {0: [(1.0, 1)], 1: [(1.0, 2), (0.5, 1)]}.get(len(situation.evidence), [])
            found = [step for point in wanted for step in situation.steps if step.point[:2] == point]
            return found[0] if found else Stop.TARGET

    may_end = []

    class Watched(Faulty):
        def run(self, step, x, cut=None):
            if step.width < 1:
                may_end.append(cut is not None)
            return super().run(step, x, cut)

    engine = Watched(make_engine("onnx", bundle), leads_to((1.0, 2)))
    with Session(bundle, engine, TurnsBack(), set_profile(bundle, 10.0), exit_by_exit=True) as session:
        session.infer(toy.samples(samples) if samples > 1 else toy.samples(1)[0], budget_ms=60_000)
    assert may_end == [True]


def test_refine_and_submit_go_on_by_another_point(toy, opened):
    session, _ = opened(leads_to((1.0, 2)))
    x = toy.samples(1)[0]
    assert [answer.exits for answer in session.refine(x)] == [(1,), (1, 3)]
    assert session.submit(x).result(30).exits == (1, 3)


def test_use_of_a_closed_engine_is_no_failure_of_a_point(toy, opened):
    session, engine = opened(lambda step: False)
    refining = session.refine(toy.samples(1)[0])
    next(refining)
    engine.close()
    with pytest.raises(ClosedError, match="the engine of"):
        next(refining)
    assert session.stats.failures == {}


def test_failures_from_many_threads_take_the_point_off_once(toy, opened):
    session, _ = opened(leads_to((1.0, 1)))
    x = toy.samples(1)[0]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: session.infer(x), range(40)))
    assert all(np.isfinite(answer.scores).all() for answer in answers)
    assert 1 <= session.stats.failures[OperatingPoint(1.0, 1)] <= 40
    assert session.infer(x).stopped_by is Stop.FINAL
