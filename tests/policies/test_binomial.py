from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stretto.policies.binomial import binomial_cdf, highest_rate


def exact_cdf(k: int, n: int, p: Fraction) -> Fraction:
    return sum((comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1)), Fraction(0))


@given(n=st.integers(1, 120), p=st.fractions("1/1000", "999/1000", max_denominator=1000), data=st.data())
def test_cdf_equals_exact_fractions(n, p, data):
    most = data.draw(st.integers(0, n))
    cdf = binomial_cdf(most, n, float(p))
    assert len(cdf) == most + 1
    for k in {0, most // 2, most}:
        assert cdf[k] == pytest.approx(float(exact_cdf(k, n, p)), rel=1e-10)


def test_tiny_probabilities_of_many_trials_are_kept_apart():
    cdf = binomial_cdf(40, 5000, 0.02)
    assert cdf[0] == pytest.approx(0.98**5000, rel=1e-9)
    assert cdf[40] == pytest.approx(float(exact_cdf(40, 5000, Fraction(1, 50))), rel=1e-9)


def test_cdf_ends_at_one_and_never_falls():
    cdf = binomial_cdf(100_000, 100_000, 0.01)
    assert np.all(np.diff(cdf) >= 0)
    assert cdf[-1] == pytest.approx(1.0, abs=1e-9)
    assert cdf[-1] <= 1.0


@pytest.mark.parametrize("count, n, level", [(0, 59, 0.95), (3, 200, 0.9), (20, 2000, 0.95), (99, 100, 0.5)])
def test_highest_rate_is_where_so_few_become_unlikely(count, n, level):
    rate = Fraction(highest_rate(count, n, level))
    assert float(exact_cdf(count, n, rate)) == pytest.approx(1 - level, rel=1e-6)


def test_highest_rate_of_nothing_at_all_is_the_rule_of_three():
    assert highest_rate(0, 300) == pytest.approx(1 - 0.05 ** (1 / 300))
    assert highest_rate(7, 7) == 1.0


@pytest.mark.parametrize("count, n", [(-1, 5), (6, 5), (0, 0)])
def test_count_that_is_none_is_refused(count, n):
    with pytest.raises(ValueError, match=f"{count} of {n}; give a count from 0"):
        highest_rate(count, n)
