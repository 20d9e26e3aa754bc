"""The guarantee itself: calibration sets are drawn from a pool, certificates are judged by the pool's own risk."""

from math import inf, sqrt

import numpy as np
import pytest
from stretto.policies.risk import Certificate, certify, certify_ways

DRAWS, POOL = 500, 5000
guaranteeing = pytest.mark.parametrize("method", ["ltt", "ucb"])


def grid(thresholds: int) -> list[float]:
    return [inf, *np.linspace(0.99, 0.5, thresholds - 1).tolist()]


def disagreements(thresholds: int, seed: int = 0) -> np.ndarray:
    """(POOL, thresholds) ever more of them, from none to a tenth."""
    hardness = np.random.default_rng(seed).random(POOL)
    return hardness[:, None] < np.linspace(0, 0.1, thresholds)


def dented(thresholds: int) -> np.ndarray:
    """(POOL, thresholds) disagreements whose share rises and falls again and again."""
    share = 0.04 + 0.03 * np.sin(np.linspace(0, 12, thresholds))
    table = np.random.default_rng(1).random((POOL, thresholds)) < share
    table[:, 0] = False
    return table


def gaps(thresholds: int) -> np.ndarray:
    """(POOL, thresholds) of accuracy: a third of the answers that change become right."""
    changed = disagreements(thresholds, seed=2)
    return changed * np.where(np.random.default_rng(3).random(POOL) < 1 / 3, -1, 1)[:, None]


def bounded(thresholds: int) -> np.ndarray:
    """(POOL, thresholds) losses anywhere in [0, 1]."""
    return disagreements(thresholds) * np.random.default_rng(4).random(POOL)[:, None]


def too_much(certificate: Certificate, pool: np.ndarray) -> bool:
    """Whether any of the certified thresholds loses more of the pool than was promised."""
    return bool(np.any(pool[:, : len(certificate.thresholds)].mean(axis=0) > certificate.epsilon))


def violations(pool: np.ndarray, samples: int, epsilon: float, delta: float, method: str, loss: str) -> int:
    """Of DRAWS calibration sets, how many certify what doesn't hold."""
    rng, thresholds = np.random.default_rng(7), grid(pool.shape[1])
    draws = (pool[rng.integers(POOL, size=samples)] for _ in range(DRAWS))
    return sum(too_much(certify(draw, thresholds, epsilon, delta, method, loss), pool) for draw in draws)


def at_most(delta: float) -> float:
    """Violations that a rule which keeps `delta` exactly has in DRAWS draws, with three standard errors."""
    return DRAWS * delta + 3 * sqrt(DRAWS * delta * (1 - delta))


@guaranteeing
@pytest.mark.parametrize("delta", [0.05, 0.2])
@pytest.mark.parametrize("thresholds", [5, 11, 60])  # few: the step from the last that holds to the next is a large one
def test_promise_is_broken_in_at_most_delta_of_the_draws(method, thresholds, delta):
    assert violations(disagreements(thresholds), 400, 0.03, delta, method, "disagreement") <= at_most(delta)


@guaranteeing
def test_promise_holds_though_more_aggressive_thresholds_may_lose_less(method):
    assert violations(dented(30), 400, 0.05, 0.1, method, "disagreement") <= at_most(0.1)


@guaranteeing
def test_promised_accuracy_is_kept(method):
    assert violations(gaps(40), 800, 0.02, 0.1, method, "accuracy") <= at_most(0.1)


@guaranteeing
def test_promised_mean_of_any_bounded_loss_is_kept(method):
    assert violations(bounded(40), 400, 0.03, 0.1, method, "loss") <= at_most(0.1)


def test_samples_own_mean_breaks_what_the_guarantees_keep():
    """The control: these draws do catch a rule that promises too much."""
    broken = violations(disagreements(60), 400, 0.03, 0.1, "naive", "disagreement")
    assert broken > 3 * at_most(0.1)


def test_promise_for_several_widths_holds_for_all_at_once():
    """Each width on its own pool's inputs, all drawn together; the narrowest's final exit is beyond the promise."""
    pools = {width: disagreements(20, seed=seed) for seed, width in enumerate((0.25, 0.5, 0.75, 1.0))}
    pools[0.25] = np.random.default_rng(9).random((POOL, 20)) < 0.032
    rng, thresholds, broken = np.random.default_rng(8), grid(20), 0
    for _ in range(DRAWS):
        rows = rng.integers(POOL, size=600)
        drawn = {width: pool[rows] for width, pool in pools.items()}
        certificates = certify_ways(drawn, thresholds, 0.03, 0.2)
        broken += any(too_much(certificates[width], pool) for width, pool in pools.items())
    assert broken <= at_most(0.2)


@guaranteeing
def test_enough_samples_find_most_of_what_holds(method):
    """No guarantee by never exiting: 4000 samples come within a quarter of the loss that was allowed, in the mean."""
    pool, rng, found = disagreements(101), np.random.default_rng(5), []
    for _ in range(30):
        certificate = certify(pool[rng.integers(POOL, size=4000)], grid(101), 0.03, 0.1, method)
        found.append(pool[:, len(certificate.thresholds) - 1].mean())
    assert 0.0225 < np.mean(found) <= 0.03
