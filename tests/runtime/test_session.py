import math
import os
from bisect import bisect
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from stretto.policies.deadline import Deadline
from stretto.policies.fixed import Fixed
from stretto.policies.scores import calibrated_scores
from stretto.policies.situation import Budget, OperatingPoint, Step, Stop
from stretto.runtime.bundle import Bundle
from stretto.runtime.engines import make_engine
from stretto.runtime.errors import InputError
from stretto.runtime.session import Session
from stretto.runtime.stand import Clocks

from .fakes import Clock, Recorder, SetPace, set_profile
from .toy import toy_bundle

DEPTHS = 4
STAGE_MS = 1e6  # of full width, in the profile that the sessions here plan with; real stages take microseconds


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    path = tmp_path_factory.mktemp("session") / "toy.stretto"
    return toy_bundle(path, widths=(0.25, 0.5, 1.0), depths=DEPTHS, temperature=2.0)


@pytest.fixture(scope="module")
def bundle(toy):
    return Bundle.open(toy.path)


@pytest.fixture(scope="module")
def engine(bundle):
    return make_engine("onnx", bundle)


@pytest.fixture
def opened(bundle, engine):
    """Opens a session with a policy; its engine notes what it runs."""

    def opened(policy=None, of=bundle, **options):
        recorder = Recorder(engine)
        session = Session(of, recorder, policy or Deadline(), set_profile(of, STAGE_MS), **options)
        recorder.runs.clear()
        return session, recorder

    return opened


def varied(toy, count):
    """(count, 3, 8, 8) samples that the toy is sure of to very different degrees."""
    tints = np.random.default_rng(1).standard_normal((count, 3, 1, 1), np.float32)
    return toy.samples(count) + 4 * tints


def legs(width, deepest):
    return [Step(depth if depth > 1 else 0, depth, width) for depth in range(1, deepest + 1)]


@pytest.mark.parametrize("depth", range(1, DEPTHS + 1))
@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
def test_fixed_point_is_one_run_and_equals_the_reference(toy, opened, width, depth):
    session, recorder = opened(Fixed(OperatingPoint(width, depth)))
    x = toy.samples(1)
    answer = session.infer(x[0])
    assert recorder.runs == [(Step(0, depth, width), 1)]
    assert answer.scores == pytest.approx(calibrated_scores(toy.logits(x, depth, width)[0], 2.0), abs=1e-5)
    assert answer.point == OperatingPoint(width, depth)
    assert answer.exits == (depth,)
    assert answer.stopped_by is (Stop.FINAL if depth == DEPTHS else Stop.TARGET)


def test_answer_says_what_was_expected(toy, opened):
    answer = opened(Fixed(OperatingPoint(0.5, 3)))[0].infer(toy.samples(1)[0])
    assert answer.expected_ms == pytest.approx(3 * 0.5 * STAGE_MS)
    assert answer.expected_accuracy == pytest.approx(0.3 + 0.3 * 0.5 + 0.3 * 3 / DEPTHS)
    assert answer.index == answer.scores.argmax()
    assert answer.label == f"class {answer.index}"
    assert answer.confidence == pytest.approx(answer.scores.max())


@pytest.fixture
def paced(bundle):
    """Opens a session on a clock that only its engine moves, by `stage_ms` for each stage of full width."""

    def paced(stage_ms=STAGE_MS, policy=None):
        clock = Clock()
        engine = SetPace(bundle, clock, stage_ms)
        session = Session(
            bundle,
            engine,
            policy or Deadline(),
            set_profile(bundle, STAGE_MS),
            clocks=Clocks(clock, clock),
            exit_by_exit=True,
        )
        engine.runs.clear()
        return session, engine, clock

    return paced


@pytest.mark.parametrize(
    "budget_ms, width, depth, stop",
    [
        (0.26 * STAGE_MS, 0.25, 1, Stop.DEADLINE),
        (0.76 * STAGE_MS, 0.25, 3, Stop.DEADLINE),
        (3.01 * STAGE_MS, 1.0, 3, Stop.DEADLINE),
        (math.inf, 1.0, DEPTHS, Stop.FINAL),
    ],
)
def test_no_stage_after_the_answer_is_run(toy, paced, budget_ms, width, depth, stop):
    session, engine, _ = paced()
    answer = session.infer(toy.samples(1)[0], budget_ms)
    assert (answer.point, answer.stopped_by) == (OperatingPoint(width, depth), stop)
    assert engine.runs == legs(width, depth)
    assert answer.exits == tuple(range(1, depth + 1))
    assert answer.latency_ms == pytest.approx(depth * width * STAGE_MS)
    assert answer.deadline_met


