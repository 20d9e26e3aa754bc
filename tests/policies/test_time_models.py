"""What every time model promises. A new one is one line in `MODELS_UNDER_TEST`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stretto.policies import TIME_MODELS, make_time_model
from stretto.policies.latency import Ran
from stretto.policies.load import UNKNOWN, Load
from stretto.policies.situation import Step

MODELS_UNDER_TEST = ["scalar", "slices"]
every_model = pytest.mark.parametrize("name", MODELS_UNDER_TEST)


def test_every_named_model_is_under_test():
    assert set(MODELS_UNDER_TEST) == set(TIME_MODELS)


@every_model
@settings(max_examples=30)
@given(
    own_ms=st.lists(st.floats(0.01, 100), min_size=1, max_size=20),
    ratios=st.lists(st.tuples(st.floats(0.1, 50), st.floats(0.1, 1), st.booleans(), st.booleans()), max_size=30),
)
def test_times_are_positive_finite_and_ascend_with_the_level_whatever_ran(name, own_ms, ratios):
    model, load = make_time_model(name), Load(others=3.0, cores=2.0)
    for ratio, own_share, cut_off, known in ratios:
        wall_ms = 2.0 * ratio
        cpu_ms = wall_ms * own_share if known else None
        model.observe(Ran(Step(0, 1, 1.0), np.array([2.0, 2.5]), 0.0, cpu_ms, wall_ms, load, cut_off))
    finish_ms = model.finish_ms(np.outer(own_ms, [1.0, 1.2]), 0.5, load)
    assert finish_ms.shape == (len(own_ms), len(model.levels))
    assert (finish_ms > 0).all() and np.isfinite(finish_ms).all() and (np.diff(finish_ms, axis=1) >= 0).all()


@every_model
def test_levels_ascend_and_have_the_median_and_the_top(name):
    levels = make_time_model(name).levels
    assert list(levels) == sorted(set(levels)) and {0.5, 0.99} <= set(levels)


@every_model
def test_nothing_known_gives_about_the_profile(name):
    model = make_time_model(name)
    finish_ms = model.finish_ms(np.array([[1.0, 1.1]]), 0.0, UNKNOWN)
    assert finish_ms[0, model.levels.index(0.5)] == pytest.approx(1.0, rel=0.05)


def test_unknown_model_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"there is no time model 'crystal ball'; name one of scalar, slices"):
        make_time_model("crystal ball")


def test_unknown_parameter_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"time model 'slices' has no parameter 'levels'; it has median"):
        make_time_model("slices", levels=(0.5,))
