"""The alarm on a real network in ONNX Runtime, calibrated on its own samples: inputs like them are fine, others not."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from stretto.policies.situation import Stop
from stretto.runtime.manifest import Certified, CertifiedWay
from stretto.runtime.session import load

from .fakes import set_profile
from .shadowed import DEPTHS, FULL, IDLE, written
from .toy import toy_bundle

CALIBRATION, STREAM = 2000, 3000


def inputs(count, seed):
    """(count, 3, 8, 8) noise."""
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8), np.float32)


def blurred(x):
    """By the mean of 3 by 3 pixels."""
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    return np.mean([wide[:, :, i : i + 8, j : j + 8] for i in range(3) for j in range(3)], axis=0, dtype=np.float32)


def noised(x):
    """With more noise than they are."""
    return x + 1.5 * inputs(len(x), seed=6)


def taught(toy, x):
    """Weights of the early exits with which they say what the final exit says, as nearly as they can."""
    weights, aim = {}, 3 * toy.logits(x, DEPTHS, 1.0)
    for depth in range(1, DEPTHS):
        pooled = toy.features(x, depth, 1.0).mean((2, 3))
        fitted, *_ = np.linalg.lstsq(np.c_[pooled, np.ones(len(x))], aim, rcond=None)
        weights[f"exit{depth}.weight"] = fitted[:-1].T.astype(np.float32)
        weights[f"exit{depth}.bias"] = fitted[-1].astype(np.float32)
    return weights


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A toy whose early exits were taught, with the certificate that its own samples give."""
    folder = tmp_path_factory.mktemp("real")
    toy = toy_bundle(folder / "plain.stretto", depths=DEPTHS, channels=32)
    weights = taught(toy, inputs(500, seed=1))
    return certified_on(toy, weights, inputs(CALIBRATION, seed=2), folder)


def certified_on(toy, weights, x, folder):
    plain = written(toy, folder / "taught.stretto", None, **weights)
    threshold = 0.9
    with load(plain.path, policy=FULL, confidence=threshold, profile=set_profile(plain)) as session:
        early = session.infer(x)
    with load(plain.path, policy=FULL, profile=set_profile(plain)) as session:
        full = session.infer(x)
    agreement = np.mean([one.index == other.index for one, other in zip(early, full, strict=True)])
    stops = Counter(answer.stopped_by for answer in early)[Stop.CONFIDENCE] / len(x)
    way = CertifiedWay(1.0, "fp32", threshold, 0.0, stops, float(agreement))
    certificate = Certified("probability", "disagreement", "naive", 0.1, 0.05, len(x), (way,), "Nothing is promised.")
    return written(toy, folder / "calibrated.stretto", certificate, **weights)


@pytest.fixture
def session(bundle):
    with load(
        bundle.path, policy=FULL, confidence="calibrated", profile=set_profile(bundle), shadow=1.0,
        sensors=SimpleNamespace(now=IDLE),
    ) as session:  # fmt: skip
        session._shadow._wake = lambda: None
        yield session


def stream(session, x):
    """How many requests it took until the alarm; None where there was none."""
    for number, one in enumerate(x, 1):
        session.infer(one)
        session._shadow.catch_up()
        if session.stats.drift is not None:
            return number
    return None


def test_certificate_is_one_that_stops_some_early_and_agrees_mostly(bundle):
    (way,) = bundle.manifest.certified.ways
    assert 0.2 < way.early < 0.9
    assert way.agreement > 0.9


def test_inputs_like_the_calibration_s_raise_no_alarm_and_agree_as_often(session, bundle):
    assert stream(session, inputs(STREAM, seed=3)) is None
    shadowed, agreed = session.stats[4:6]
    assert shadowed == STREAM
    assert agreed / shadowed == pytest.approx(bundle.manifest.certified.ways[0].agreement, abs=0.02)


@pytest.mark.parametrize("changed", [blurred, noised])
def test_changed_inputs_raise_the_alarm_within_200_after_which_all_go_to_the_end(session, changed):
    assert stream(session, inputs(300, seed=4)) is None
    x = changed(inputs(200, seed=5))
    assert stream(session, x) is not None
    assert {answer.stopped_by for answer in session.infer(x)} == {Stop.FINAL}


def test_bundle_without_certified_thresholds_says_what_makes_some(tmp_path):
    toy = toy_bundle(tmp_path / "toy.stretto")
    with pytest.raises(ValueError, match=r"toy\.stretto has no certified thresholds"):
        load(toy.path, confidence="calibrated")


@pytest.mark.parametrize(
    "options, watched",
    [({"confidence": "calibrated"}, True), ({"confidence": "calibrated", "shadow": 0}, False), ({}, False)],
)
def test_load_watches_the_machine_where_there_is_a_shadow(bundle, options, watched):
    with load(bundle.path, policy=FULL, profile=set_profile(bundle), **options) as session:
        assert (session._sensors is not None) is watched
