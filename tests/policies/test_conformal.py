import pytest
from hypothesis import given
from stretto.policies.conformal import Conformal
from stretto.policies.deadline import Deadline
from stretto.policies.situation import Situation, Step, Stop

from .situations import offered_after, seen, situation, situations

STEPS = (Step(0, 1, 0.25), Step(0, 1, 1.0))


@given(now=situations())
def test_at_one_of_the_levels_it_is_the_deadline_policy(now: Situation):
    if now.slack_ms != float("inf"):
        assert Conformal(rate=0.9).next(now) == Deadline(level=0.9).next(now)


@pytest.mark.parametrize("rate, width", [(0.5, 1.0), (0.69, 1.0), (0.71, 0.25), (0.99, 0.25)])
def test_rate_between_levels_is_interpolated(rate, width):
    now = situation(STEPS, [1.0, 4.0], [0.5, 0.9], slack_ms=5.0)  # wide: 4 ms at 0.5, 6 ms at 0.9
    assert Conformal(rate=rate).next(now).width == width


@pytest.mark.parametrize("rate", [0.995, 0.9999])
def test_rate_above_the_levels_asks_for_more_than_the_highest(rate):
    now = situation(STEPS, [1.0, 4.0], [0.5, 0.9], slack_ms=8.0)  # wide: 8 ms at 0.99
    assert Conformal(rate=0.99).next(now) == STEPS[1]
    assert Conformal(rate=rate).next(now) == STEPS[0]


def test_after_an_exit_it_stops_when_nothing_better_is_in_time():
    now = situation(offered_after(3, 0.5), [1.0], [0.9], 1.9, (seen(3, 0.5, 0.8),))
    assert Conformal().next(now) is Stop.DEADLINE
    assert Conformal(rate=0.9).next(now) == Step(4, 4, 0.5)
    assert Conformal(confidence=0.6).next(now) is Stop.CONFIDENCE


@pytest.mark.parametrize("rate", [0, 1, -0.5, float("nan")])
def test_rate_out_of_range_is_refused(rate):
    with pytest.raises(ValueError, match=r"give the share of deadlines to keep, in \(0, 1\)"):
        Conformal(rate=rate)
