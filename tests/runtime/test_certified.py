"""Certified thresholds: what a bundle may say of them, what a session makes of them, and which answers they cover."""

from dataclasses import replace

import numpy as np
import pytest
from stretto.policies.deadline import Deadline
from stretto.policies.exits import CertifiedRule, ExitRule, RulePerWay
from stretto.policies.fixed import Fixed
from stretto.policies.situation import OperatingPoint, Step, Stop
from stretto.runtime.bundle import Bundle, write_bundle
from stretto.runtime.certified import certified_rule
from stretto.runtime.engines import make_engine
from stretto.runtime.errors import BundleError
from stretto.runtime.manifest import Certified, CertifiedWay
from stretto.runtime.session import Session, load
from stretto.runtime.stand import Clocks

from .fakes import Clock, Recorder, SetPace, set_profile
from .toy import toy_bundle

DEPTHS, SURE = 4, 0.6
NEVER = CertifiedWay(0.5, "fp32", None, 0.01, 0.0, 0.99)
WAYS = (CertifiedWay(1.0, "fp32", SURE, 0.01, 0.6, 0.99), NEVER)
CERTIFIED = Certified(
    "probability",
    "disagreement",
    "ltt",
    0.02,
    0.05,
    500,
    (CertifiedWay(1.0, "fp32", SURE, 0.01, 0.6, 0.99), NEVER),
    "…",
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    path = tmp_path_factory.mktemp("certified") / "toy.stretto"
    return toy_bundle(path, widths=(0.25, 0.5, 1.0), depths=DEPTHS, temperature=2.0)


@pytest.fixture(scope="module")
def bundle(toy):
    path = toy.path.with_name("certified.stretto")
    write_bundle(path, replace(toy.manifest, certified=CERTIFIED), toy.graphs, toy.weights)
    return Bundle.open(path)


@pytest.fixture
def opened(bundle):
    """Opens a session with a policy that stops by the certified rule; its engine notes what it runs."""
    sessions = []

    def opened(policy=Deadline, of=bundle, **options):
        recorder = Recorder(make_engine("onnx", of))
        rule = certified_rule(of.manifest.certified)
        sessions.append(Session(of, recorder, policy(confidence=rule), set_profile(of), **options))
        recorder.runs.clear()
        return sessions[-1], recorder

    yield opened
    for session in sessions:
        session.close()


def fixed(width, depth=DEPTHS):
    return lambda confidence: Fixed(OperatingPoint(width, depth), confidence)


def varied(toy, count):
    """Samples that the toy is sure of to very different degrees."""
    tints = np.random.default_rng(1).standard_normal((count, 3, 1, 1), np.float32)
    return toy.samples(count) + 4 * tints


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rule": "luck"}, r"no exit rule 'luck'; name one of entropy, margin"),
        ({"ways": (replace(NEVER, threshold=1.5),)}, r"confidence threshold is 1\.5"),
        ({"loss": "loss of face"}, r"certified\.loss is 'loss of face', expected one of disagreement, accuracy"),
        ({"method": "hope"}, r"certified\.method is 'hope', expected one of ltt, ucb, naive"),
        ({"delta": 0.0}, r"delta 0\.0, samples 500, expected shares"),
        ({"ways": (replace(NEVER, width=0.6),)}, r"certified\.ways are \[\(0\.6, 'fp32'\)\], expected different ones"),
        ({"ways": (NEVER, NEVER)}, r"expected different ones"),
        ({"ways": (replace(NEVER, early=1.1),)}, r"a share outside \[0, 1\]"),
    ],
)
def test_certificate_that_does_not_fit_is_refused(toy, tmp_path, change, message):
    manifest = replace(toy.manifest, certified=replace(CERTIFIED, **change))
    with pytest.raises(BundleError, match=f"member 'manifest.json': .*{message}"):
        write_bundle(tmp_path / "x.stretto", manifest, toy.graphs, toy.weights)


def test_rule_stops_by_the_threshold_of_each_way_and_nowhere_else():
    rule = certified_rule(CERTIFIED)
    assert rule == CertifiedRule({(1.0, "fp32"): ExitRule(SURE), (0.5, "fp32"): ExitRule(float("inf"))})


def test_calibrated_confidence_is_the_bundles_own(toy, bundle):
    x = varied(toy, 40)
    with load(bundle.path, confidence="calibrated", profile=set_profile(bundle)) as session:
        answers = session.infer(x)
    assert {answer.stopped_by for answer in answers} == {Stop.CONFIDENCE, Stop.FINAL}
    assert all(answer.confidence >= SURE for answer in answers if answer.stopped_by is Stop.CONFIDENCE)


@pytest.mark.parametrize(
    "confidence, message",
    [
        ("calibrated", r"toy\.stretto has no certified thresholds; make .*: stretto calibrate .*toy\.stretto --data"),
        ("certain", r"confidence is 'certain'; give a number in \(0, 1\], a rule, or 'calibrated'"),
    ],
)
def test_calibrated_confidence_of_a_bundle_without_says_how_to_make_one(toy, confidence, message):
    with pytest.raises(ValueError, match=message):
        load(toy.path, confidence=confidence)


def test_rule_may_be_given_to_load(toy, bundle):
    with load(toy.path, confidence=ExitRule((0.01,)), profile=set_profile(Bundle.open(toy.path))) as session:
        answer = session.infer(toy.samples(1)[0])
    assert (answer.exits, answer.stopped_by, answer.covered) == ((1,), Stop.CONFIDENCE, None)


