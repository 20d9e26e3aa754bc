import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stretto.policies.latency import Ran
from stretto.policies.load import UNKNOWN, Load
from stretto.policies.situation import Step
from stretto.policies.slices import SliceModel

from .scheduler import Machine, Runtime, profiled, share_in_time

MEDIAN, TOP = 2, 6  # places among the model's levels
SHORT_MS, LONG_MS = 0.4, 8.0
STEPS_MS = [0.6, 1.5, 1.0, 2.0, 3.0]  # a path longer than two slices


def running(crowd=0.0, own_ms=STEPS_MS, sees=True, **machine):
    return Runtime(SliceModel(), Machine(crowd, **machine), list(own_ms), sees)


@pytest.mark.parametrize("own_ms", [[SHORT_MS], STEPS_MS])
@pytest.mark.parametrize("before, after", [(1.0, 2.0), (2.0, 1.0), (1.0, 1.3)])
def test_change_of_slowdown_is_followed_within_five_requests(own_ms, before, after):
    here = running(own_ms=own_ms, slowdown=before)
    here.requests(200)
    here.machine.slowdown = after
    here.requests(5)
    assert here.predict(own_ms[0])[MEDIAN] == pytest.approx(own_ms[0] * after, rel=0.1)


def test_one_outlier_changes_nothing():
    here = running(own_ms=[1.0])
    here.requests(100)
    usual_ms = here.predict(1.0)
    here.machine.slowdown = 10.0
    here.request()
    here.machine.slowdown = 1.0
    assert here.predict(1.0) == pytest.approx(usual_ms, rel=0.07)
    here.requests(3)
    assert here.predict(1.0) == pytest.approx(usual_ms, rel=0.07)


@pytest.mark.parametrize("sees", [True, False])
@pytest.mark.parametrize("crowd", [0.0, 1.0, 1.5])
def test_under_a_steady_load_the_highest_level_is_kept_at_its_rate(crowd, sees):
    here = running(crowd, sees=sees)
    here.requests(100)
    told = here.requests(600)
    steps, paths = [ran for request in told for ran in request[:-1]], [request[-1] for request in told]
    assert 0.984 <= share_in_time(steps) <= 0.999
    assert 0.975 <= share_in_time(paths) <= 1.0


def test_lost_slices_are_not_spread_over_short_steps():
    here = running(1.0)
    here.requests(300)
    assert here.predict(SHORT_MS)[TOP] < 1.5 * SHORT_MS
    assert here.predict(SHORT_MS, ran_ms=2.6)[TOP] > 3.0


def test_long_path_is_foretold_more_closely_than_by_chance_of_each_slice():
    here = running(1.0)
    here.requests(400)
    own_ms = sum(STEPS_MS)  # 8.1 ms: two slices end on the way, some 4 ms are lost at each
    assert own_ms + 7 < here.predict(own_ms)[MEDIAN] < own_ms + 9.5
    assert here.predict(own_ms)[TOP] < own_ms + 17  # of Poisson's numbers with that mean, 1 % are 6 and more


def test_jump_of_the_load_is_foreseen_before_anything_felt_it():
    here = running(0.0)
    here.requests(100)
    assert here.predict(LONG_MS)[TOP] < 1.6 * LONG_MS
    here.machine.crowd = 2.0
    assert here.predict(LONG_MS)[MEDIAN] > LONG_MS + 10
    assert here.predict(SHORT_MS)[MEDIAN] == pytest.approx(SHORT_MS, rel=0.1)


def test_load_that_was_met_before_is_known_when_it_comes_back():
    here = running(1.0, turn_ms=6.0, slowdown=1.4)
    here.requests(200)
    busy_ms = here.predict(LONG_MS)[MEDIAN]
    here.machine.crowd, here.machine.slowdown = 0.0, 1.0
    here.requests(200)
    assert here.predict(LONG_MS)[MEDIAN] == pytest.approx(LONG_MS, rel=0.1)
    here.machine.crowd = 1.0
    assert here.predict(LONG_MS)[MEDIAN] == pytest.approx(busy_ms, rel=0.05)


def test_without_sensors_a_jump_is_only_learnt_from_requests():
    here = running(0.0, sees=False)
    here.requests(200)
    here.machine.crowd = 2.0
    before_ms = here.predict(LONG_MS)[TOP]
    here.requests(100)
    assert here.predict(LONG_MS)[TOP] > before_ms + 8


