"""Sessions that ask a router first: one answer after the other, in batches, and with what goes wrong."""

import logging

import numpy as np
import pytest
from stretto.policies.alert import Alert
from stretto.policies.route import Route
from stretto.policies.scores import probabilities
from stretto.policies.situation import Budget, OperatingPoint, Step
from stretto.runtime.bundle import Bundle
from stretto.runtime.engines import make_engine
from stretto.runtime.errors import EngineError
from stretto.runtime.measure import measure_profile
from stretto.runtime.session import Session
from stretto.runtime.steps import all_steps

from stretto import load

from .fakes import Faulty, Recorder, set_profile
from .toy import toy_bundle

COUNT = 24


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_bundle(tmp_path_factory.mktemp("routing") / "toy.stretto", widths=(0.5, 1.0), depths=3, router=True)


@pytest.fixture(scope="module")
def bundle(toy):
    return Bundle.open(toy.path)


@pytest.fixture
def opened(bundle):
    sessions = []

    def opened(policy=None, around=lambda engine: engine, **options):
        engine = Recorder(around(make_engine("onnx", bundle)))
        profile = set_profile(bundle, 1.0)
        session = Session(bundle, engine, policy or Route(), profile, **options)
        sessions.append(session)
        engine.runs.clear()
        return session, engine

    yield opened
    for session in sessions:
        session.close()


def chances_of(toy, x):
    return probabilities(toy.odds(x))


def sent_to(toy, bundle, x, enough):
    """Where each sample is to go: to the soonest point that is likely enough right, else to the likeliest."""
    points = sorted(bundle.routed, key=lambda point: (point.width * point.depth, point.depth))
    found = []
    for chances in chances_of(toy, x):
        by_point = dict(zip(bundle.routed, chances, strict=True))
        good = [point for point in points if by_point[point] >= enough]
        found.append(good[0] if good else max(points, key=by_point.get))
    return found


def middle(toy):
    """What about half of the points of half of the samples reach."""
    return float(np.median(chances_of(toy, toy.samples(COUNT))))


def test_each_input_is_answered_at_the_soonest_point_that_is_likely_enough_right(toy, bundle, opened):
    enough, x = middle(toy), toy.samples(COUNT)
    session, engine = opened(Route(enough))
    answers = [session.infer(sample) for sample in x]
    expected = sent_to(toy, bundle, x, enough)
    assert len(set(expected)) > 1
    for answer, point, sample in zip(answers, expected, x, strict=True):
        assert answer.point == point
        assert answer.exits[-1] == answer.point.depth and 0 not in answer.exits
        logits = toy.logits(sample[None], answer.point.depth, answer.point.width)[0]
        assert answer.seen.logits == pytest.approx(logits, abs=1e-4)
    assert engine.runs[0][0] == Step(0, 0, 1.0)
    assert all(step.first == 1 for step, _ in engine.runs[1::2])


def test_expected_accuracy_is_that_on_this_input(toy, bundle, opened):
    session, _ = opened()
    x = toy.samples(3)
    for sample, chances in zip(x, chances_of(toy, x), strict=True):
        answer = session.infer(sample)
        assert answer.expected_accuracy == pytest.approx(chances[bundle.routed.index(answer.point)], abs=1e-4)


