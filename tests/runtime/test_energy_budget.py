"""Energy in a session: what answers say that they took, and budgets that limit it."""

import math
from dataclasses import replace

import numpy as np
import pytest
from stretto.policies.alert import Alert
from stretto.policies.conformal import Conformal
from stretto.policies.deadline import Deadline
from stretto.policies.fixed import Fixed
from stretto.policies.situation import Budget, OperatingPoint, Stop
from stretto.runtime.bundle import Bundle
from stretto.runtime.engines import make_engine
from stretto.runtime.engines.cut import CutOff
from stretto.runtime.session import Session

from .fakes import Faulty, Recorder, set_profile
from .toy import toy_bundle

DEPTHS = 3
STAGE_MS, WATTS = 1e6, 2e-6  # a stage of full width takes 2 mJ; real ones take microseconds
WHOLE = OperatingPoint(1.0, DEPTHS)
# 0.3 + 0.3 × width + 0.1 × depth is how accurate a point is, 2 × width × depth what it takes in mJ


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_bundle(tmp_path_factory.mktemp("energy") / "toy.stretto", depths=DEPTHS, temperature=2.0)


@pytest.fixture(scope="module")
def bundle(toy):
    return Bundle.open(toy.path)


@pytest.fixture(scope="module")
def profile(bundle):
    return set_profile(bundle, STAGE_MS, watts=WATTS)


@pytest.fixture
def opened(bundle, profile):
    """Opens sessions, by default on the real engine."""
    sessions = []

    def opened(policy, engine=None, profile=profile):
        sessions.append(Session(bundle, engine or make_engine("onnx", bundle), policy, profile, exit_by_exit=True))
        return sessions[-1]

    yield opened
    for session in sessions:
        session.close()


def stepwise():
    """ALERT that looks at every exit: nothing is ever as sure as that."""
    return Alert(confidence=1.0)


@pytest.mark.parametrize("policy", [Fixed(OperatingPoint(0.5, 2)), Fixed(OperatingPoint(0.5, 2), confidence=1.0)])
def test_answer_says_what_its_steps_take_by_the_profile(toy, opened, policy):
    answer = opened(policy).infer(toy.samples(1)[0])
    assert answer.energy_mj == pytest.approx(2.0)
    assert type(answer.energy_mj) is float


def test_refined_answers_have_taken_more_each_time(toy, opened):
    answers = list(opened(Deadline()).refine(toy.samples(1)[0]))
    assert [answer.energy_mj for answer in answers] == pytest.approx([2.0, 4.0, 6.0])


def test_ticket_says_what_was_taken(toy, opened):
    assert opened(Deadline()).submit(toy.samples(1)[0]).result().energy_mj == pytest.approx(6.0)


def test_session_says_where_its_power_is_from(opened, profile):
    assert (opened(Deadline()).profile.power.watts, profile.power.source) == (WATTS, "a guess")


@pytest.mark.parametrize(
    "limit_mj, point",
    [(6.01, (1.0, 3)), (5.99, (1.0, 2)), (3.99, (0.5, 3)), (2.99, (1.0, 1)), (1.99, (0.5, 1)), (math.inf, (1.0, 3))],
)
@pytest.mark.parametrize("policy", [Alert(), stepwise()], ids=["in one go", "exit by exit"])
def test_most_accurate_point_within_the_energy_is_taken(toy, opened, policy, limit_mj, point):
    answer = opened(policy).infer(toy.samples(1)[0], budget=Budget(energy_mj=limit_mj))
    assert answer.point == OperatingPoint(*point)
    assert answer.energy_mj == pytest.approx(2 * point[0] * point[1])
    assert answer.stopped_by is (Stop.FINAL if answer.point.depth == DEPTHS else Stop.ENERGY)


