"""Certified thresholds: which pass, the errors, and what must never make them more aggressive."""

from fractions import Fraction
from math import comb, exp, inf, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stretto.policies.bounds import binomial_p, hoeffding_bentkus_p
from stretto.policies.exits import ExitRule
from stretto.policies.risk import METHODS, TooFewSamplesError, certify, certify_ways, promise_of_ways, samples_needed

GRID = (inf, 0.95, 0.9, 0.8, 0.7, 0.5)
every_method = pytest.mark.parametrize("method", METHODS)
guaranteeing = pytest.mark.parametrize("method", [method for method in METHODS if method != "naive"])


def losing(counts: list[int], samples: int) -> np.ndarray:
    """(samples, thresholds) disagreements, so many at each threshold."""
    return np.arange(samples)[:, None] < np.array(counts)


def drawn(seed: int, samples: int = 400, thresholds: int = len(GRID), least: int = 0) -> np.ndarray:
    """(samples, thresholds) losses `least` … 1 that are more frequent towards the end, but not steadily."""
    rng = np.random.default_rng(seed)
    chance = np.sort(rng.random(thresholds)) * 0.15 * rng.random(thresholds)
    chance[0] = 0
    signs = rng.choice([least or 1, 1], size=(samples, thresholds))
    return (rng.random((samples, thresholds)) < chance) * signs


def test_p_value_of_binary_losses_is_the_binomial_probability():
    exact = sum(comb(50, i) * Fraction(1, 10) ** i * Fraction(9, 10) ** (50 - i) for i in range(3))
    assert binomial_p(losing([2, 0], 50), 0.1) == pytest.approx([float(exact), 0.9**50])


def test_bounded_losses_take_the_smaller_of_hoeffding_and_bentkus():
    many = np.full((60, 1), 0.05)  # in all 3
    bentkus = np.e * sum(comb(60, i) * 0.2**i * 0.8 ** (60 - i) for i in range(4))
    divergence = 0.05 * log(0.05 / 0.2) + 0.95 * log(0.95 / 0.8)
    assert hoeffding_bentkus_p(many, 0.2) == pytest.approx([min(bentkus, exp(-60 * divergence))], rel=1e-6)
    assert hoeffding_bentkus_p(np.full((60, 1), 0.3), 0.2) == pytest.approx([1.0]), "the mean itself is too high"
    assert hoeffding_bentkus_p(np.zeros((60, 1)), 0.2) == pytest.approx([0.8**60])
    assert hoeffding_bentkus_p(np.ones((60, 1)), 0.2) == pytest.approx([1.0])


@given(losses=st.lists(st.floats(0, 1), min_size=1, max_size=50), epsilon=st.floats(0.01, 0.9))
def test_p_values_are_probabilities(losses, epsilon):
    p = hoeffding_bentkus_p(np.array(losses)[:, None], epsilon)
    assert 0 <= p[0] <= 1


@every_method
def test_walk_ends_before_the_first_that_fails_even_if_later_ones_pass(method):
    certificate = certify(losing([0, 1, 80, 0, 0, 0], 400), GRID, 0.05, 0.1, method)
    assert certificate.thresholds == GRID[:2]
    assert certificate.threshold == 0.95
    assert certificate.risks == (0.0, 1 / 400)


@every_method
def test_only_never_stopping_is_left_where_every_exit_loses_too_much(method):
    certificate = certify(losing([0, 80, 80, 80, 80, 80], 400), GRID, 0.05, 0.1, method)
    assert certificate.threshold == inf
    assert not ExitRule(certificate.threshold).is_sure(())
    assert "never stopping early" in certificate.promise


@every_method
def test_narrow_way_whose_final_exit_loses_too_much_has_no_threshold(method):
    certificate = certify(losing([80] * 6, 400), GRID, 0.05, 0.1, method)
    assert certificate.thresholds == ()
    assert certificate.threshold is None
    assert certificate.promise.startswith("Nothing is promised: not even without early exits")


@every_method
def test_all_pass_where_nothing_is_lost(method):
    assert certify(losing([0] * 6, 400), GRID, 0.05, 0.1, method).threshold == GRID[-1]


@every_method
def test_thresholds_of_several_exits_are_certified_as_one(method):
    path = [(inf, inf), (inf, 0.9), (0.95, 0.9), (0.9, 0.8)]
    certificate = certify(losing([0, 1, 2, 90], 400), path, 0.05, 0.1, method)
    assert certificate.threshold == (0.95, 0.9)
    assert "(0.95, 0.9)" in certificate.promise
    ExitRule(certificate.threshold)


