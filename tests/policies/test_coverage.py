import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stretto.policies.coverage import Coverage


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("scale", [0.7, 1.0, 2.0])
def test_rate_is_kept_though_the_model_is_wrong(level, scale):
    """The model says what is uniform on (0, 1) has quantiles level·scale; the truth changes half-way."""
    rng, coverage, missed = random.Random(0), Coverage(level, rate=0.005, least=1e-4, most=0.6), 0
    for turn in range(20_000):
        answer = coverage.asked**scale
        came = rng.random() ** (1.0 if turn < 10_000 else 0.8)
        missed += came > answer
        coverage.observe(came > answer)
    assert missed / 20_000 == pytest.approx(1 - level, abs=0.003)


def test_misses_ask_for_more_and_hits_for_less():
    coverage = Coverage(0.99)
    coverage.observe(True)
    assert coverage.asked > 0.99
    asked = coverage.asked
    coverage.observe(False)
    assert coverage.asked < asked


@given(missed=st.lists(st.booleans(), max_size=300))
def test_level_asked_stays_in_its_range(missed):
    coverage = Coverage(0.99, least=0.001, most=0.05)
    for each in missed:
        coverage.observe(each)
        assert 0.95 - 1e-12 <= coverage.asked <= 0.999 + 1e-12
