"""A bundle is evaluated on the splits that its training had; adaptive execution is measured beside the full network."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from stretto.bench.evaluate import Adaptive, contestants, evaluate_bundle, macs_of, read_splits
from stretto.policies.escalate import Escalate
from stretto.policies.exits import ExitRule
from stretto.policies.fixed import Fixed
from stretto.policies.route import Route
from stretto.policies.situation import OperatingPoint
from stretto.runtime.bundle import Bundle, write_bundle
from stretto.runtime.manifest import Certified, CertifiedWay
from stretto.training.data import CALIBRATION, load_data
from stretto.training.evaluate import logits_on

from stretto import load

from ..runtime.toy import toy_bundle

NEVER, TEMPERATURE = CertifiedWay(0.5, "fp32", None, 0.0, 0.0, 1.0), 0.5
SILENT = lambda *told: None  # noqa: E731


@pytest.mark.parametrize(("provenance", "holdout"), [({"holdout": 0.3}, 0.3), ({}, CALIBRATION)])
def test_calibration_images_are_those_that_training_held_out(provenance: dict[str, float], holdout: float) -> None:
    bundle = SimpleNamespace(manifest=SimpleNamespace(input=SimpleNamespace(shape=(1, 8, 8)), provenance=provenance))
    name, pixels, labels = read_splits(bundle, "digits", ("calibration", "test"), SILENT)  # type: ignore
    data = load_data("digits", calibration=holdout)
    assert name == "digits"
    assert np.array_equal(pixels, np.concatenate([data.splits["calibration"].x, data.splits["test"].x]))
    assert np.array_equal(labels, np.concatenate([data.splits["calibration"].y, data.splits["test"].y]))


def certainty(logits):
    scores = np.exp((logits - logits.max(1, keepdims=True)) / TEMPERATURE)
    return (scores / scores.sum(1, keepdims=True)).max(1)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """A toy for the digits' images, without and with a threshold that some of them reach at each exit."""
    folder = tmp_path_factory.mktemp("evaluate")
    toy = toy_bundle(folder / "plain.stretto", classes=10, shape=(1, 8, 8), temperature=TEMPERATURE)
    plain = Bundle.open(toy.path)
    _, pixels, labels = read_splits(plain, "digits", ("test",), SILENT)
    threshold = float(np.median(certainty(logits_on(plain, pixels, labels)[OperatingPoint(1.0, 1)])))
    ways = NEVER, CertifiedWay(1.0, "fp32", threshold, 0.01, 0.7, 0.99)
    certified = Certified("probability", "disagreement", "ltt", 0.02, 0.05, 500, ways, "With probability …")
    write_bundle(folder / "certified.stretto", replace(toy.manifest, certified=certified), toy.graphs, toy.weights)
    return plain, Bundle.open(folder / "certified.stretto")


def test_contestants_are_the_certified_ways_unless_a_confidence_is_given(bundles):
    plain, certified = bundles
    threshold = certified.manifest.certified.ways[1].threshold
    full = Adaptive(1.0, "fp32", Fixed(OperatingPoint(1.0, 3)), {})
    assert contestants(plain, None)[0] == full
    assert rules(contestants(plain, None)[1:3]) == [(0.5, ExitRule(0.9)), (1.0, ExitRule(0.9))]
    for confidence in (None, "calibrated"):
        first, *others = contestants(certified, confidence)
        assert first == full
        assert rules(others) == [(0.5, ExitRule(float("inf"))), (1.0, ExitRule(threshold))]
    assert contestants(certified, (0.9, 0.7))[2].policy.rule == ExitRule((0.9, 0.7))
    with pytest.raises(ValueError, match=r"plain\.stretto has no certified thresholds"):
        contestants(plain, "calibrated")


def rules(found):
    return [(one.width, one.policy.rule) for one in found]


def test_escalation_and_a_router_are_contestants_where_there_are_any(bundles, tmp_path):
    plain, _ = bundles
    escalation = Adaptive(0.5, "fp32", Escalate(OperatingPoint(0.5, 3), 0.8), {"rule": "escalation", "threshold": 0.8})
    assert contestants(plain, 0.8)[3:] == [escalation]
    assert len(contestants(plain, (0.9, 0.8))) == 3
    routed = Bundle.open(toy_bundle(tmp_path / "routed.stretto", router=True).path)
    assert contestants(routed, 0.8)[-1] == Adaptive(None, "fp32", Route(), {"rule": "router", "threshold": 0.9})


def test_macs_of_an_answer_are_those_of_all_that_ran(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    toy = toy_bundle(tmp_path / "routed.stretto", router=True, provenance={"router": {"macs": 7}})
    with load(toy.path, policy=Route()) as session:
        answer = session.infer(toy.samples(1)[0])
        last = session.bundle.point(answer.point.width, answer.exits[-1]).macs
        assert macs_of(session.bundle, Route(), answer) == last + 7
    policy = Escalate(OperatingPoint(0.5, 3), 1.0)
    with load(toy.path, policy=policy) as session:
        answer = session.infer(toy.samples(1)[0])
        assert answer.exits == (3, 3)
        assert macs_of(session.bundle, policy, answer) == sum(session.bundle.point(w, 3).macs for w in (0.5, 1.0))


def test_adaptive_rows_are_what_the_exits_say_in_turn(bundles, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _, certified = bundles
    report = evaluate_bundle(certified.path, "digits", ("test",), 1, None, SILENT)
    _, pixels, labels = read_splits(certified, "digits", ("test",), SILENT)
    logits, threshold = logits_on(certified, pixels, labels), certified.manifest.certified.ways[1].threshold
    sure = {point: certainty(z) >= threshold for point, z in logits.items()}
    points = [record.point for record in certified.manifest.points if record.width == 1.0]
    ends = np.select([sure[points[0]], sure[points[1]]], [1, 2], 3)
    found = np.choose(ends - 1, [logits[point].argmax(1) for point in points])
    full, narrow, wide = report["adaptive"]
    assert (full["disagreement"], full["exits"], full["depth"]) == (0.0, {"1": 0.0, "2": 0.0, "3": 1.0}, 3.0)
    assert (narrow["threshold"], narrow["exits"]["3"]) == (None, 1.0)
    rounding = 2 / len(labels)  # the median sample is on the threshold
    for depth in (1, 2, 3):
        assert wide["exits"][str(depth)] == pytest.approx(np.mean(ends == depth), abs=rounding)
    assert 0 < wide["exits"]["1"] < 1
    assert wide["accuracy"] == pytest.approx(np.mean(found == labels), abs=rounding)
    assert wide["disagreement"] == pytest.approx(np.mean(found != logits[points[2]].argmax(1)), abs=rounding)
    assert wide["macs"] == pytest.approx(1e6 * ends.mean(), rel=0.02)
    assert all(row["latency_ms"]["p50"] > 0 for row in report["adaptive"])
    assert report["promise"] == certified.manifest.certified.promise