@guaranteeing
@pytest.mark.parametrize("epsilon, delta", [(0.05, 0.1), (0.01, 0.05), (0.002, 0.01), (0.5, 0.1)])
def test_needed_samples_are_the_fewest_that_can_pass(method, epsilon, delta):
    needed = samples_needed(epsilon, delta, method)
    assert certify(np.zeros((needed, 1)), [inf], epsilon, delta, method).threshold == inf
    message = rf"{needed - 1} calibration samples can't show .*; give at least {needed}, or allow a greater loss"
    with pytest.raises(TooFewSamplesError, match=message) as error:
        certify(np.zeros((needed - 1, 1)), [inf], epsilon, delta, method)
    assert error.value.needed == needed
    assert isinstance(error.value, ValueError)


def test_299_samples_can_show_one_percent_with_95_percent():
    assert samples_needed(0.01, 0.05, "ltt") == 299


@every_method
@given(seed=st.integers(0, 1000), epsilon=st.floats(0.02, 0.3), less=st.floats(0.3, 1))
def test_smaller_loss_allowed_never_stops_earlier(method, seed, epsilon, less):
    table = drawn(seed, least=-1)
    more, fewer = (certify(table, GRID, allowed, 0.2, method, "accuracy") for allowed in (epsilon, epsilon * less))
    assert len(fewer.thresholds) <= len(more.thresholds)


@every_method
@given(seed=st.integers(0, 1000), delta=st.floats(0.02, 0.5), less=st.floats(0.1, 1))
def test_more_certainty_never_stops_earlier(method, seed, delta, less):
    """Of betting too, though its bets depend on delta: on tables of this kind."""
    table = drawn(seed)
    more, fewer = (certify(table, GRID, 0.05, allowed, method) for allowed in (delta, delta * less))
    assert len(fewer.thresholds) <= len(more.thresholds)


@given(seed=st.integers(0, 1000), again=st.integers(2, 5), kind=st.sampled_from(["disagreement", "accuracy", "loss"]))
def test_more_of_the_same_samples_never_stop_later(seed, again, kind):
    table = drawn(seed, samples=150) * (0.8 if kind == "loss" else 1)
    once, often = (certify(np.tile(table, (times, 1)), GRID, 0.05, 0.1, loss=kind) for times in (1, again))
    assert len(often.thresholds) >= len(once.thresholds)


@given(seed=st.integers(0, 1000), more=st.integers(1, 300), kind=st.sampled_from(["disagreement", "loss"]))
def test_samples_that_lose_nothing_never_stop_later(seed, more, kind):
    table = drawn(seed, samples=150) * (0.8 if kind == "loss" else 1)
    longer = np.concatenate([table, np.zeros((more, len(GRID)))])
    before, after = (certify(each, GRID, 0.05, 0.1, loss=kind) for each in (table, longer))
    assert len(after.thresholds) >= len(before.thresholds)


@guaranteeing
@given(seed=st.integers(0, 1000))
def test_guarantee_never_stops_earlier_than_the_samples_own_mean(method, seed):
    table = drawn(seed, least=-1)
    sure, naive = (certify(table, GRID, 0.05, 0.1, each, "accuracy") for each in (method, "naive"))
    assert len(sure.thresholds) <= len(naive.thresholds)


@pytest.mark.parametrize("method", ["ltt", "naive"])
@given(seed=st.integers(0, 1000), order=st.integers(0, 1000))
def test_order_of_the_samples_changes_nothing(method, seed, order):
    table = drawn(seed)
    shuffled = np.random.default_rng(order).permutation(table)
    assert certify(table, GRID, 0.05, 0.1, method) == certify(shuffled, GRID, 0.05, 0.1, method)


def test_samples_sorted_by_what_they_lose_are_no_trouble_for_betting():
    unsorted = np.random.default_rng(1).permutation(losing([0, 5, 60], 1000))
    for table in (losing([0, 5, 60], 1000), losing([0, 5, 60], 1000)[::-1], unsorted):
        assert certify(table, GRID[:3], 0.03, 0.1, "ucb").threshold == 0.95


def test_gains_that_outweigh_losses_count_for_betting_only():
    gaps = np.random.default_rng(0).permutation(np.repeat([1, -1, 0], [150, 140, 2710]))
    table = np.stack([np.zeros(3000), gaps], axis=1)
    assert certify(table, GRID[:2], 0.03, 0.05, "ucb", "accuracy").threshold == 0.95
    assert certify(table, GRID[:2], 0.03, 0.05, "ltt", "accuracy").threshold == inf