def test_step_that_took_longer_than_profiled_ends_the_request_sooner(toy, paced):
    session, engine, _ = paced(stage_ms=3 * STAGE_MS)
    answer = session.infer(toy.samples(1)[0], budget_ms=3.9 * STAGE_MS)
    assert engine.runs == legs(1.0, 1)
    assert answer.stopped_by is Stop.DEADLINE
    assert answer.deadline_met


def test_late_request_is_answered_by_the_soonest_exit(toy, paced):
    session, _, clock = paced()
    for late in ({"budget_ms": 1.0}, {"deadline": clock() - 5}):
        answer = session.infer(toy.samples(1)[0], **late)
        assert answer.point == OperatingPoint(0.25, 1)
        assert not answer.deadline_met


def test_three_ways_to_give_a_budget_are_one(toy, paced):
    session, _, clock = paced()
    x, budget_ms = toy.samples(1)[0], 2.51 * STAGE_MS
    by_budget_ms = session.infer(x, budget_ms)
    by_deadline = session.infer(x, deadline=clock() + budget_ms / 1e3)
    by_budget = session.infer(x, budget=Budget(budget_ms))
    assert by_budget_ms.point == by_deadline.point == by_budget.point == OperatingPoint(0.5, 4)


def test_enough_accuracy_is_passed_on_to_the_policy(toy, paced):
    session, _, _ = paced()
    answer = session.infer(toy.samples(1)[0], budget=Budget(min_accuracy=0.5))
    assert (answer.point, answer.stopped_by) == (OperatingPoint(0.25, 2), Stop.TARGET)


def test_no_budget_means_no_deadline(toy, opened):
    answer = opened()[0].infer(toy.samples(1)[0])
    assert answer.deadline_met and answer.stopped_by is Stop.FINAL


def test_sure_exit_ends_the_request(toy, opened):
    session, recorder = opened(Deadline(confidence=0.01))
    answer = session.infer(toy.samples(1)[0])
    assert answer.stopped_by is Stop.CONFIDENCE
    assert recorder.runs == [(Step(0, 1, 1.0), 1)]


