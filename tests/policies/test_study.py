"""What time models put off, and what may happen meanwhile."""

import numpy as np
import pytest
from stretto.policies import TIME_MODELS, make_time_model
from stretto.policies.latency import Ran, catch_up
from stretto.policies.load import UNKNOWN, Load
from stretto.policies.profile_model import ProfileModel
from stretto.policies.situation import Step
from stretto.policies.slices import SliceModel

from .scheduler import Machine, Runtime, profiled

MEDIAN, TOP = 2, 6  # places among the model's levels
IDLE = Load(others=0.0, cores=2.0)


def lost(stolen_ms, own_ms=8.0, load=IDLE):
    """A step of its profiled time from which so much was stolen."""
    return Ran(Step(0, 1, 1.0), profiled(own_ms)[0], 0.0, own_ms, own_ms + stolen_ms, load)


def asked(model, own_ms=8.0, load=IDLE):
    return model.finish_ms(profiled(own_ms), 0.0, load)[0].copy()


@pytest.mark.parametrize("model", [*TIME_MODELS, "profile"])
def test_every_model_says_whether_there_is_something_to_study(model):
    made = ProfileModel((0.5, 0.99)) if model == "profile" else make_time_model(model)
    assert made.study() is None
    made.observe(lost(0.0))
    catch_up(made)
    assert made.study() is None


def test_what_was_stolen_is_only_noted_until_it_is_studied():
    model = SliceModel()
    before_ms = asked(model)
    for _ in range(300):
        model.observe(lost(6.0))
    assert np.array_equal(asked(model), before_ms)
    catch_up(model)
    assert asked(model)[MEDIAN] == pytest.approx(14.0, rel=0.1)


def test_working_out_changes_no_prediction_before_it_is_put_in_place():
    model = SliceModel()
    before_ms = asked(model)
    for _ in range(300):
        model.observe(lost(6.0))
    study = model.study()
    study.work_out()
    assert np.array_equal(asked(model), before_ms)
    study.put_in_place()
    assert not np.array_equal(asked(model), before_ms)


def test_what_is_noted_during_a_study_is_in_the_next_one():
    model = SliceModel()
    for _ in range(4):
        model.observe(lost(0.0))
    study = model.study()
    for _ in range(300):
        model.observe(lost(6.0))
    study.work_out()
    study.put_in_place()
    assert asked(model)[MEDIAN] < 9.0
    catch_up(model)
    assert asked(model)[MEDIAN] == pytest.approx(14.0, rel=0.1)


def test_study_that_is_given_up_is_no_harm():
    model, other = SliceModel(), SliceModel()
    for at in range(600):
        for each in (model, other):
            each.observe(lost(6.0 * (at % 3 == 0)))
        if at == 100:
            model.study()
    catch_up(model)
    catch_up(other)
    assert np.array_equal(asked(model), asked(other))


def test_studies_become_rare():
    here, studies = Runtime(SliceModel(), Machine(crowd=1.0), [0.6, 1.5, 1.0, 2.0]), 0
    here.requests(200)
    for _ in range(100):
        for ran in here.request():
            here.model.observe(ran)
        while (study := here.model.study()) is not None:
            studies += 1
            study.work_out()
            study.put_in_place()
    assert studies <= 40


def test_every_class_of_load_gets_its_study():
    model, busy = SliceModel(), Load(others=4.0, cores=2.0)
    for _ in range(100):
        model.observe(lost(6.0))
        model.observe(lost(1.0, load=busy))
    catch_up(model)
    assert asked(model)[MEDIAN] == pytest.approx(14.0, rel=0.1)
    assert asked(model, load=busy)[MEDIAN] == pytest.approx(9.0, rel=0.1)


def test_prediction_that_was_kept_for_a_menu_is_given_up_with_the_next_study():
    model, menu_ms = SliceModel(), profiled(8.0)
    first = model.finish_ms(menu_ms, 0.0, UNKNOWN)
    assert model.finish_ms(menu_ms, 0.0, UNKNOWN) is first
    for _ in range(50):
        model.observe(lost(6.0, load=UNKNOWN))
    catch_up(model)
    assert model.finish_ms(menu_ms, 0.0, UNKNOWN)[0, MEDIAN] > first[0, MEDIAN] + 4
