"""The most accurate answer whose deadline is kept at a stated rate."""

from dataclasses import dataclass, field

from .deadline import check_margin
from .exits import ExitRule, as_rule
from .situation import Situation, Step, Stop
from .targets import most_accurate, quantile, way_to


@dataclass(frozen=True, slots=True)
class Conformal:
    """Heads for the most accurate step that finishes in time with probability `rate`, one exit at a time.

    That the stated probability is also the long-run share is the time model's part: it corrects its quantiles by how
    often they were kept (`coverage.py`; Gibbs and Candès, Adaptive Conformal Inference Under Distribution Shift,
    NeurIPS 2021). Here is the choice alone, which any rate may be asked of: quantiles between the model's levels are
    interpolated, those above extrapolated cautiously. Every decision to go on takes the risk anew, but only steps that
    were on the verge of not fitting come near to it.

    Equal accuracies, no step that fits, `budget.min_accuracy`: as in `Deadline`. `budget.energy_mj` isn't looked at.

    Args:
        rate: share of deadlines to keep, in (0, 1).
        confidence: stop once this rule is satisfied; a number is the threshold of an `ExitRule`.
        margin_ms: kept free before the deadline, for what happens after the exit; >= 0.
    """

    rate: float = 0.99
    confidence: float | ExitRule | None = None
    margin_ms: float = 0.0
    _rule: ExitRule | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"rate is {self.rate}; give the share of deadlines to keep, in (0, 1), such as 0.99")
        check_margin(self.margin_ms)
        object.__setattr__(self, "_rule", as_rule(self.confidence))

    def next(self, situation: Situation) -> Step | Stop:
        """The first leg towards the target: to the nearest exit on its path. Otherwise the reason to stop."""
        if situation.evidence and not situation.steps:
            return Stop.FINAL
        if self._rule is not None and self._rule.is_sure(situation.evidence):
            return Stop.CONFIDENCE
        target = most_accurate(situation, self._finish_ms(situation), situation.slack_ms - self.margin_ms)
        return target if isinstance(target, Stop) else way_to(target, situation, self._rule)

    def _finish_ms(self, situation: Situation) -> list[float]:
        """(steps,) by when each exit is reached at this policy's rate."""
        levels = situation.levels
        if self.rate in levels:
            column: list[float] = situation.finish_ms[:, levels.index(self.rate)].tolist()
            return column
        return [quantile(self.rate, row, levels) for row in situation.finish_ms.tolist()]
