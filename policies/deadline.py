"""The most accurate answer that the profile expects in time, looked at again at every exit."""

from dataclasses import dataclass, field

from .exits import ExitRule, as_rule
from .situation import Situation, Step, Stop
from .targets import most_accurate, way_to


@dataclass(frozen=True, slots=True)
class Deadline:
    """Heads for the most accurate step whose finish quantile fits the slack, one exit at a time unless time is ample.

    Equal accuracies: the soonest. Before the first exit, when nothing fits: the step that finishes soonest. After it,
    only steps more accurate than the best answer in hand are worth going on for.

    `budget.min_accuracy` says what is good enough: the target is then the soonest fitting step that reaches it, and the
    request stops once an exit has. The deadline comes first: where no fitting step reaches it, it changes nothing.
    `budget.energy_mj` isn't looked at.

    Args:
        level: quantile of the finish time that must fit, one that is predicted; higher is more cautious.
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
        check_margin(self.margin_ms)
        object.__setattr__(self, "_rule", as_rule(self.confidence))

    def next(self, situation: Situation) -> Step | Stop:
        """The first leg towards the target, or all of it where there is ample time. Otherwise the reason to stop.

        Raises:
            ValueError: the situation has no quantiles at this policy's level.
        """
        if situation.evidence and not situation.steps:
            return Stop.FINAL
        if self._rule is not None and self._rule.is_sure(situation.evidence):
            return Stop.CONFIDENCE
        target = self.target(situation)
        return target if isinstance(target, Stop) else way_to(target, situation, self._rule)

    def target(self, situation: Situation) -> Step | Stop:
        """The step worth heading for, confidence aside: more slack never makes it a less accurate one.

        TARGET: nothing offered is expected to beat the best answer in hand, or that is good enough already.
        DEADLINE: something is, but nothing of it in time.
        """
        return most_accurate(situation, self._finish_ms(situation), situation.slack_ms - self.margin_ms)

    def _finish_ms(self, situation: Situation) -> list[float]:
        """(steps,) the column of this policy's level."""
        if self.level not in situation.levels:
            levels = ", ".join(map(str, situation.levels))
            raise ValueError(f"level {self.level} isn't predicted; choose one of {levels}")
        finish_ms: list[float] = situation.finish_ms[:, situation.levels.index(self.level)].tolist()
        return finish_ms


def check_margin(margin_ms: float) -> None:
    """Raises ValueError unless these are milliseconds that can be kept free before a deadline."""
    if not 0 <= margin_ms < float("inf"):
        raise ValueError(f"margin_ms is {margin_ms}; give milliseconds >= 0")