def test_what_was_spent_is_no_longer_left(toy, opened):
    # after exit 1, which takes 2 mJ, the final exit would take 4 more: within 5, but not within the 3 that are left
    answers = list(opened(stepwise()).refine(toy.samples(1)[0], budget=Budget(energy_mj=5.0)))
    assert [(answer.point.depth, answer.energy_mj) for answer in answers] == [(1, 2.0), (2, 4.0)]
    assert answers[-1].stopped_by is Stop.ENERGY


def test_less_energy_than_any_exit_takes_gives_the_cheapest_answer(toy, opened):
    answer = opened(Alert()).infer(toy.samples(1)[0], budget=Budget(energy_mj=0.01))
    assert (answer.point, answer.energy_mj) == (OperatingPoint(0.5, 1), pytest.approx(1.0))
    assert answer.stopped_by is Stop.ENERGY


@pytest.fixture
def uneven(profile):
    """Full width takes less than half width in the median, and far more at the higher levels."""

    def quantiles(step, usual):
        return tuple((np.array([0.4, 5.0, 9.0]) * usual).tolist()) if step.width == 1.0 else usual

    times = {
        (step, batch): {pacing: quantiles(step, usual) for pacing, usual in pacings.items()}
        for (step, batch), pacings in profile.times.items()
    }
    return replace(profile, times=times)


@pytest.mark.parametrize(
    "budget, point, energy_mj",
    [
        (Budget(min_accuracy=0.74), (1.0, 2), 1.6),
        (Budget(2.0 * STAGE_MS, min_accuracy=0.74), (0.5, 3), 3.0),  # by then, full width may well be late
        (Budget(min_accuracy=0.74, energy_mj=1.0), (1.0, 2), 1.6),  # the energy gives way
        (Budget(min_accuracy=0.74, energy_mj=2.9), (1.0, 2), 1.6),
    ],
)
@pytest.mark.parametrize("policy", [Alert(), stepwise()], ids=["in one go", "exit by exit"])
def test_least_energy_that_reaches_the_accuracy_by_the_deadline_is_taken(
    toy, opened, uneven, policy, budget, point, energy_mj
):
    answer = opened(policy, profile=uneven).infer(toy.samples(1)[0], budget=budget)
    assert (answer.point, answer.energy_mj) == (OperatingPoint(*point), pytest.approx(energy_mj))
    assert answer.stopped_by is (Stop.FINAL if answer.point.depth == DEPTHS else Stop.TARGET)


def test_each_sample_of_a_batch_has_its_share(toy, bundle, opened):
    profile = set_profile(bundle, STAGE_MS, batches=(1, 4), watts=WATTS)
    answers = opened(Alert(), profile=profile).infer(toy.samples(4), budget=Budget(energy_mj=4.01))
    assert [answer.energy_mj for answer in answers] == pytest.approx([4.0] * 4)
    assert {answer.point for answer in answers} == {OperatingPoint(1.0, 2)}


def test_samples_that_leave_a_batch_early_have_taken_less(toy, opened):
    x = toy.samples(40) + 4 * np.random.default_rng(1).standard_normal((40, 3, 1, 1), np.float32)
    answers = opened(Deadline(confidence=0.6)).infer(x)
    assert len({answer.exits for answer in answers}) == DEPTHS
    assert [answer.energy_mj for answer in answers] == pytest.approx([2.0 * answer.exits[-1] for answer in answers])


@pytest.mark.parametrize("samples", [1, 3])
def test_step_that_was_cut_off_has_taken_its_energy(toy, bundle, opened, samples):
    class CutAtTwo(Recorder):
        def run(self, step, x, cut=None):
            if step.depth == 2 and cut is not None:
                raise CutOff
            return super().run(step, x, cut)

    session = opened(Deadline(), CutAtTwo(make_engine("onnx", bundle)))
    for answer in session.infer(toy.samples(samples), deadline=1e12):
        assert (answer.exits, answer.stopped_by) == ((1,), Stop.DEADLINE)
        assert answer.energy_mj == pytest.approx(4.0)


