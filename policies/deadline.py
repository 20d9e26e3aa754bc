"""The most accurate answer that the profile expects in time, looked at again at every exit."""

from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

from .exits import ExitRule, as_rule
from .situation import Situation, Step, Stop

Offer = tuple[Step, float, float]  # a step, when it would finish, how accurate it would be
_FINISH_MS: Final = 1
_ACCURACY: Final = 2


@dataclass(frozen=True, slots=True)
class Deadline:
    """Heads for the most accurate step whose finish quantile fits the slack, one exit at a time.

    Equal accuracies: the soonest. Before the first exit, when nothing fits: the step that finishes soonest. After it,
    only steps more accurate than the best answer in hand are worth going on for.

    `budget.min_accuracy` says what is good enough: the target is then the soonest fitting step that reaches it, and the
    request stops once an exit has. The deadline comes first: where no fitting step reaches it, it changes nothing.
    `budget.energy_mj` isn't looked at.

    Args:
        level: quantile of the finish time that must fit, one of the profile's levels; higher is more cautious.
        confidence: stop once this rule is satisfied; a number is the threshold of an `ExitRule`.
        margin_ms: kept free before the deadline, for what happens after the exit; >= 0.
    """

    level: float = 0.99
    confidence: float | ExitRule | None = None
    margin_ms: float = 0.0
    _rule: ExitRule | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level is {self.level}; give a quantile in (0, 1), such as 0.99")
        if not 0 <= self.margin_ms < float("inf"):
            raise ValueError(f"margin_ms is {self.margin_ms}; give milliseconds >= 0")
        object.__setattr__(self, "_rule", as_rule(self.confidence))

    def next(self, situation: Situation) -> Step | Stop:
        """The first leg towards the target: to the nearest exit on its path. Otherwise the reason to stop.

        Raises:
            ValueError: the situation has no quantiles at this policy's level.
        """
        if situation.evidence and not situation.steps:
            return Stop.FINAL
        if self._rule is not None and self._rule.is_sure(situation.evidence):
            return Stop.CONFIDENCE
        target = self.target(situation)
        return target if isinstance(target, Stop) else _first_leg(target, situation.steps)

    def target(self, situation: Situation) -> Step | Stop:
        """The step worth heading for, confidence aside: more slack never makes it a less accurate one.

        TARGET: nothing offered is expected to beat the best answer in hand, or that is good enough already.
        DEADLINE: something is, but nothing of it in time.
        """
        evidence = situation.evidence
        in_hand = max([exit.accuracy for exit in evidence]) if evidence else -1.0
        enough = situation.budget.min_accuracy if situation.budget.min_accuracy is not None else 1.0
        # lists, not arrays: where a request stands at an exit, few steps are left, and NumPy's calls would take longer
        offers = list(zip(situation.steps, self._finish_ms(situation), situation.accuracy.tolist(), strict=True))
        better = [offer for offer in offers if offer[_ACCURACY] > in_hand]
        if evidence and (in_hand >= enough or not better):
            return Stop.TARGET
        latest_ms = situation.slack_ms - self.margin_ms
        fitting = [offer for offer in better if offer[_FINISH_MS] <= latest_ms]
        if fitting:
            aim = min(enough, max([offer[_ACCURACY] for offer in fitting]))
            return _soonest([offer for offer in fitting if offer[_ACCURACY] >= aim])
        return Stop.DEADLINE if evidence else _soonest(offers)

    def _finish_ms(self, situation: Situation) -> list[float]:
        """(steps,) the column of this policy's level."""
        if self.level not in situation.levels:
            levels = ", ".join(map(str, situation.levels))
            raise ValueError(f"level {self.level} isn't in the profile; choose one of {levels}")
        finish_ms: list[float] = situation.finish_ms[:, situation.levels.index(self.level)].tolist()
        return finish_ms


def _soonest(offers: list[Offer]) -> Step:
    return min(offers, key=itemgetter(_FINISH_MS))[0]


def _first_leg(target: Step, steps: tuple[Step, ...]) -> Step:
    """The nearest exit on the way to the target."""
    leg = target
    for step in steps:
        nearer = step.depth < leg.depth and step.first == target.first
        if nearer and step.width == target.width and step.precision == target.precision:
            leg = step
    return leg
