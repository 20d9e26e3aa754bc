"""`load`: what it takes, and what it refuses before anything runs."""

import logging
import re
import time
from dataclasses import replace

import numpy as np
import pytest
from stretto.policies.deadline import Deadline
from stretto.policies.fixed import Fixed
from stretto.policies.situation import OperatingPoint, Stop
from stretto.runtime.bundle import Bundle
from stretto.runtime.errors import BundleError
from stretto.runtime.profile import profile_path
from stretto.runtime.session import load

from .fakes import set_profile
from .toy import toy_bundle

DEPTHS = 4
SAMPLE = np.zeros((3, 8, 8), np.float32)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_bundle(tmp_path_factory.mktemp("load") / "toy.stretto", widths=(0.25, 0.5, 1.0), depths=DEPTHS)


@pytest.fixture(scope="module")
def bundle(toy):
    return Bundle.open(toy.path)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_loading_without_a_profile_times_a_few_runs_and_says_so(toy, cache, caplog):
    with caplog.at_level(logging.WARNING), load(toy.path) as session:
        assert session.profile.source == "warm-up"
        assert session.infer(SAMPLE, budget_ms=1000).exits
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert re.match(r"toy\.stretto was never profiled here.*stretto profile .*toy\.stretto$", record.message)


def test_profile_kept_for_this_device_is_used(toy, cache, caplog, bundle):
    with load(toy.path) as session:
        kept = replace(session.profile, source="measured")
    kept.save(profile_path(bundle, "onnx", 1))
    caplog.clear()
    with load(toy.path) as session:
        assert session.profile == kept
    assert caplog.records == []


def test_profile_can_be_given_itself_or_as_a_file(toy, cache, bundle, tmp_path):
    given = set_profile(bundle)
    given.save(tmp_path / "mine.json")
    for profile in (given, tmp_path / "mine.json", str(tmp_path / "mine.json")):
        with load(toy.path, profile=profile) as session:
            assert session.profile == given


@pytest.mark.parametrize(
    "policy, confidence, point",
    [
        ("deadline", None, (1.0, DEPTHS)),
        (OperatingPoint(0.5, 2), None, (0.5, 2)),
        (Fixed(OperatingPoint(0.25, 3)), None, (0.25, 3)),
    ],
)
def test_policy_is_given_by_name_point_or_object(toy, bundle, policy, confidence, point):
    with load(toy.path, policy=policy, confidence=confidence, profile=set_profile(bundle)) as session:
        assert session.infer(SAMPLE).point == OperatingPoint(*point)


@pytest.mark.parametrize("policy", ["deadline", OperatingPoint(1.0, 3)])
def test_confidence_given_to_load_stops_early(toy, bundle, policy):
    with load(toy.path, policy=policy, confidence=0.01, profile=set_profile(bundle)) as session:
        assert session.infer(SAMPLE).stopped_by is Stop.CONFIDENCE


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"policy": "fastest"}, ValueError, r"no policy 'fastest'; name one of .*deadline, .*fixed"),
        ({"policy": "fixed"}, ValueError, r"policy 'fixed' needs 'point'"),
        (
            {"policy": OperatingPoint(0.6, 1)},
            ValueError,
            r"no point of width 0\.6.*it has widths \(0\.25, 0\.5, 1\.0\)",
        ),
        ({"policy": Fixed(OperatingPoint(0.6, 1))}, ValueError, r"width=0\.6.*isn't offered; choose one of"),
        (
            {"policy": 0.5},
            TypeError,
            r"policy is 0\.5; give a policy's name, an OperatingPoint, or an object with next",
        ),
        ({"policy": Deadline(), "confidence": 0.9}, ValueError, r"confidence 0\.9 given beside a policy of your own"),
        (
            {"policy": Deadline(level=0.7)},
            ValueError,
            r"level 0\.7 isn't predicted; choose one of .*0\.5, .*0\.99",
        ),
        ({"confidence": 2}, ValueError, r"confidence threshold is 2; give a probability"),
        ({"engine": "abacus"}, ValueError, r"engine 'abacus'"),
        ({"threads": 0}, ValueError, r"threads is 0"),
        ({"profile": "missing.json"}, OSError, r"missing\.json"),
    ],
)
def test_wrong_option_is_refused_at_loading(toy, bundle, options, error, message):
    with pytest.raises(error, match=message):
        load(toy.path, **{"profile": set_profile(bundle)} | options)


def test_profile_of_another_bundle_is_refused(toy, bundle):
    with pytest.raises(ValueError, match=r"profile is of bundle 0{12}, not of toy\.stretto"):
        load(toy.path, profile=replace(set_profile(bundle), bundle="0" * 64))


def test_file_that_is_no_bundle_is_refused(tmp_path):
    (tmp_path / "not.stretto").write_bytes(b"nothing")
    with pytest.raises(BundleError, match=r"not\.stretto"):
        load(tmp_path / "not.stretto")


def test_closed_session_says_so(toy, bundle):
    with load(toy.path, profile=set_profile(bundle)) as session:
        refining = session.refine(SAMPLE)
        next(refining)
    for use in (lambda: session.infer(SAMPLE), lambda: next(refining)):
        with pytest.raises(RuntimeError, match=r"the session of toy\.stretto is closed; load it again"):
            use()
    session.close()


def test_deadline_is_a_moment_of_the_monotonic_clock(toy, bundle):
    with load(toy.path, profile=set_profile(bundle, stage_ms=1e-3)) as session:
        assert session.infer(SAMPLE, deadline=time.monotonic() + 3600).deadline_met
