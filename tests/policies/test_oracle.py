import pytest
from stretto.policies.oracle import Oracle
from stretto.policies.situation import Step, Stop

from .situations import offered_after, seen, situation

STEPS = (Step(0, 1, 0.25), Step(0, 2, 0.25), Step(0, 1, 1.0), Step(0, 2, 1.0))
TRUE_MS = dict(zip(STEPS, [5.0, 9.0, 1.0, 3.0], strict=True))


@pytest.mark.parametrize("slack_ms, target", [(0.5, STEPS[2]), (3.0, STEPS[3]), (8.9, STEPS[3]), (9.0, STEPS[1])])
def test_true_times_decide_not_the_predicted(slack_ms, target):
    predicted_ms, accuracy = [10.0, 20.0, 100.0, 200.0], [0.6, 0.95, 0.8, 0.9]
    chosen = Oracle(finish_ms=TRUE_MS).next(situation(STEPS, predicted_ms, accuracy, slack_ms))
    assert chosen == target


def test_after_an_exit_it_stops_when_nothing_better_will_be_in_time():
    now = situation(offered_after(3, 0.5), [1.0], [0.9], 2.0, (seen(3, 0.5, 0.8),))
    assert Oracle(finish_ms={Step(4, 4, 0.5): 2.1}).next(now) is Stop.DEADLINE
    assert Oracle(finish_ms={Step(4, 4, 0.5): 2.0}).next(now) == Step(4, 4, 0.5)


def test_step_whose_time_it_was_not_told_is_named():
    with pytest.raises(ValueError, match=r"wasn't told how long Step\(first=0, depth=1, width=0\.25.* takes"):
        Oracle(finish_ms={}).next(situation(STEPS, [1.0] * 4, [0.5] * 4, 10.0))
