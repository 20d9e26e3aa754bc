"""What a request comes back with."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..policies.situation import Evidence, FloatArray, OperatingPoint, Stop
from .certified import IsCovered
from .course import Request
from .stand import Reached, Start


# not frozen, which would take 1.2 µs of some 11 that a request spends in Python
@dataclass(slots=True)
class Answer:
    """The best of the exits reached: the one with the highest expected accuracy, of equal ones the deepest.

    Where a confidence ended the request, it is the exit that was sure; where its promise covers the answer, the final
    exit where none was, as calibration had it.

    Args:
        seen: what that exit said.
        label, index: the most probable class.
        confidence: its probability.
        point: the operating point that gave the scores.
        latency_ms: from the call until this answer was made.
        deadline_met: whether that was in time; True where there was no deadline.
        stopped_by: why no further exit was run; None if more may follow (`Session.refine`).
        expected_ms: the time model's median, when the request began, of the time to this point.
        expected_accuracy: this point's held-out accuracy, or on this input by what a router says, in [0, 1].
        exits: depths of the exits that were computed, in that order.
        energy_mj: what this sample's steps took until then, those that ended early included, millijoules: by the
            profile, the median times at its power; in a batch, the sample's share.
        covered: whether the promise of the bundle's calibration is about this answer, as exit by exit its rule alone
            ended it; False where a deadline or anything else did, and where nothing was certified at this width and
            precision. None: it isn't used. The promise is a share of all inputs: where deadlines cut off the hard ones,
            more of the covered answers may differ than it says, but not of all.
    """

    seen: Evidence = field(repr=False)
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
    energy_mj: float
    covered: bool | None = None

    @property
    def scores(self) -> FloatArray:
        """(classes,) calibrated probabilities."""
        return self.seen.scores


def make_answer(
    classes: Sequence[str],
    median: int,
    at_s: float,
    request: Request,
    start: Start,
    reached: Reached,
    exits: Sequence[int],
    stopped_by: Stop | None,
    spent_mj: float,
    is_covered: IsCovered | None = None,
) -> Answer:
    """The answer of a request that passed these exits and looked at some, at least one.

    Args:
        median: the place of that level in what the time model predicts.
        at_s: when it is made, by the clock of the request's arrival and deadline.
        start: the request as it stood at its first decision.
        spent_mj: what the sample's steps took so far.
        is_covered: says whether a promise covers it; None where there is none.
    """
    last = reached[-1]
    covered = None if is_covered is None else is_covered(last.point, stopped_by)
    is_last = len(reached) == 1 or covered or stopped_by is Stop.CONFIDENCE
    best = last if is_last else max(reversed(reached), key=_accuracy)
    return Answer(
        seen=best,
        label=classes[best.top],
        index=best.top,
        confidence=best.confidence,
        point=best.point,
        latency_ms=(at_s - request.arrival) * 1e3,
        deadline_met=at_s <= request.deadline,
        stopped_by=stopped_by,
        expected_ms=_expected_ms(request, start, best.point, median),
        expected_accuracy=best.accuracy,
        exits=tuple(exits),
        energy_mj=float(spent_mj),
        covered=covered,
    )


def _expected_ms(request: Request, start: Start, point: OperatingPoint, median: int) -> float:
    row = start.menu.rows.get(point.whole_way)
    if row is None or start.predicted_ms is None:  # not on the menu there: what the profile says
        return request.menus.exits[point].expected_ms
    return float(start.predicted_ms[row, median]) - start.menu.answer_ms


def _accuracy(seen: Evidence) -> float:
    return seen.accuracy
