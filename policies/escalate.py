"""Escalation: every input is looked at by a narrow network first, and by a wider one only where that isn't sure.

Reference: Bolukbasi et al., Adaptive Neural Networks for Efficient Inference, ICML 2017, whose cascade of networks are
widths of one here.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from .alert import Alert
from .exits import Rule, as_rule
from .heading import Heading
from .situation import OperatingPoint, Situation, Step, Stop


@dataclass(frozen=True, slots=True)
class Escalate:
    """Goes to `first`, in one graph, and ends there if that is sure; else it starts again, wider, at the input.

    A width costs about its square, so that a first look is cheap beside the full width. Starting again at the input
    runs the stem twice; its features would have to be carried out of the first graph, for which bundles have no graphs.

    Where there isn't time for both, by the highest quantile, nothing is looked at first: what `then` says is done. It
    also says what to do after an exit that isn't sure, for which it is offered all that is wider.

    Args:
        first: where inputs are looked at first.
        confidence: stop there once this rule is satisfied; a number is that of an `ExitRule`. Kept as `sure`.
        then: decides everything else.
    """

    looks_at_load: ClassVar[bool] = False  # but through the times that are predicted
    first: OperatingPoint
    confidence: float | tuple[float, ...] | Rule
    then: Heading = field(default_factory=Alert)
    sure: Rule = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.first, OperatingPoint):
            raise ValueError(f"first is {self.first!r}; give an OperatingPoint(width, depth, precision)")
        rule = as_rule(self.confidence)
        if rule is None:
            raise ValueError("confidence is None; say how sure a first look must be, in (0, 1], or give a rule")
        object.__setattr__(self, "sure", rule)

    @property
    def rule(self) -> Rule | None:
        """What makes it stop on the way of `then`."""
        return self.then.rule

    def next(self, situation: Situation) -> Step | Stop:
        """The first look where there is time for more, CONFIDENCE where it is sure, else what `then` says.

        Raises:
            ValueError: the situation lacks what `then` looks at.
        """
        if not situation.evidence:
            look = self.first.whole_way
            return look if self._has_time(look, situation) else self.then.next(situation)
        if situation.steps and all(self._is_on_way(exit.point) for exit in situation.evidence):
            if situation.evidence[-1].point != self.first:
                return self._go_on(situation)
            if self.sure.is_sure(situation.evidence):
                return Stop.CONFIDENCE
        return self.then.next(situation)

    def _is_on_way(self, point: OperatingPoint) -> bool:
        """Whether to the first look, or there."""
        width, depth, precision = self.first
        return point.width == width and point.precision == precision and point.depth <= depth

    def _go_on(self, situation: Situation) -> Step | Stop:
        """From an exit before the first look to that, if there is still time."""
        ahead = self.first.whole_way._replace(first=situation.evidence[-1].point.depth + 1)
        in_time = ahead in situation.steps and self._latest_ms(ahead, situation) <= situation.slack_ms
        return ahead if in_time else self.then.next(situation)

    def _has_time(self, look: Step, situation: Situation) -> bool:
        """For this step and then the most accurate one."""
        if look not in situation.steps:
            return False
        best = situation.steps[int(situation.accuracy.argmax())]
        return self._latest_ms(look, situation) + self._latest_ms(best, situation) <= situation.slack_ms

    def _latest_ms(self, step: Step, situation: Situation) -> float:
        return float(situation.finish_ms[situation.steps.index(step), -1]) + self.then.margin_ms


def first_of(policy: object) -> OperatingPoint | None:
    """Where a policy that escalates looks first; None for all others."""
    first: OperatingPoint | None = getattr(policy, "first", None)
    return first
