import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from stretto.policies.scores import calibrated_scores, highest_score

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


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("classes", [1, 2, 10, 64, 65, 1000])
def test_highest_score_is_that_of_all_however_many_classes_there_are(classes, temperature):
    logits = np.random.default_rng(classes).normal(scale=30, size=classes).astype(np.float32)
    top, confidence = highest_score(logits, temperature)
    assert top == logits.argmax()
    assert confidence == pytest.approx(calibrated_scores(logits, temperature).max())