def test_a_batch_goes_where_its_samples_would_alone(toy, opened):
    session, engine = opened(Route(middle(toy)))
    x = toy.samples(COUNT)
    together = session.infer(x)
    assert engine.runs[0] == (Step(0, 0, 1.0), COUNT)
    alone = [session.infer(sample) for sample in x]
    assert [one.point for one in together] == [one.point for one in alone]
    assert [one.exits for one in together] == [one.exits for one in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.seen.logits == pytest.approx(other.seen.logits, abs=1e-4)


def test_a_budget_may_say_what_is_enough(toy, bundle, opened):
    session, _ = opened(Route(1.0))
    x = toy.samples(COUNT)
    least = [session.infer(sample, budget=Budget(min_accuracy=1e-9)).point for sample in x]
    assert set(least) == {min(bundle.routed, key=lambda point: (point.width * point.depth, point.depth))}


def test_refine_yields_answers_alone(toy, opened):
    session, _ = opened(Route(1.0))
    answers = list(session.refine(toy.samples(1)[0]))
    assert answers and [answer.exits for answer in answers] == [
        tuple(range(1, depth + 1)) for depth in range(1, answers[-1].point.depth + 1)
    ]


def test_submit_is_answered_as_infer_is(toy, opened):
    session, _ = opened(Route(middle(toy)))
    for sample in toy.samples(6):
        ticket = session.submit(sample)
        answer = session.infer(sample)
        found = ticket.result(10.0)
        assert (found.point, found.index) == (answer.point, answer.index)
        assert 0 not in found.exits


def test_with_a_deadline_that_leaves_no_time_for_it_nothing_is_routed(toy, opened):
    session, engine = opened()
    assert session.infer(toy.samples(1)[0], 1e-3).exits
    assert engine.runs[0][0].depth > 0


def test_other_policies_never_run_a_router(toy, opened):
    session, engine = opened(Alert())
    session.infer(toy.samples(1)[0])
    assert all(step.depth for step, _ in engine.runs)


def test_a_router_that_fails_is_left(toy, opened, caplog):
    broken = False
    session, _ = opened(around=lambda engine: Faulty(engine, lambda step: broken and not step.depth))
    broken = True
    with caplog.at_level(logging.ERROR):
        answers = [session.infer(sample) for sample in toy.samples(3)]
    assert len(caplog.records) == 1 and all(answer.exits for answer in answers)
    assert session.stats.failures == {OperatingPoint(1.0, 0): 1}


@pytest.mark.parametrize("count", [1, 4])
def test_where_all_points_of_the_routed_precision_fail_it_starts_again_in_another(tmp_path, count):
    toy = toy_bundle(tmp_path / "two.stretto", router=True, precisions=("fp32", "int8"))
    bundle = Bundle.open(toy.path)
    engine = Faulty(make_engine("onnx", bundle), lambda step: False)
    with Session(bundle, engine, Route(), set_profile(bundle, 1.0)) as session:
        first = session.infer(toy.samples(1)[0]).point.precision
        engine.fails = lambda step: step.precision == first and step.depth > 0
        answers = session.infer(toy.samples(count))
        assert {answer.point.precision for answer in answers} == {"fp32", "int8"} - {first}


def test_where_only_the_router_works_the_error_says_what_failed(toy, opened):
    broken = False
    session, _ = opened(around=lambda engine: Faulty(engine, lambda step: broken and step.depth > 0))
    broken = True
    for _ in range(3):
        with pytest.raises(EngineError, match="no luck"):
            session.infer(toy.samples(1)[0])


def test_profile_has_the_router_and_what_follows_it(bundle):
    engine = make_engine("onnx", bundle)
    try:
        profile = measure_profile(engine, bundle, rounds=1)
    finally:
        engine.close()
    profile.check(bundle)
    assert {step for step, _ in profile.times} == set(all_steps(bundle.manifest))
    assert Step(0, 0, 1.0) in all_steps(bundle.manifest) and Step(1, 3, 0.5) in all_steps(bundle.manifest)


def test_a_bundle_without_a_router_is_refused_with_the_command_that_gives_it_one(tmp_path):
    plain = toy_bundle(tmp_path / "plain.stretto")
    with pytest.raises(ValueError, match=r"policy 'route' needs a router, which plain\.stretto has none of; .* router"):
        load(plain.path, policy="route")


def test_a_rule_is_no_share_that_is_enough(toy):
    with pytest.raises(ValueError, match="how likely right is enough"):
        load(toy.path, policy="route", confidence=(0.9, 0.8))


def test_load_by_name(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with load(toy.path, policy="route", confidence=0.7) as session:
        assert session._runner.policy == Route(0.7)
        assert session.infer(toy.samples(1)[0]).exits
