import random

import numpy as np
import pytest
from stretto.policies.handoffs import Presence, single_waits, sums_of
from stretto.policies.latency import Ran
from stretto.policies.load import UNKNOWN
from stretto.policies.situation import Step
from stretto.policies.slices import SliceModel

from .scheduler import Machine, Runtime, profiled, share_in_time

MEDIAN, TOP = 2, 6  # places among the model's levels
STEPS_MS = [0.3, 0.5, 0.4, 0.6]


def running(**machine):
    return Runtime(SliceModel(), Machine(**machine), list(STEPS_MS))


def paths_of(told):
    return [request[-1] for request in told]


@pytest.mark.parametrize("wait_ms", [0.16, 5.0])
@pytest.mark.parametrize("crowd", [0.0, 1.0])
def test_waits_for_another_thread_are_foreseen_after_two_of_them(wait_ms, crowd):
    here = running(crowd=crowd)
    here.requests(100)
    here.machine.wait_ms = wait_ms
    here.request()
    assert 0.3 + 0.9 * wait_ms < here.predict(0.3)[MEDIAN] < 0.5 + 1.3 * wait_ms
    assert 1.8 + 3 * wait_ms < here.predict(1.8, legs=4)[MEDIAN] < 2.4 + 4.5 * wait_ms


@pytest.mark.parametrize("wait_ms", [0.16, 5.0])
def test_phase_of_waits_leaves_no_trace_in_what_is_foretold_without_them(wait_ms):
    here = running()
    here.requests(300)
    usual_ms = here.predict(0.5), here.predict(1.8, legs=4)
    here.machine.wait_ms = wait_ms
    here.requests(300)
    here.machine.wait_ms = 0.0
    here.requests(2)
    assert here.predict(0.5) == pytest.approx(usual_ms[0], rel=0.1)
    assert here.predict(1.8, legs=4) == pytest.approx(usual_ms[1], rel=0.1)


@pytest.mark.parametrize("wait_ms", [0.16, 5.0])
def test_under_waits_the_highest_level_is_kept_at_its_rate(wait_ms):
    here = running(wait_ms=wait_ms)
    here.requests(100)
    told = here.requests(600)
    assert 0.98 <= share_in_time([ran for request in told for ran in request[:-1]]) <= 0.999
    assert 0.975 <= share_in_time(paths_of(told)) <= 1.0


def test_waits_that_are_told_for_several_graphs_at_once_are_foretold_as_well():
    here = running(wait_ms=1.0)
    missed, step, own_ms = [], Step(0, 4, 1.0), sum(STEPS_MS)
    for _ in range(700):
        predicted_ms = here.predict(own_ms, legs=4)
        times = here.machine.request(STEPS_MS)
        cpu_ms, wall_ms = sum(cpu_ms for _, cpu_ms, _ in times), sum(wall_ms for *_, wall_ms in times)
        missed.append(wall_ms > predicted_ms[TOP])
        ran = Ran(step, profiled(own_ms)[0], 0.0, cpu_ms, wall_ms, here.load, predicted_ms=predicted_ms, graphs=4)
        here.tell(ran)
    assert np.mean(missed[100:]) <= 0.02
    assert here.predict(own_ms, legs=4)[TOP] < 1.9 + 4 * 1.1 + 1.5  # that is, what it can take at most, and little more
    assert 0.4 + 0.7 < here.predict(0.4)[MEDIAN] < 0.4 + 1.3


def test_turns_of_others_in_long_requests_are_no_handoffs():
    """Not even where nobody knows of the others, and each request loses turns late, one after the other."""
    here = Runtime(SliceModel(), Machine(crowd=1.0), [0.6, 1.5, 1.0, 2.0, 3.0], sees=False)
    here.requests(200)
    assert here.predict(0.6)[TOP] < 1.2


