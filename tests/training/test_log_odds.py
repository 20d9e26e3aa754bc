"""The slope and offset are those that generated what came out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stretto.training.log_odds import fit_log_odds


def drawn(slope: float, offset: float, samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds, and what came out if the truth was slope · odds + offset."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(size=samples) * 2
    return odds, (rng.random(samples) < 1 / (1 + np.exp(-(slope * odds + offset)))).astype(float)


def loss(odds: np.ndarray, right: np.ndarray, slope: float, offset: float) -> float:
    z = slope * odds + offset
    return float((np.logaddexp(0, z) - right * z).sum() + 0.005 * ((slope - 1) ** 2 + offset**2))


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (0.4, -1.0), (3.0, 2.0)])
def test_slope_and_offset_that_made_the_outcomes_are_found(slope, offset):
    assert fit_log_odds(*drawn(slope, offset, 40_000)) == pytest.approx((slope, offset), abs=0.08)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 4), st.floats(-3, 3), st.integers(0, 1000))
def test_no_other_slope_and_offset_are_likelier(slope, offset, seed):
    odds, right = drawn(slope, offset, 60, seed)
    found = fit_log_odds(odds, right)
    if found[0] > 0:
        near = [(found[0] + a, found[1] + b) for a in (-0.1, 0, 0.1) for b in (-0.1, 0, 0.1)]
        assert loss(odds, right, *found) <= min(loss(odds, right, *other) for other in near) + 1e-9


def test_mean_of_the_probabilities_is_the_share_that_was_right():
    odds, right = drawn(0.5, 1.0, 300)
    slope, offset = fit_log_odds(odds, right)
    assert (1 / (1 + np.exp(-(slope * odds + offset)))).mean() == pytest.approx(right.mean(), abs=1e-3)


def test_odds_that_say_the_contrary_count_for_nothing():
    odds, right = drawn(-1.0, 1.0, 2000)
    slope, offset = fit_log_odds(odds, right)
    assert slope == 0
    assert 1 / (1 + np.exp(-offset)) == pytest.approx(right.mean(), abs=1e-3)


@pytest.mark.parametrize("right", [np.ones(50), np.zeros(50), (np.arange(50) >= 25).astype(float)])
@pytest.mark.parametrize("scale", [0.01, 1, 100])
def test_outcomes_that_are_all_alike_or_told_apart_exactly_give_finite_numbers(right, scale):
    odds = np.linspace(-1, 1, 50) * scale
    slope, offset = fit_log_odds(odds, right)
    assert np.isfinite([slope, offset]).all()
    chance = 1 / (1 + np.exp(-(slope * odds + offset)))
    assert chance.mean() == pytest.approx(right.mean(), abs=0.05)


@pytest.mark.parametrize("shapes", [((3, 1), (3, 1)), ((3,), (2,)), ((0,), (0,))])
def test_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match=r"expected \(samples,\) both, one or more"):
        fit_log_odds(np.zeros(shapes[0]), np.zeros(shapes[1]))
