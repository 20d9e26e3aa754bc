"""What policies share once they know what could finish when: choosing a target, the way to it, quantiles in between."""

from bisect import bisect_right
from collections.abc import Sequence
from math import inf, log
from operator import itemgetter
from typing import Final

from .exits import Rule, looks_at
from .situation import Situation, Step, Stop

Offer = tuple[Step, float, float]  # a step, when it would finish, how accurate it would be
_FINISH_MS: Final = 1
_ACCURACY: Final = 2
_GAP: Final = 0.05  # between the quantiles that say how it goes on is at least this share of the highest
_TIMES_LEFT: Final = 4.0  # as much as at the highest is left at the one that it is compared with, about


def most_accurate(situation: Situation, finish_ms: Sequence[float], latest_ms: float) -> Step | Stop:
    """The most accurate step that finishes by `latest_ms`, the soonest of equals; more time never gives a worse one.

    Before the first exit, when nothing fits: the step that finishes soonest. After it, only steps more accurate than
    the best answer in hand are worth going on for. `budget.min_accuracy` is enough: the soonest fitting step that
    reaches it, and TARGET once an exit has; where no fitting step reaches it, it changes nothing.

    TARGET: nothing offered is expected to beat the best answer in hand, or that is good enough already.
    DEADLINE: something is, but nothing of it in time.

    Args:
        finish_ms: (steps,) when each step's exit is taken to be reached, from now.
    """
    evidence = situation.evidence
    in_hand = accuracy_in_hand(situation)
    enough = situation.budget.min_accuracy if situation.budget.min_accuracy is not None else 1.0
    # lists, not arrays: where a request stands at an exit, few steps are left, and NumPy's calls would take longer
    offers = list(zip(situation.steps, finish_ms, situation.accuracy.tolist(), strict=True))
    better = [offer for offer in offers if offer[_ACCURACY] > in_hand]
    if evidence and (in_hand >= enough or not better):
        return Stop.TARGET
    fitting = [offer for offer in better if offer[_FINISH_MS] <= latest_ms]
    if fitting:
        aim = min(enough, max([offer[_ACCURACY] for offer in fitting]))
        return _soonest([offer for offer in fitting if offer[_ACCURACY] >= aim])
    return Stop.DEADLINE if evidence else _soonest(offers)


def accuracy_in_hand(situation: Situation) -> float:
    """Of the best answer so far; -1, below any, before the first exit."""
    return max([exit.accuracy for exit in situation.evidence]) if situation.evidence else -1.0


def way_to(target: Step, steps: Sequence[Step], rule: Rule | None) -> Step:
    """The step to run for this target: to the nearest exit on the way that a `rule` looks at, or all in one go.

    Whoever runs it looks at the clock at every exit on the way, and asks again where the rest may be late.
    """
    if rule is None:
        return target
    leg = target
    for step in steps:
        nearer = step.depth < leg.depth and step.first == target.first
        is_on_way = nearer and step.width == target.width and step.precision == target.precision
        if is_on_way and looks_at(rule, step.point):
            leg = step
    return leg


def walk(target: Step, rule: Rule | None) -> tuple[Step, ...]:
    """All steps of the way to a target, each as `way_to` gives it, if no exit on it is sure."""
    steps: list[Step] = []
    first = target.first
    for depth in range(max(first, 1), target.depth + 1):
        step = target._replace(first=first, depth=depth)
        if depth == target.depth or (rule is not None and looks_at(rule, step.point)):
            steps.append(step)
            first = depth + 1
    return tuple(steps)


def chance_by(slack_ms: float, finish_ms: Sequence[float], levels: Sequence[float]) -> float:
    """Probability that a time with these quantiles is at most `slack_ms`: linear between them, cautious beyond.

    Below the lowest quantile it falls in proportion to the time. Above the highest, as much of the rest is done in the
    time between the highest and the one where a few times as much was left as there, and where these (nearly) coincide,
    as those of few samples do, in 5 % of it.

    Args:
        finish_ms: (levels,) quantiles, > 0, that don't fall.
        levels: (levels,) of these quantiles, ascending, in (0, 1).
    """
    if slack_ms <= 0:
        return 0.0
    above = bisect_right(finish_ms, slack_ms)
    if above == 0:
        return levels[0] * slack_ms / finish_ms[0]
    if above < len(levels):
        low, high = finish_ms[above - 1], finish_ms[above]
        share = (slack_ms - low) / (high - low)
        return levels[above - 1] + share * (levels[above] - levels[above - 1])
    if slack_ms == inf:
        return 1.0
    gap_ms, left = _tail(finish_ms, levels)
    return 1 - (1 - levels[-1]) * left ** ((slack_ms - finish_ms[-1]) / gap_ms)


def quantile(level: float, finish_ms: Sequence[float], levels: Sequence[float]) -> float:
    """The inverse of `chance_by`: the time by which it is done with probability `level`, in (0, 1)."""
    above = bisect_right(levels, level)
    if above == 0:
        return finish_ms[0] * level / levels[0]
    if above < len(levels):
        share = (level - levels[above - 1]) / (levels[above] - levels[above - 1])
        return finish_ms[above - 1] + share * (finish_ms[above] - finish_ms[above - 1])
    if level == levels[-1]:
        return finish_ms[-1]
    gap_ms, left = _tail(finish_ms, levels)
    return finish_ms[-1] + gap_ms * log((1 - level) / (1 - levels[-1])) / log(left)


def _tail(finish_ms: Sequence[float], levels: Sequence[float]) -> tuple[float, float]:
    """From the highest quantile on, every so many milliseconds this share is left of what was to come."""
    left = 1 - levels[-1]
    lower = bisect_right(levels, 1 - _TIMES_LEFT * left + 1e-9) - 1
    before_ms, before = (finish_ms[lower], levels[lower]) if lower >= 0 else (0.0, 0.0)
    return max(finish_ms[-1] - before_ms, _GAP * finish_ms[-1]), left / (1 - before)


def _soonest(offers: list[Offer]) -> Step:
    return min(offers, key=itemgetter(_FINISH_MS))[0]
