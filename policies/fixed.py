"""Always the same operating point: what a fixed network would do, and the baseline of every other policy."""

from dataclasses import dataclass, field
from typing import ClassVar

from .exits import Rule, as_rule
from .situation import OperatingPoint, Situation, Step, Stop
from .targets import way_to


@dataclass(frozen=True, slots=True)
class Fixed:
    """Goes to `point` whatever the deadline: as one span, or from exit to exit where a confidence may stop it earlier.

    Args:
        point: the operating point to answer at.
        confidence: stop at an earlier exit once this rule is satisfied; a number, or one for each depth, is that of an
            `ExitRule`. Kept as `rule`.
    """

    looks_at_load: ClassVar[bool] = False  # but through the times that are predicted
    point: OperatingPoint
    confidence: float | tuple[float, ...] | Rule | None = None
    rule: Rule | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.point, OperatingPoint):
            raise ValueError(f"point is {self.point!r}; give an OperatingPoint(width, depth, precision)")
        object.__setattr__(self, "rule", as_rule(self.confidence))

    @property
    def looks_at_answers(self) -> bool:
        """Only a confidence does."""
        return self.rule is not None

    def next(self, situation: Situation) -> Step | Stop:
        """The way to the point, or TARGET there (FINAL if it is the last exit), or CONFIDENCE on the way.

        Raises:
            ValueError: nothing has run yet and no step offered leads to the point.
        """
        evidence, steps = situation.evidence, situation.steps
        if not steps and evidence:
            return Stop.FINAL
        target = self._target(steps)
        if target is None:
            if not evidence:
                raise ValueError(f"{self.point} isn't offered; choose one of {_points(steps)}")
            return Stop.TARGET
        if self.rule is not None and self.rule.is_sure(evidence):
            return Stop.CONFIDENCE
        return way_to(target, steps, self.rule)

    def _target(self, steps: tuple[Step, ...]) -> Step | None:
        width, depth, precision = self.point
        for step in reversed(steps):
            if step.depth == depth and step.width == width and step.precision == precision:
                return step
        return None


def _points(steps: tuple[Step, ...]) -> str:
    return ", ".join(f"({step.width}, {step.depth}, {step.precision})" for step in steps) or "none"
