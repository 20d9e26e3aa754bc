import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from stretto.policies.exits import ExitRule, as_rule, calibrated_scores, read_scores

from .situations import seen

logits_of_any_size = arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(2, 6)), elements=st.floats(-1e4, 1e4, width=32)
)


@given(logits=logits_of_any_size, temperature=st.floats(0.1, 10))
def test_scores_are_probabilities_in_the_order_of_the_logits(logits, temperature):
    scores = calibrated_scores(logits, temperature)
    assert scores.shape == logits.shape and scores.dtype == logits.dtype
    assert np.allclose(scores.sum(axis=-1), 1, atol=1e-5)
    assert (scores >= 0).all()
    assert (np.take_along_axis(scores, logits.argmax(axis=-1)[:, None], axis=-1) == scores.max(axis=-1)[:, None]).all()


def test_scores_equal_the_formula():
    logits = np.array([2.0, 1.0, -1.0])
    expected = np.exp(logits / 1.7) / np.exp(logits / 1.7).sum()
    assert calibrated_scores(logits, 1.7) == pytest.approx(expected)


def test_logits_are_left_as_they_were():
    logits = np.array([[2.0, 1.0]], np.float32)
    calibrated_scores(logits, 2.0)
    assert logits.tolist() == [[2.0, 1.0]]


@pytest.mark.parametrize("temperature, hotter", [(0.5, 1.0), (1.0, 3.0)])
def test_higher_temperature_is_less_confident(temperature, hotter):
    logits = np.array([3.0, 1.0, 0.0])
    assert calibrated_scores(logits, hotter).max() < calibrated_scores(logits, temperature).max()


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


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("classes", [1, 2, 10, 64, 65, 1000])
def test_scores_are_read_alike_however_many_classes_there_are(classes, temperature):
    logits = np.random.default_rng(classes).normal(scale=30, size=classes).astype(np.float32)
    scores, top, confidence = read_scores(logits, temperature)
    assert scores == pytest.approx(calibrated_scores(logits, temperature), abs=1e-6)
    assert scores.dtype == np.float32
    assert top == logits.argmax()
    assert confidence == pytest.approx(scores.max())
