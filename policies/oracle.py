"""What a policy could do that knew every step's time in advance: a bound for benches."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .deadline import check_margin
from .exits import ExitRule, as_rule
from .situation import Situation, Step, Stop
from .targets import most_accurate, way_to


@dataclass(frozen=True, slots=True)
class Oracle:
    """Heads for the most accurate step that will really finish in time, one exit at a time.

    It knows times, not which answers are right. Equal accuracies, no step that fits, and `budget.min_accuracy`: as in
    `Deadline`. The quantiles in the situation aren't looked at.

    Args:
        finish_ms: what each step of this very request will take, from where it starts to its exit.
        confidence: stop once this rule is satisfied; a number is the threshold of an `ExitRule`.
        margin_ms: kept free before the deadline, for what happens after the exit; >= 0.
    """

    finish_ms: Mapping[Step, float]
    confidence: float | ExitRule | None = None
    margin_ms: float = 0.0
    _rule: ExitRule | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_margin(self.margin_ms)
        object.__setattr__(self, "_rule", as_rule(self.confidence))

    def next(self, situation: Situation) -> Step | Stop:
        """The first leg towards the target: to the nearest exit on its path. Otherwise the reason to stop.

        Raises:
            ValueError: a step is offered whose time it wasn't told.
        """
        if situation.evidence and not situation.steps:
            return Stop.FINAL
        if self._rule is not None and self._rule.is_sure(situation.evidence):
            return Stop.CONFIDENCE
        finish_ms = [self._true_ms(step) for step in situation.steps]
        target = most_accurate(situation, finish_ms, situation.slack_ms - self.margin_ms)
        return target if isinstance(target, Stop) else way_to(target, situation, self._rule)

    def _true_ms(self, step: Step) -> float:
        if step not in self.finish_ms:
            raise ValueError(f"the oracle wasn't told how long {step} takes; give finish_ms for every step offered")
        return self.finish_ms[step]