def test_widths_share_delta():
    tables = {width: losing([0, 9, 13], 400) for width in (0.25, 0.5, 1.0)}
    certificates = certify_ways(tables, GRID[:3], 0.05, 0.1)
    alone = certify(tables[1.0], GRID[:3], 0.05, 0.1)
    assert alone.threshold == 0.9
    assert {certificate.threshold for certificate in certificates.values()} == {0.95}
    assert certificates[0.5].delta == 0.1
    assert certificates[0.5] == certify(tables[0.5], GRID[:3], 0.05, 0.1, sequences=3)
    assert "at all 3 ways at once" in certificates[0.5].promise


def test_widths_that_share_delta_need_more_samples():
    with pytest.raises(TooFewSamplesError, match=f"give at least {samples_needed(0.05, 0.1 / 4)}"):
        certify_ways({width: losing([0], 60) for width in range(4)}, [inf], 0.05, 0.1)


@pytest.mark.parametrize(
    "loss, does",
    [
        ("disagreement", "gives another answer than the full fp32 network to at most 5 % of inputs"),
        ("accuracy", "is right on at most 5 % fewer inputs than the full fp32 network"),
        ("loss", "loses at most 5 % on average against the full fp32 network"),
    ],
)
def test_promise_is_one_sentence_that_says_what_holds_and_what_not(loss, does):
    promise = certify(losing([0, 2, 80], 400), GRID[:3], 0.05, 0.1, loss=loss).promise
    assert promise == (
        f"With probability at least 90 % over the draw of 400 calibration samples, stopping early at 0.95 {does}; "
        "exits forced by a deadline aren't covered."
    )


def test_naive_promises_nothing():
    promise = certify(losing([0, 2], 400), GRID[:2], 0.05, 0.1, "naive").promise
    assert promise.startswith("Nothing is promised: on these 400 samples stopping early at 0.95 gives another answer")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"epsilon": 0.0}, r"epsilon is 0.0; give a share in \(0, 1\)"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"delta": 1.0}, r"delta is 1.0; give a share in \(0, 1\)"),
        ({"method": "crc"}, "no method 'crc'; name one of ltt, ucb, naive"),
        ({"loss": "brier"}, "no loss 'brier'; name one of disagreement, accuracy, loss"),
        ({"sequences": 0}, "sequences is 0"),
        ({"thresholds": (0.9, 0.8)}, "the first threshold isn't infinity; give the safest first"),
        ({"thresholds": ()}, "the first threshold isn't infinity"),
        ({"thresholds": (inf, 0.8, 0.9)}, "threshold 0.9 comes after 0.8; give the safest first"),
        ({"thresholds": ((inf, inf), (0.8, 0.9), (0.7, 0.95))}, r"threshold \(0.7, 0.95\) comes after \(0.8, 0.9\)"),
        ({"thresholds": (inf, 0.9, 0.8)}, r"losses \(100, 2\): expected \(samples, 3\)"),
        ({"losses": np.zeros((0, 2))}, r"losses \(0, 2\): expected \(samples, 2\)"),
        ({"losses": np.full((100, 2), 0.5)}, "a loss is 0.5; each disagreement must be 0 or 1"),
        ({"losses": np.full((100, 2), -1)}, "a loss is -1.0; each disagreement must be 0 or 1"),
        ({"losses": np.full((100, 2), 2), "loss": "accuracy"}, "a loss is 2.0; each accuracy must be -1, 0 or 1"),
        ({"losses": np.full((100, 2), np.nan), "loss": "loss"}, r"a loss is nan; each loss must be in \[-1, 1\]"),
    ],
)
def test_what_can_not_be_certified_is_refused(change, message):
    asked = {"losses": np.zeros((100, 2)), "thresholds": (inf, 0.9), "epsilon": 0.05, "delta": 0.1} | change
    with pytest.raises(ValueError, match=message):
        certify(**asked)


def test_promise_of_all_ways_counts_those_that_have_one():
    tables = {"wide": losing([0, 1, 80, 80, 80, 80], 400), "narrow": losing([80] * 6, 400)}
    promise = promise_of_ways(certify_ways(tables, GRID, 0.05, 0.1).values())
    assert promise.startswith("With probability at least 90 % over the draw of 400 calibration samples, ")
    assert "to at most 5 % of inputs, at each of the 1 of 2 widths and precisions" in promise
    assert "deadline aren't covered" in promise


@pytest.mark.parametrize("counts, method", [([80] * 6, "ltt"), ([0] * 6, "naive")])
def test_nothing_is_promised_of_ways_without_a_threshold_or_by_the_mean_alone(counts, method):
    certificates = certify_ways({"only": losing(counts, 400)}, GRID, 0.05, 0.1, method)
    assert promise_of_ways(certificates.values()).startswith("Nothing is promised: ")