@pytest.mark.parametrize("policy", [Alert(), stepwise()], ids=["in one go", "exit by exit"])
def test_what_is_taken_stays_within_the_limit_though_quantiles_of_steps_do_not_add_up(toy, opened, profile, policy):
    times = {
        (step, batch): {pacing: tuple(ms + 0.1 * STAGE_MS for ms in usual) for pacing, usual in pacings.items()}
        for (step, batch), pacings in profile.times.items()  # each step's time has the making of the answer in it
    }
    session = opened(policy, profile=replace(profile, times=times))
    for point in session.points:
        limit_mj = session.profile.energy_mj(point)
        answer = session.infer(toy.samples(1)[0], budget=Budget(energy_mj=limit_mj))
        assert 0 < answer.energy_mj <= limit_mj


@pytest.mark.parametrize("samples", [1, 3])
def test_what_was_run_before_starting_again_counts(toy, bundle, opened, samples):
    engine = Faulty(make_engine("onnx", bundle), lambda step: False)
    session = opened(Deadline(), engine)
    engine.fails = lambda step: step.width == 1.0 and step.depth > 1
    for answer in session.infer(toy.samples(samples)):
        assert answer.point == OperatingPoint(0.5, 3)  # 75 %, exit 1 at full width has 70
        tried = 2.0 + 2.0 + 4.0  # to exit 1, and twice on from there in vain: to exit 2, then past it to exit 3
        assert answer.energy_mj == pytest.approx(tried + 3.0)


class Curious:
    """Goes to the final exit one by one and notes what it sees of energy."""

    def __init__(self, **says):
        self.seen = []
        self.__dict__ |= says

    def next(self, situation):
        self.seen.append((situation.energy_mj, situation.spent_mj))
        return situation.steps[0] if situation.steps else Stop.FINAL


def test_policy_that_looks_at_energy_is_told_what_lies_ahead_and_behind(toy, opened):
    policy = Curious(looks_at_energy=True)
    session = opened(policy)
    policy.seen.clear()
    session.infer(toy.samples(1)[0])
    energies, spent = zip(*policy.seen, strict=True)
    assert spent == pytest.approx([0.0, 1.0, 2.0])
    assert energies[0] == pytest.approx([1.0, 2.0, 3.0, 2.0, 4.0, 6.0])
    assert energies[1] == pytest.approx([1.0, 2.0])


def test_energies_are_made_once_for_all_requests(toy, opened):
    policy = Curious(looks_at_energy=True)
    session = opened(policy)
    for budget_ms in (1e9, 2e9):  # another one, or else the first decision would be the last request's
        session.infer(toy.samples(1)[0], budget_ms)
    assert policy.seen[-1][0] is policy.seen[-4][0]


def test_policy_that_does_not_look_at_energy_is_told_none(toy, opened):
    policy = Curious()
    opened(policy).infer(toy.samples(1)[0])
    assert {energy for energy, _ in policy.seen} == {None}


@pytest.mark.parametrize("policy", [Deadline(), Conformal(), Fixed(WHOLE), Curious()])
def test_budget_of_energy_is_refused_where_the_policy_does_not_look_at_it(toy, opened, policy):
    message = rf"energy_mj is 5, but policy .*{type(policy).__name__}.* doesn't look at energy; .* that does: alert$"
    with pytest.raises(ValueError, match=message):
        opened(policy).infer(toy.samples(1)[0], budget=Budget(energy_mj=5))


@pytest.mark.parametrize(
    "energy_mj, error", [(0, ValueError), (-1.0, ValueError), (math.nan, ValueError), ("5", TypeError)]
)
def test_budget_of_no_energy_is_refused(toy, opened, energy_mj, error):
    with pytest.raises(error, match=rf"budget\.energy_mj is '?{energy_mj}'?[,;] "):
        opened(Alert()).infer(toy.samples(1)[0], budget=Budget(energy_mj=energy_mj))