@pytest.mark.parametrize("policy", [Deadline(), Deadline(confidence=0.55), Fixed(OperatingPoint(0.5, 2))], ids=repr)
@pytest.mark.parametrize("count", [1, 2, 5, 33])
def test_batch_of_any_size_equals_its_samples_alone(toy, opened, policy, count):
    session, _ = opened(policy)
    x = varied(toy, count)
    together, alone = session.infer(x), [session.infer(sample) for sample in x]
    assert len(together) == count
    for one, other in zip(together, alone, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
        assert (one.point, one.stopped_by, one.exits) == (other.point, other.stopped_by, other.exits)


def test_samples_that_are_sure_leave_the_batch(toy, opened):
    session, recorder = opened(Deadline(confidence=0.55))
    answers = session.infer(varied(toy, 33))
    went_on = [sum(len(answer.exits) >= depth for answer in answers) for depth in range(1, DEPTHS + 1)]
    assert recorder.runs == list(zip(legs(1.0, DEPTHS), went_on, strict=True))
    assert 33 > went_on[1] > went_on[-1] > 0


class Parting:
    """Sends samples apart after the first exit: the less sure they are, the further on."""

    def next(self, situation):
        if not situation.evidence:
            return situation.steps[0]
        if len(situation.evidence) > 1:
            return Stop.TARGET
        return [situation.steps[1], situation.steps[0], Stop.CONFIDENCE][
            bisect((0.5, 0.7), situation.evidence[0].confidence)
        ]


def test_samples_of_a_batch_may_part(toy, opened):
    session, _ = opened(Parting())
    x = varied(toy, 20)
    together, alone = session.infer(x), [session.infer(sample) for sample in x]
    assert [answer.exits for answer in together] == [answer.exits for answer in alone]
    assert {answer.exits for answer in together} == {(1,), (1, 2), (1, 2, 3)}
    for one, other in zip(together, alone, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-5)


def test_refine_gives_every_exit_each_at_least_as_good(toy, opened):
    session, recorder = opened()
    x = toy.samples(1)
    answers = list(session.refine(x[0]))
    assert [answer.point.depth for answer in answers] == [1, 2, 3, 4]
    assert [answer.stopped_by for answer in answers] == [None, None, None, Stop.FINAL]
    assert all(before.expected_accuracy <= after.expected_accuracy for before, after in pairwise(answers))
    assert all(before.latency_ms <= after.latency_ms for before, after in pairwise(answers))
    assert recorder.runs == [(step, 1) for step in legs(1.0, DEPTHS)]
    for answer in answers:
        expected = calibrated_scores(toy.logits(x, answer.point.depth, 1.0)[0], 2.0)
        assert answer.scores == pytest.approx(expected, abs=1e-5)


def test_refine_goes_exit_by_exit_even_to_a_fixed_point(toy, opened):
    session, recorder = opened(Fixed(OperatingPoint(0.5, 3)))
    answers = list(session.refine(toy.samples(1)[0]))
    assert [answer.exits for answer in answers] == [(1,), (1, 2), (1, 2, 3)]
    assert answers[-1].stopped_by is Stop.TARGET
    assert [step for step, _ in recorder.runs] == legs(0.5, 3)


def test_who_stops_iterating_stops_the_work(toy, opened):
    session, recorder = opened()
    refining = session.refine(toy.samples(1)[0])
    assert recorder.runs == []
    next(refining)
    refining.close()
    assert recorder.runs == [(Step(0, 1, 1.0), 1)]


def test_refine_ends_when_the_caller_used_up_the_time(toy, paced):
    session, engine, clock = paced()
    refining = session.refine(toy.samples(1)[0], budget_ms=4.1 * STAGE_MS)
    assert next(refining).stopped_by is None
    clock.sleep(2.5 * STAGE_MS / 1e3)
    assert list(refining) == []
    assert engine.runs == legs(1.0, 1)


def test_worse_exit_keeps_the_best_answer_so_far(toy, bundle, opened):
    dipping = Bundle.open(toy.path)
    points = [replace(point, accuracy=0.1) if point.depth == 2 else point for point in bundle.manifest.points]
    dipping.manifest = replace(bundle.manifest, points=tuple(points))
    answers = list(opened(of=dipping)[0].refine(toy.samples(1)[0]))
    assert [answer.point.depth for answer in answers] == [1, 1, 3, 4]
    assert [answer.exits[-1] for answer in answers] == [1, 2, 3, 4]


def test_refine_takes_one_sample(toy, opened):
    with pytest.raises(InputError, match=r"refine takes one sample, \(3, 8, 8\), and got \(2, 3, 8, 8\); use infer"):
        opened()[0].refine(toy.samples(2))


SAMPLE = np.zeros((3, 8, 8), np.float32)


def spoiled(value):
    x = SAMPLE.copy()
    x[1, 2, 3] = value
    return x


@pytest.mark.parametrize(
    "x, message",
    [
        (SAMPLE[:, :7], r"shape \(3, 7, 8\); give \(3, 8, 8\) for one sample or \(samples, 3, 8, 8\) for a batch"),
        (SAMPLE[None, None], r"shape \(1, 1, 3, 8, 8\); give"),
        (SAMPLE[0], r"shape \(8, 8\); give"),
        (np.array(1.0, np.float32), r"shape \(\); give"),
        (SAMPLE[None][:0], r"no samples, shape \(0, 3, 8, 8\); give .* samples >= 1"),
        (SAMPLE.astype(np.float64), r"is float64; give float32: x\.astype\(numpy\.float32\)"),
        (SAMPLE.astype(np.int32), r"is int32; give float32"),
        (SAMPLE.astype(np.uint8), r"is uint8; for pixels of 0 to 255 use session\.prepare\(pixels\)"),
        (SAMPLE.astype(">f4"), r"is >f4; give float32"),
        (SAMPLE.tolist(), r"is a list; give a NumPy array of float32"),
        (None, r"is a NoneType; give a NumPy array"),
        (spoiled(np.nan), r"has nan at \(1, 2, 3\) \(1 of 192 numbers aren't finite\)"),
        (np.stack([SAMPLE, spoiled(-np.inf)]), r"has -inf at \(1, 1, 2, 3\)"),
    ],
)
def test_wrong_input_is_refused_and_the_session_goes_on(opened, x, message):
    session, recorder = opened()
    with pytest.raises(InputError, match=message):
        session.infer(x)
    assert recorder.runs == []
    assert session.infer(SAMPLE).exits


@pytest.mark.parametrize(
    "budget, error, message",
    [
        ({"budget_ms": 0}, ValueError, r"budget_ms is 0; give milliseconds > 0"),
        ({"budget_ms": -3.0}, ValueError, r"budget_ms is -3\.0; give milliseconds > 0"),
        ({"budget_ms": math.nan}, ValueError, r"budget_ms is nan"),
        ({"budget_ms": "8"}, TypeError, r"budget_ms is '8', a str; give a number"),
        ({"deadline": math.nan}, ValueError, r"deadline is nan; give seconds of time\.monotonic\(\)"),
        ({"budget_ms": 8, "deadline": 9}, ValueError, r"budget_ms and deadline both given"),
        ({"budget_ms": 8, "budget": Budget(8)}, ValueError, r"budget given together with budget_ms or deadline"),
        ({"budget": 8}, TypeError, r"budget is 8; give a stretto\.Budget, or milliseconds as budget_ms"),
        ({"budget": Budget(0)}, ValueError, r"budget\.latency_ms is 0; give milliseconds > 0"),
        ({"budget": Budget(8, min_accuracy=90)}, ValueError, r"budget\.min_accuracy is 90; give a share in \[0, 1\]"),
        (
            {"budget": Budget(8, energy_mj=5)},
            ValueError,
            r"budget\.energy_mj is 5, but policy Deadline\(.* that does: alert$",
        ),
    ],
)
def test_wrong_budget_is_refused_and_the_session_goes_on(opened, budget, error, message):
    session, recorder = opened()
    with pytest.raises(error, match=message):
        session.infer(SAMPLE, **budget)
    assert recorder.runs == []
    assert session.infer(SAMPLE).exits


def test_without_checks_only_the_numbers_are_not_looked_at(opened):
    session, _ = opened(checks=False)
    assert session.infer(spoiled(np.nan)).exits
    with pytest.raises(InputError, match="is float64"):
        session.infer(SAMPLE.astype(np.float64))


def test_memory_layout_of_the_input_does_not_matter(toy, opened):
    session, _ = opened()
    x = toy.samples(6)
    turned = np.asfortranarray(x)[::2]
    for one, other in zip(session.infer(turned), session.infer(x[::2].copy()), strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-6)


def test_prepared_pixels_are_what_the_session_takes(opened):
    session, _ = opened()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    assert len(session.infer(session.prepare(pixels))) == 2


def test_many_threads_get_what_one_gets(toy, opened):
    session, _ = opened(Deadline(confidence=0.6))
    budgets = [0.3 * STAGE_MS, 0.6 * STAGE_MS, 2.2 * STAGE_MS, 3.2 * STAGE_MS, None]
    requests = [(x, budgets[n % len(budgets)]) for n, x in enumerate(varied(toy, 200))]
    serial = [session.infer(*request) for request in requests]
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(lambda request: session.infer(*request), requests))
    assert len({answer.point for answer in serial}) > 3
    for one, other in zip(serial, parallel, strict=True):
        assert (one.point, one.exits, one.stopped_by) == (other.point, other.exits, other.stopped_by)
        assert np.array_equal(one.scores, other.scores)


