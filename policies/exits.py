"""When is an exit sure enough? The rule that stops there."""

from dataclasses import dataclass

from .situation import Evidence


@dataclass(frozen=True, slots=True)
class ExitRule:
    """Sure enough once the latest exit's highest calibrated probability reaches `threshold`, in (0, 1].

    A policy only ever calls `is_sure` with all evidence so far, so a rule on the margin, the entropy or on several
    exits that agree is another class with that method and changes nothing else.
    """

    threshold: float

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"confidence threshold is {self.threshold}; give a probability in (0, 1]")

    def is_sure(self, evidence: tuple[Evidence, ...]) -> bool:
        """Whether to stop here; never before the first exit."""
        return bool(evidence) and evidence[-1].confidence >= self.threshold


def as_rule(confidence: "float | ExitRule | None") -> ExitRule | None:
    """A plain number is a threshold on the highest probability; a rule and None stay what they are."""
    return confidence if confidence is None or isinstance(confidence, ExitRule) else ExitRule(confidence)
