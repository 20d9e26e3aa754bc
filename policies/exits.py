"""When is an exit sure enough? The rules that stop there, each by another measure of how sure it is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from math import expm1, inf, log
from numbers import Real
from typing import ClassVar, Protocol

from .scores import entropy, runner_up
from .situation import Evidence, OperatingPoint


class Rule(Protocol):
    """What a policy asks at every exit, with all evidence so far, oldest first; anything with this method will do."""

    def is_sure(self, evidence: tuple[Evidence, ...]) -> bool:
        """Whether to stop here; never before the first exit."""


@dataclass(frozen=True, slots=True)
class ThresholdRule(ABC):
    """Sure enough once a certainty reaches a threshold; its children say what certainty is.

    A certainty that isn't a number, as NaN among the logits makes it, is never enough.

    Args:
        threshold: one for every exit, or a tuple with one for each depth from 1 on; exits deeper than those, and those
            whose threshold is infinity, stop nothing.
    """

    threshold: float | tuple[float, ...]
    allowed: ClassVar[str] = "a number in (0, 1], or infinity to never stop"

    def __post_init__(self) -> None:
        thresholds = self.threshold if isinstance(self.threshold, tuple) else (self.threshold,)
        refused = [threshold for threshold in thresholds if not (threshold == inf or self.allows(threshold))]
        if refused or not thresholds:
            found = refused[0] if refused else "an empty tuple"
            raise ValueError(f"confidence threshold is {found}; give {self.allowed}")

    def is_sure(self, evidence: tuple[Evidence, ...]) -> bool:
        """As in `Rule`."""
        return bool(evidence) and self.certainty(evidence) >= self.threshold_at(evidence[-1].point.depth)

    def threshold_at(self, depth: int) -> float:
        """What certainty must reach at this exit."""
        if not isinstance(self.threshold, tuple):
            return self.threshold
        return self.threshold[depth - 1] if depth <= len(self.threshold) else inf

    def looks_at(self, point: OperatingPoint) -> bool:
        """Whether it matters to this rule what that exit says; else it may be passed over."""
        return self.threshold_at(point.depth) < inf

    def allows(self, threshold: float) -> bool:
        """Whether this number can be a threshold."""
        return 0 < threshold <= 1

    @abstractmethod
    def certainty(self, evidence: tuple[Evidence, ...]) -> float:
        """How sure the latest exit is, given at least one.

        Calibration takes it from here too, so that what was promised and what runs can't differ.
        """


@dataclass(frozen=True, slots=True)
class ExitRule(ThresholdRule):
    """By the latest exit's highest calibrated probability.

    Reference: Huang et al., Multi-Scale Dense Networks for Resource Efficient Image Classification, ICLR 2018.
    """

    allowed: ClassVar[str] = "a probability in (0, 1], or infinity to never stop"

    def certainty(self, evidence: tuple[Evidence, ...]) -> float:
        """As in `ThresholdRule`, in (0, 1]."""
        return evidence[-1].confidence


@dataclass(frozen=True, slots=True)
class MarginRule(ThresholdRule):
    """By how far the latest exit's highest calibrated probability is above the second highest.

    Reference: Joshi et al., Multi-Class Active Learning for Image Classification, CVPR 2009 (best versus second best).
    """

    def certainty(self, evidence: tuple[Evidence, ...]) -> float:
        """As in `ThresholdRule`, in [0, 1]; 1 where there is one class only."""
        latest = evidence[-1]
        if len(latest.logits) == 1:
            return latest.confidence
        below = (runner_up(latest.logits) - float(latest.logits[latest.top])) / latest.temperature
        return -latest.confidence * expm1(below)


@dataclass(frozen=True, slots=True)
class EntropyRule(ThresholdRule):
    """By how far the entropy of the latest exit's calibrated probabilities is below the highest possible.

    Certainty is 1 − H / log(classes): 1 when one class is certain, 0 when all are alike.

    Reference: Teerapittayanon et al., BranchyNet, ICPR 2016, which compares H itself.
    """

    def certainty(self, evidence: tuple[Evidence, ...]) -> float:
        """As in `ThresholdRule`, in [0, 1] to rounding; 1 where there is one class only."""
        logits, temperature = evidence[-1].logits, evidence[-1].temperature
        return 1 - entropy(logits, temperature) / log(len(logits)) if len(logits) > 1 else 1.0


@dataclass(frozen=True, slots=True)
class PatienceRule(ThresholdRule):
    """By how many of the last exits agree on the label; exits that a longer step passed over don't count.

    Reference: Zhou et al., BERT Loses Patience, NeurIPS 2020, whose patience t is the threshold t + 1 here.
    """

    allowed: ClassVar[str] = "a whole number of exits, 1 or more, or infinity to never stop"

    def allows(self, threshold: float) -> bool:
        """As in `ThresholdRule`."""
        return threshold >= 1 and threshold == int(threshold)

    def certainty(self, evidence: tuple[Evidence, ...]) -> float:
        """As in `ThresholdRule`: 1 or more."""
        return sum(1 for _ in takewhile(lambda exit: exit.top == evidence[-1].top, reversed(evidence)))

    def looks_at(self, point: OperatingPoint) -> bool:
        """As in `ThresholdRule`; an exit that can't stop anything itself counts where a deeper one can."""
        if not isinstance(self.threshold, tuple):
            return self.threshold < inf
        return any(threshold < inf for threshold in self.threshold[point.depth - 1 :])


@dataclass(frozen=True, slots=True)
class RulePerWay:
    """A rule of its own for each width and precision, as thresholds certified for one promise nothing of another.

    Args:
        rules: by width and precision; where there is none, no exit stops anything.
    """

    rules: Mapping[tuple[float, str], Rule]

    def is_sure(self, evidence: tuple[Evidence, ...]) -> bool:
        """As in `Rule`."""
        if not evidence:
            return False
        point = evidence[-1].point
        rule = self.rules.get((point.width, point.precision))
        return rule is not None and rule.is_sure(evidence)

    def looks_at(self, point: OperatingPoint) -> bool:
        """As in `ThresholdRule`."""
        rule = self.rules.get((point.width, point.precision))
        return rule is not None and looks_at(rule, point)


@dataclass(frozen=True, slots=True)
class CertifiedRule(RulePerWay):
    """A `RulePerWay` whose thresholds carry a promise, each at its width and precision."""

    def covers(self, point: OperatingPoint) -> bool:
        """Whether the promise is about what this rule, or the final exit, ends at that width and precision."""
        return (point.width, point.precision) in self.rules


def looks_at(rule: Rule, point: OperatingPoint) -> bool:
    """Whether it matters to a rule what an exit says; one of somebody's own that doesn't say is taken to want all."""
    says = getattr(rule, "looks_at", None)
    return says is None or bool(says(point))


def rule_of(policy: object) -> Rule | None:
    """What makes a policy stop at an exit on the way; None where nothing does, or where it doesn't say."""
    rule: Rule | None = getattr(policy, "rule", None)
    return rule


def as_rule(confidence: float | tuple[float, ...] | Rule | None) -> Rule | None:
    """A number, or one for each depth, is a threshold on the highest probability; a rule and None stay what they are.

    Raises:
        ValueError: it is none of these, or a threshold out of range.
    """
    if confidence is None or hasattr(confidence, "is_sure"):
        return confidence
    if not isinstance(confidence, (Real, tuple)):
        raise ValueError(f"confidence is {confidence!r}; give a probability in (0, 1], or a rule such as ExitRule(0.9)")
    return ExitRule(confidence)
