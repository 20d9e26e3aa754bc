import numpy as np
import pytest
from stretto.bench.foresight import (
    LONG,
    PATHS,
    STEPS,
    TUNED,
    Foretold,
    evaluate,
    in_hindsight,
    mean_loss,
    pinball,
    replay,
    share_under,
)
from stretto.bench.recordings import Recording
from stretto.policies.profile_model import ProfileModel
from stretto.policies.scalar import ScalarFilter
from stretto.policies.situation import Step

from .test_recordings import made_up

IDLE_MS = {Step(0, 1, 1.0): (1.0, 1.2), Step(2, 2, 1.0): (2.0, 2.4), Step(0, 2, 1.0): (3.0, 3.6)}
FIRST = Step(0, 1, 1.0)


class Diary:
    """A model that predicts the profile and notes what it was asked and told, in turn."""

    levels = (0.5, 0.99)
    looks_at_load = False

    def __init__(self):
        self.turns = []

    def finish_ms(self, idle_ms, ran_ms, load, legs):
        self.turns.append(("asked", float(idle_ms[0, 0]), ran_ms, legs.tolist()))
        return idle_ms

    def observe(self, ran):
        self.turns.append(("told", ran.step, ran.whole_path))

    def study(self):
        self.turns.append("studied")


def foretold(predicted_ms, took_ms, phase="idle", step=FIRST):
    return Foretold(phase, step, False, False, predicted_ms, took_ms)


def test_model_is_asked_before_it_is_told_and_hears_of_every_path_after_its_steps():
    model = Diary()
    told = replay(Recording((made_up(),)), model, IDLE_MS)
    assert model.turns == [
        ("asked", 3.0, 0.0, [2]),
        ("asked", 1.0, 0.0, [1]),
        ("told", Step(0, 1, 1.0), False),
        "studied",
        ("asked", 2.0, 1.0, [1]),
        ("told", Step(2, 2, 1.0), False),
        "studied",
        ("told", Step(0, 2, 1.0), True),
        "studied",
    ]
    assert [each.whole for each in told] == [False, False, True]
    assert [each.predicted_ms for each in told] == pytest.approx([1.2, 2.4, 3.6])
    assert [each.took_ms for each in told] == [1.0, 6.0, 7.0]


def test_path_of_a_single_step_is_told_once():
    model = Diary()
    told = replay(Recording((made_up(times_ms=((1.0, 1.0),)),)), model, IDLE_MS)
    assert [turn for turn in model.turns if turn[0] == "told"] == [("told", FIRST, False)]
    assert [each.whole for each in told] == [True]


def test_pinball_loss_is_least_at_the_quantile():
    took_ms = np.arange(1.0, 101.0)
    losses = [pinball(np.full(100, guess), took_ms, 0.9).mean() for guess in (80.0, 90.5, 99.0)]
    assert losses[1] == min(losses)
    assert pinball(np.array([1.0, 3.0]), np.array([2.0, 2.0])) == pytest.approx([0.99, 0.01])


def test_hindsight_has_a_constant_for_each_step_and_phase():
    told = [foretold(9.0, float(at)) for at in range(100)] + [foretold(9.0, 500.0, "busy")]
    best = in_hindsight(told)
    assert {each.predicted_ms for each in best if each.phase == "idle"} == {99.0}
    assert best[-1].predicted_ms == 500.0
    assert mean_loss(best) < mean_loss(told)


def test_share_under_counts_what_took_at_most_as_long_as_predicted():
    assert share_under([foretold(2.0, 2.0), foretold(2.0, 2.1), foretold(2.0, 1.0), foretold(2.0, 9.0)]) == 0.5


def test_evaluation_has_every_model_and_kind_and_the_tuned_scalar_as_measure():
    paths = tuple(made_up(times_ms=((1.0, 1.0 + at % 3), (2.0, 2.0))) for at in range(40))
    models = {"profile": lambda: ProfileModel((0.5, 0.99)), "scalar": ScalarFilter}
    report = evaluate(Recording(paths), models, IDLE_MS, skip=30)
    assert set(report) == {"profile", "scalar", TUNED}
    assert report["profile"][STEPS]["count"] + report["profile"][PATHS]["count"] == 3 * 40 - 30
    assert report[TUNED][PATHS]["over_scalar"] == 1.0
    assert report["scalar"][PATHS]["over_scalar"] >= 1.0
    assert report["profile"][LONG]["count"] == 0
