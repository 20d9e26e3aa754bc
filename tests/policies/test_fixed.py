import math

import pytest
from stretto.policies.fixed import Fixed
from stretto.policies.situation import OperatingPoint, Step, Stop

from .situations import DEPTHS, offered_after, seen, situation


def at(depth, width=0.5, slack_ms=100.0, confidence=0.6):
    """The situation of a request at exit `depth` of `width`."""
    steps = offered_after(depth, width if depth else None)
    evidence = tuple(seen(d, width, confidence=confidence) for d in range(1, depth + 1))
    return situation(steps, [1.0] * len(steps), [0.9] * len(steps), slack_ms, evidence)


@pytest.mark.parametrize("depth", range(1, DEPTHS + 1))
@pytest.mark.parametrize("slack_ms", [-1.0, 0.001, float("inf")])
def test_goes_to_its_point_in_one_span_whatever_the_slack(depth, slack_ms):
    assert Fixed(OperatingPoint(0.5, depth)).next(at(0, slack_ms=slack_ms)) == Step(0, depth, 0.5)


def test_stops_at_its_point():
    assert Fixed(OperatingPoint(0.5, 2)).next(at(2)) is Stop.TARGET
    assert Fixed(OperatingPoint(0.5, 2)).next(at(3)) is Stop.TARGET
    assert Fixed(OperatingPoint(0.5, DEPTHS)).next(at(DEPTHS)) is Stop.FINAL


def test_with_a_confidence_it_goes_exit_by_exit():
    policy = Fixed(OperatingPoint(0.5, 3), confidence=0.8)
    assert policy.next(at(0)) == Step(0, 1, 0.5)
    assert policy.next(at(1)) == Step(2, 2, 0.5)
    assert policy.next(at(2)) == Step(3, 3, 0.5)
    assert policy.next(at(3)) is Stop.TARGET


def test_it_passes_over_exits_where_it_never_stops():
    policy = Fixed(OperatingPoint(0.5, 3), confidence=(math.inf, 0.8))
    assert policy.next(at(0)) == Step(0, 2, 0.5)
    assert policy.next(at(2, confidence=0.85)) is Stop.CONFIDENCE
    assert policy.next(at(2, confidence=0.75)) == Step(3, 3, 0.5)


def test_with_a_confidence_a_sure_exit_ends_it():
    policy = Fixed(OperatingPoint(0.5, 3), confidence=0.8)
    assert policy.next(at(1, confidence=0.85)) is Stop.CONFIDENCE
    assert policy.next(at(3, confidence=0.85)) is Stop.TARGET


def test_point_that_is_not_offered_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"width=0\.6.* isn't offered; choose one of \(0\.25, 1, fp32\)"):
        Fixed(OperatingPoint(0.6, 1)).next(at(0))


def test_what_is_no_point_is_refused():
    with pytest.raises(ValueError, match=r"point is \(0\.5, 1\); give an OperatingPoint"):
        Fixed((0.5, 1))
