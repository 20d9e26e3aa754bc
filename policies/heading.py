"""What policies that head for a target have in common: when to stop on the way, and how to go there."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from math import inf

from .exits import Rule, as_rule
from .situation import Situation, Step, Stop
from .targets import way_to


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading(ABC):
    """Heads for a target, in one go unless a confidence may stop at an exit on the way; asked again, for a new one.

    A policy says in `target` what is worth heading for, and nothing else.

    Args:
        confidence: stop once this rule is satisfied; a number, or one for each depth, is that of an `ExitRule`. Kept as
            `rule`.
        margin_ms: kept free before the deadline, for what happens after the exit; >= 0.
    """

    confidence: float | tuple[float, ...] | Rule | None = None
    margin_ms: float = 0.0
    rule: Rule | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.margin_ms < inf:
            raise ValueError(f"margin_ms is {self.margin_ms}; give milliseconds >= 0")
        object.__setattr__(self, "rule", as_rule(self.confidence))

    @property
    def looks_at_answers(self) -> bool:
        """Only a confidence does."""
        return self.rule is not None

    def next(self, situation: Situation) -> Step | Stop:
        """All the way to the target, or to the first exit that a confidence looks at. Otherwise the reason to stop.

        Raises:
            ValueError: the situation lacks what this policy looks at.
        """
        if situation.evidence and not situation.steps:
            return Stop.FINAL
        if self.rule is not None and self.rule.is_sure(situation.evidence):
            return Stop.CONFIDENCE
        target = self.target(situation)
        return target if isinstance(target, Stop) else way_to(target, situation.steps, self.rule)

    @abstractmethod
    def target(self, situation: Situation) -> Step | Stop:
        """The step worth heading for, confidence aside.

        TARGET: nothing offered is expected to beat the best answer in hand, or that is good enough already.
        DEADLINE: something is, but nothing of it in time.
        """