def test_short_step_of_an_idle_machine_that_was_held_up_once_is_learnt_as_a_turn():
    here = running()
    here.requests(50)
    short = Ran(Step(0, 1, 1.0), profiled(0.3)[0], 0.0, 0.3, 4.3, here.load)
    here.tell(short)
    assert here.predict(0.3)[MEDIAN] < 0.4
    here.tell(short._replace(wall_ms=0.3))
    here.tell(short._replace(wall_ms=0.3))
    here.tell(short)  # another one, after two steps without
    assert here.predict(0.3)[MEDIAN] < 0.4


def odds_after(*steps, legs=1):
    """Whether handoffs are seen after steps that lost something or not, where a loss in 100 was to be expected."""
    presence = Presence()
    for was_stolen in steps:
        presence.note(was_stolen, 0.01, legs)
    return presence.now


def test_one_loss_is_chance_and_a_second_a_handoff():
    assert not odds_after(True)
    assert odds_after(True, True)
    assert not odds_after(True, False, False, True)


def test_handoffs_end_after_a_few_steps_without():
    assert odds_after(*[True] * 50, False, False, False)
    assert not odds_after(*[True] * 50, *[False] * 4)
    assert not odds_after(*[True] * 50, False, False, legs=4)


def test_steps_that_turns_are_expected_in_bring_no_handoffs():
    presence = Presence()
    for _ in range(100):
        presence.note(True, 0.5, 1)
    assert presence == Presence()


def test_steps_that_turns_are_expected_in_end_handoffs_where_nothing_was_stolen_from_them():
    presence = Presence(5.0)
    for was_stolen in [False, True, False, False] * 3:
        presence.note(was_stolen, 0.5, 1)
    assert not presence.now


def test_handoffs_stay_while_long_steps_are_mostly_held_up():
    presence = Presence(5.0)
    for was_stolen in [True, True, True, True, True, False] * 20:
        presence.note(was_stolen, 0.5, 1)
        assert presence.now


@pytest.mark.parametrize("graphs", [1, 2, 5])
def test_sums_have_the_quantiles_of_independent_waits(graphs):
    rng = random.Random(1)
    waits_ms = np.array([rng.choice([0.0, 5.1, 5.1, 5.2, 10.3]) for _ in range(3000)])
    levels = np.array([0.25, 0.5, 0.9, 0.99])
    drawn = np.random.default_rng(2).choice(waits_ms, (20_000, graphs)).sum(axis=1)
    assert sums_of(waits_ms, levels)[graphs] == pytest.approx(np.quantile(drawn, levels), abs=1.3)


def test_rare_waits_of_many_times_the_usual_one_are_in_the_tail_and_nowhere_else():
    waits_ms = np.array([0.16] * 285 + [5.0] * 15)
    single, four = sums_of(waits_ms, np.array([0.5, 0.9, 0.99]))[[1, 4]]
    assert single == pytest.approx([0.16, 0.16, 5.0], abs=0.01)
    assert four[0] == pytest.approx(0.64, abs=0.01) and 5.0 < four[1] < 6.0 and 9.0 < four[2] < 11.0


def test_no_graph_waits_for_nothing():
    assert not sums_of(np.full(100, 5.0), np.array([0.5, 0.99]))[0].any()


def test_waits_of_several_graphs_at_once_have_the_spread_of_single_ones():
    waits_ms = np.random.default_rng(3).normal(5.0, 1.0, (2000, 4))
    sums = np.stack([waits_ms.sum(axis=1), np.full(2000, 4.0)], axis=1)
    single_ms = single_waits(sums)
    assert single_ms.mean() == pytest.approx(5.0, rel=0.02) and single_ms.std() == pytest.approx(1.0, rel=0.05)


def test_where_only_the_wall_clock_is_known_there_are_no_handoffs():
    model = SliceModel()
    for _ in range(50):
        model.observe(Ran(Step(0, 1, 1.0), profiled(0.5)[0], 0.0, None, 5.5, UNKNOWN))
    one, four = (model.finish_ms(profiled(0.5), 0.0, UNKNOWN, np.array([legs])) for legs in (1, 4))
    assert np.array_equal(one, four)
