import pytest
from stretto.policies.exits import ExitRule, as_rule

from .situations import seen


def test_rule_looks_at_the_latest_exit():
    rule = ExitRule(0.8)
    assert rule.is_sure((seen(1, 0.5, confidence=0.3), seen(2, 0.5, confidence=0.8)))
    assert not rule.is_sure((seen(1, 0.5, confidence=0.9), seen(2, 0.5, confidence=0.79)))
    assert not rule.is_sure(())


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, float("nan")])
def test_threshold_outside_its_range_is_refused(threshold):
    with pytest.raises(ValueError, match=rf"threshold is {threshold}; give a probability in \(0, 1\]"):
        ExitRule(threshold)


def test_number_becomes_a_rule_and_the_rest_stays():
    assert as_rule(0.9) == ExitRule(0.9)
    assert as_rule(ExitRule(0.7)) == ExitRule(0.7)
    assert as_rule(None) is None
