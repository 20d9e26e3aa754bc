import numpy as np
import pytest
from stretto.policies.latency import Ran
from stretto.policies.load import UNKNOWN
from stretto.policies.scalar import ScalarFilter
from stretto.policies.situation import Step


def ran(ratio, own_ms=2.0, **changes):
    idle_ms = np.array([own_ms, 1.1 * own_ms])
    return Ran(Step(0, 1, 1.0), idle_ms, 0.0, own_ms * ratio, own_ms * ratio, UNKNOWN, **changes)


def test_first_updates_are_those_of_the_published_equations():
    model = ScalarFilter()
    model.observe(ran(2.0))
    drift = max(0.1, 0.3 * 0.1 + 0.7 * 0.0)
    variance = (1 - 0.5) * 0.1 + drift
    gain = variance / (variance + 0.001)
    assert model.slowdown == pytest.approx(1 + gain * (2.0 - 1.0))
    assert model.variance == pytest.approx(variance)


@pytest.mark.parametrize("after, slowdown", [(1, 1.19), (2, 1.92), (3, 2.00)])
def test_quiet_constants_follow_a_step_in_three_samples(after, slowdown):
    """Figures worked out with these constants when the algorithm was studied (research/serving.md, 2.1)."""
    model = ScalarFilter(least_drift=1e-4, noise=2.5e-3)
    for _ in range(200):
        model.observe(ran(1.0))
    for _ in range(after):
        model.observe(ran(2.0))
    assert model.slowdown == pytest.approx(slowdown, abs=0.03)


def test_prediction_is_normal_with_state_and_noise():
    model = ScalarFilter(slowdown=1.5, variance=0.03, noise=0.01)
    finish_ms = model.finish_ms(np.array([[1.0, 2.0], [4.0, 9.0]]), 0.0, UNKNOWN)
    assert finish_ms[:, model.levels.index(0.5)] == pytest.approx([1.5, 6.0])
    assert finish_ms[:, model.levels.index(0.99)] == pytest.approx(
        [1.5 + 2.3263 * 0.2, 6.0 + 4 * 2.3263 * 0.2], rel=1e-3
    )


def test_cut_off_step_counts_only_where_it_took_longer_than_expected():
    model = ScalarFilter(slowdown=1.5)
    model.observe(ran(0.4, cut_off=True))
    assert model.slowdown == 1.5
    model.observe(ran(3.0, cut_off=True))
    assert model.slowdown > 2


def test_whole_path_is_not_learnt_twice():
    model = ScalarFilter()
    model.observe(ran(5.0, whole_path=True))
    assert model.slowdown == 1.0


def test_what_was_said_of_several_menus_is_kept_until_something_ran():
    model, menus = ScalarFilter(), [np.array([[float(n + 1)]]) for n in range(3)]
    said = [model.finish_ms(menu, 0.0, UNKNOWN) for menu in menus]
    assert all(model.finish_ms(menu, 0.0, UNKNOWN) is one for menu, one in zip(menus, said, strict=True))
    model.observe(ran(2.0))
    assert model.finish_ms(menus[0], 0.0, UNKNOWN) is not said[0]