def test_what_the_rule_and_the_final_exit_end_is_covered(toy, opened):
    session, _ = opened(fixed(1.0))
    x = varied(toy, 40)
    alone = [session.infer(sample) for sample in x]
    assert {answer.stopped_by for answer in alone} == {Stop.CONFIDENCE, Stop.FINAL}
    for answers in (alone, session.infer(x), [session.submit(sample).result() for sample in x]):
        assert all(answer.covered is True for answer in answers)
        assert [answer.exits for answer in answers] == [answer.exits for answer in alone]


def test_answer_where_nothing_was_certified_is_not_covered(toy, opened):
    answer = opened(fixed(0.25))[0].infer(toy.samples(1)[0])
    assert (answer.stopped_by, answer.covered) == (Stop.FINAL, False)


def test_answer_at_a_target_before_the_final_exit_is_not_covered(toy, opened):
    answer = opened(fixed(0.5, 2))[0].infer(toy.samples(1)[0])
    assert (answer.stopped_by, answer.covered) == (Stop.TARGET, False)


def test_answer_that_a_deadline_forced_is_not_covered(bundle):
    clock = Clock()
    engine = SetPace(bundle, clock, 1e6)  # whose exits are all unsure
    policy = Deadline(confidence=certified_rule(CERTIFIED))
    with Session(bundle, engine, policy, set_profile(bundle), clocks=Clocks(clock, clock)) as session:
        for ask in (session.infer, lambda x, budget_ms: list(session.refine(x, budget_ms))[-1]):
            answer = ask(np.zeros((3, 8, 8), np.float32), budget_ms=3.01e6)
            assert (answer.point.width, answer.stopped_by, answer.covered) == (1.0, Stop.DEADLINE, False)


def test_only_the_last_answer_of_refine_is_covered(toy, opened):
    session, _ = opened(fixed(1.0))
    for sample in varied(toy, 10):
        *before, last = session.refine(sample)
        assert last.covered is True and not any(answer.covered for answer in before)


def test_without_a_certificate_nothing_is_said_of_cover(toy, bundle):
    for rule in (None, 0.9, RulePerWay({(1.0, "fp32"): ExitRule(0.9)})):
        with Session(bundle, make_engine("onnx", bundle), Deadline(confidence=rule), set_profile(bundle)) as session:
            assert session.infer(toy.samples(1)[0]).covered is None


def test_mean_of_the_calibration_samples_covers_nothing(toy, bundle, opened):
    naive = Bundle.open(bundle.path)
    naive.manifest = replace(bundle.manifest, certified=replace(CERTIFIED, method="naive"))
    assert opened(fixed(1.0), of=naive)[0].infer(toy.samples(1)[0]).covered is None


def test_sure_exit_answers_even_where_an_earlier_one_was_more_accurate(toy, bundle, opened):
    """The promise is about what the exit says that the rule stopped at."""
    dipping = Bundle.open(bundle.path)
    points = [replace(point, accuracy=0.1) if point.depth == 2 else point for point in bundle.manifest.points]
    dipping.manifest = replace(bundle.manifest, points=tuple(points))
    session, _ = opened(fixed(1.0), of=dipping)
    x = varied(toy, 40)
    found = [*session.infer(x), *[session.submit(sample).result() for sample in x]]
    assert any(answer.exits == (1, 2) for answer in found)
    assert all(answer.point.depth == answer.exits[-1] for answer in found)


def test_final_exit_answers_even_where_an_earlier_one_was_more_accurate(toy, bundle, opened):
    dipping = Bundle.open(bundle.path)
    points = [replace(point, accuracy=0.1) if point.depth == DEPTHS else point for point in bundle.manifest.points]
    dipping.manifest = replace(bundle.manifest, points=tuple(points))
    session, _ = opened(fixed(1.0), of=dipping)
    ended = [answer for answer in session.infer(varied(toy, 40)) if answer.stopped_by is Stop.FINAL]
    assert ended and all(answer.point.depth == DEPTHS for answer in ended)


def test_way_that_never_stops_is_run_as_one_graph(toy, opened):
    session, recorder = opened(fixed(0.5))
    assert session.infer(toy.samples(1)[0]).covered is True
    assert recorder.runs == [(Step(0, DEPTHS, 0.5), 1)]


def test_exits_that_never_stop_are_passed_over_in_one_graph(toy, bundle):
    recorder = Recorder(make_engine("onnx", bundle))
    policy = Fixed(OperatingPoint(1.0, DEPTHS), ExitRule((float("inf"), 1.0)))
    with Session(bundle, recorder, policy, set_profile(bundle)) as session:
        assert recorder.runs == [(Step(0, 2, 1.0), 1), (Step(3, 4, 1.0), 1)], "both are run once while loading"
        recorder.runs.clear()
        x = toy.samples(1)
        answer = session.infer(x[0])
    assert recorder.runs == [(Step(0, 2, 1.0), 1), (Step(3, 4, 1.0), 1)]
    assert answer.exits == (2, 4)
    assert answer.seen.logits == pytest.approx(toy.logits(x, DEPTHS, 1.0)[0], abs=1e-4)


def test_no_graph_of_a_whole_way_is_loaded_where_every_exit_is_looked_at(bundle):
    recorder = Recorder(make_engine("onnx", bundle))
    with Session(bundle, recorder, Deadline(confidence=0.9), set_profile(bundle)):
        assert recorder.runs == []
    recorder = Recorder(make_engine("onnx", bundle))
    with Session(bundle, recorder, Deadline(), set_profile(bundle)):
        assert (Step(0, DEPTHS, 1.0), 1) in recorder.runs
