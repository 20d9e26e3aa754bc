"""Always the same operating point: what a fixed network would do, and the baseline of every other policy."""

from dataclasses import dataclass, field

from .exits import ExitRule, as_rule
from .situation import OperatingPoint, Situation, Step, Stop


@dataclass(frozen=True, slots=True)
class Fixed:
    """Goes to `point` whatever the deadline: as one span, or exit by exit where a confidence may stop it earlier.

    Args:
        point: the operating point to answer at.
        confidence: stop at an earlier exit once this rule is satisfied; a number is the threshold of an `ExitRule`.
    """

    point: OperatingPoint
    confidence: float | ExitRule | None = None
    _rule: ExitRule | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.point, OperatingPoint):
            raise ValueError(f"point is {self.point!r}; give an OperatingPoint(width, depth, precision)")
        object.__setattr__(self, "_rule", as_rule(self.confidence))

    def next(self, situation: Situation) -> Step | Stop:
        """The way to the point, or TARGET there (FINAL if it is the last exit), or CONFIDENCE on the way.

        Raises:
            ValueError: nothing has run yet and no step offered leads to the point.
        """
        evidence, steps = situation.evidence, situation.steps
        if not steps and evidence:
            return Stop.FINAL
        ahead = self._ahead(steps)
        if not ahead:
            if not evidence:
                raise ValueError(f"{self.point} isn't offered; choose one of {_points(steps)}")
            return Stop.TARGET
        if self._rule is None:
            return ahead[-1]
        return Stop.CONFIDENCE if self._rule.is_sure(evidence) else ahead[0]

    def _ahead(self, steps: tuple[Step, ...]) -> list[Step]:
        """Steps on the way to the point, nearest first, ending with the point's own; empty if it can't be reached."""
        width, depth, precision = self.point.width, self.point.depth, self.point.precision
        ahead = [step for step in steps if step.width == width and step.depth <= depth and step.precision == precision]
        ahead.sort(key=_depth)
        return ahead if ahead and ahead[-1].depth == depth else []


def _depth(step: Step) -> int:
    return step.depth


def _points(steps: tuple[Step, ...]) -> str:
    return ", ".join(f"({step.width}, {step.depth}, {step.precision})" for step in steps) or "none"