def test_session_used_in_a_fork_says_so(opened, monkeypatch):
    session, recorder = opened()
    owner = os.getpid()
    monkeypatch.setattr("os.getpid", lambda: owner + 1)
    with pytest.raises(RuntimeError, match=rf"loaded in process {owner}, not in its fork {owner + 1}; load it again"):
        session.infer(SAMPLE)
    session.close()
    assert not recorder.closed


class Stubborn:
    def __init__(self, choice):
        self.choice = choice

    def next(self, situation):
        return self.choice if situation.evidence or isinstance(self.choice, Stop) else situation.steps[0]


@pytest.mark.parametrize(
    "choice, message",
    [
        (Stop.TARGET, r"chose <Stop\.TARGET.*as no exit was reached yet"),
        (Step(0, 9, 1.0), r"chose Step\(first=0, depth=9.*must choose one of situation\.steps or a Stop"),
        (None, r"chose None; it must choose one of situation\.steps or a Stop"),
    ],
)
def test_policy_that_chooses_what_is_not_possible_is_named(opened, choice, message):
    with pytest.raises(RuntimeError, match=message):
        opened(Stubborn(choice))[0].infer(SAMPLE)


def test_points_are_the_bundle_s(opened, bundle):
    points = opened()[0].points
    assert len(points) == len(bundle.manifest.points)
    assert OperatingPoint(0.25, DEPTHS) in points