def ran(own_ms=1.0, wall_ms=1.0, cpu_ms=None, **changes):
    return Ran(Step(0, 1, 1.0), profiled(own_ms)[0], 0.0, cpu_ms, wall_ms, UNKNOWN, **changes)


def test_step_cut_off_early_says_nothing_of_how_long_it_takes():
    model = SliceModel()
    for _ in range(50):
        model.observe(ran())
    before_ms = model.finish_ms(profiled(1.0), 0.0, UNKNOWN).copy()
    for _ in range(20):
        model.observe(ran(wall_ms=0.3, cpu_ms=0.3, cut_off=True))
    assert model.finish_ms(profiled(1.0), 0.0, UNKNOWN)[0, MEDIAN] == pytest.approx(before_ms[0, MEDIAN], rel=0.02)


def test_step_cut_off_late_says_that_it_takes_at_least_so_long():
    model = SliceModel()
    for _ in range(50):
        model.observe(ran())
    for _ in range(20):
        model.observe(ran(wall_ms=2.0, cpu_ms=2.0, cut_off=True))
    assert model.finish_ms(profiled(1.0), 0.0, UNKNOWN)[0, MEDIAN] >= 1.95


def test_where_only_the_wall_clock_is_known_all_of_it_is_slowdown():
    model = SliceModel()
    for _ in range(50):
        model.observe(ran(wall_ms=5.0, cpu_ms=None))
    assert model.finish_ms(profiled(2.0), 0.0, UNKNOWN)[0, MEDIAN] == pytest.approx(10.0, rel=0.1)


def test_whole_path_is_not_learnt_twice():
    once, twice = SliceModel(), SliceModel()
    for _ in range(30):
        once.observe(ran(wall_ms=1.2, cpu_ms=1.2))
        twice.observe(ran(wall_ms=1.2, cpu_ms=1.2))
        twice.observe(ran(own_ms=3.0, wall_ms=30.0, cpu_ms=30.0, whole_path=True))
    assert np.array_equal(once.finish_ms(profiled(1.0), 0.0, UNKNOWN), twice.finish_ms(profiled(1.0), 0.0, UNKNOWN))


loads = st.builds(Load, others=st.none() | st.floats(0, 50), cores=st.none() | st.floats(0.1, 64))


@settings(max_examples=30)
@given(
    own_ms=st.lists(st.floats(0.01, 500), min_size=1, max_size=48),
    ran_ms=st.floats(0, 1000),
    load=loads,
    crowd=st.sampled_from([0.0, 1.0, 3.0]),
)
def test_quantiles_ascend_and_are_never_shorter_than_half_the_own_time(own_ms, ran_ms, load, crowd):
    here = running(crowd)
    here.requests(4)
    finish_ms = here.model.finish_ms(np.array(own_ms)[:, None], ran_ms, load)
    assert finish_ms.shape == (len(own_ms), len(here.model.levels))
    assert (np.diff(finish_ms, axis=1) >= 0).all()
    assert (finish_ms > np.array(own_ms)[:, None] / 2).all() and np.isfinite(finish_ms).all()


def test_same_history_gives_same_predictions():
    one, other = running(1.5), running(1.5)
    one.requests(50)
    other.requests(50)
    assert np.array_equal(one.predict(LONG_MS), other.predict(LONG_MS))


def test_steps_that_a_coarse_clock_gives_no_time_leave_a_model_that_goes_on():
    model, idle_ms = SliceModel(), np.array([[1.0]])
    for took_ms in [0.0] * 100 + [1.0] * 100:
        model.observe(Ran(Step(0, 1, 1.0), idle_ms[0], 0.0, took_ms, took_ms, UNKNOWN))
    assert model.finish_ms(idle_ms, 0.0, UNKNOWN)[0, MEDIAN] == pytest.approx(1.0, rel=0.2)


def test_others_are_shared_out_among_all_cores_of_the_machine_not_only_ours():
    """In a container with two of sixteen cores, four tasks of the host are no crowd."""
    ours = np.array([LONG_MS] * 7)[None]
    model = SliceModel(MEDIAN)
    quiet, in_container, crowded = (
        model.finish_ms(ours, 0.0, load)[0].tolist()
        for load in (
            Load(others=0.5, cores=2.0),
            Load(others=4.0, cores=2.0, machine_cores=16.0),
            Load(others=4.0, cores=2.0),
        )
    )
    assert in_container == quiet
    assert in_container != crowded
