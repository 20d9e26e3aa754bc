"""The temperature is the one that generated the labels, and changes no prediction."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stretto.training.calibrate import fit_temperature


def drawn(temperature: float, samples: int, seed: int = 0, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their softmax at a temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(samples, classes)) * 3
    noisy = logits / temperature + rng.gumbel(size=logits.shape)
    return logits, noisy.argmax(1)


def loss(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    p = np.exp(logits / temperature) / np.exp(logits / temperature).sum(1, keepdims=True)
    return float(-np.log(p[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_temperature_that_made_the_labels_is_found(temperature):
    assert fit_temperature(*drawn(temperature, 20_000)) == pytest.approx(temperature, rel=0.05)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.2, 5), st.integers(0, 1000))
def test_no_other_temperature_is_likelier(temperature, seed):
    logits, labels = drawn(temperature, 60, seed)
    best = fit_temperature(logits, labels)
    others = np.geomspace(0.06, 19, 60)
    assert loss(logits, labels, best) <= min(loss(logits, labels, t) for t in others) + 1e-9


def test_scaling_the_logits_scales_the_temperature():
    logits, labels = drawn(1.0, 400)
    assert fit_temperature(2 * logits, labels) == pytest.approx(2 * fit_temperature(logits, labels), rel=1e-4)


def test_large_logits_are_no_trouble():
    logits, labels = drawn(1.0, 400)
    assert fit_temperature((logits + 1e4).astype(np.float32), labels) == pytest.approx(
        fit_temperature(logits, labels), rel=1e-2
    )


@pytest.mark.parametrize(("right", "expected"), [(True, 0.05), (False, 20.0)])
def test_always_right_and_always_wrong_come_out_at_the_ends(right, expected):
    logits = np.eye(4) * 3
    labels = np.arange(4) if right else (np.arange(4) + 1) % 4
    assert fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("shapes", [((3,), (3,)), ((3, 2), (2,)), ((0, 2), (0,))])
def test_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match=r"expected \(samples, classes\) and \(samples,\)"):
        fit_temperature(np.zeros(shapes[0]), np.zeros(shapes[1], dtype=int))
