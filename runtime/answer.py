"""What a request comes back with."""

from dataclasses import dataclass

from ..policies.situation import FloatArray, OperatingPoint, Stop


# not frozen, which would take 1.2 µs of some 11 that a request spends in Python
@dataclass(slots=True)
class Answer:
    """The best of the exits reached: the one with the highest held-out accuracy, of equal ones the deepest.

    Args:
        scores: (classes,) calibrated probabilities.
        label, index: the most probable class.
        confidence: its probability.
        point: the operating point that gave the scores.
        latency_ms: from the call until this answer was made.
        deadline_met: whether that was in time; True where there was no deadline.
        stopped_by: why no further exit was run; None if more may follow (`Session.refine`).
        expected_ms: the profile's median of the time to this point.
        expected_accuracy: this point's held-out accuracy, in [0, 1].
        exits: depths of the exits that were computed, ascending.
    """

    scores: FloatArray
    label: str
    index: int
    confidence: float
    point: OperatingPoint
    latency_ms: float
    deadline_met: bool
    stopped_by: Stop | None
    expected_ms: float
    expected_accuracy: float
    exits: tuple[int, ...]
