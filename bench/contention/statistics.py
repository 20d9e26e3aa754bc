"""What follows from the rounds of `bench.contention`: choices in hindsight, shares and ratios with their intervals."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..bootstrap import interval
from ..report import FloatArray

RESAMPLES = 4000
BLOCK_ROUNDS = 10  # neighbours are alike, so they are drawn together
LEAST_BLOCKS = 20
Flags = NDArray[np.bool_]
Numbers = NDArray[np.integer]
Counted = Flags | FloatArray


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a contestant's requests.

    late: (rounds,) the answer came after its deadline. failed: (rounds,) it was wrong or late. expected: (rounds,) in
    [0, 1], how often it would be wrong or late if all of the test were asked at this moment: always where it is late,
    else as often as the point that answered is wrong. That is the same count without the chance of who is asked when.
    """

    late: Flags
    failed: Flags
    expected: FloatArray

    @classmethod
    def of(cls, late: Flags, right: Flags, error: FloatArray) -> Self:
        """From what is late, what is answered rightly, and the share of the test that the point gets wrong."""
        return cls(late, late | ~right, np.where(late, 1.0, error))

    def pick(self, chosen: Numbers) -> "Outcome":
        """Of outcomes with an axis of points, (rounds, points), those of the point chosen in each round.

        chosen: (rounds,) points; -1 for none, which is late.
        """
        rows, none = np.arange(len(chosen)), chosen < 0
        expected = np.where(none, 1.0, self.expected[rows, chosen])
        return Outcome(self.late[rows, chosen] | none, self.failed[rows, chosen] | none, expected)


def best_in_hindsight(groups: Sequence[Hashable], points: Outcome) -> Numbers:
    """(rounds,) the point expected to fail least in all rounds of the same group, of equals the less often late one.

    groups: (rounds,) such as the deadline, or deadline and phase of load. points: (rounds, points).
    """
    chosen = np.zeros(len(groups), np.intp)
    for group in set(groups):
        members = np.array([other == group for other in groups])
        late, expected = points.late[members].sum(axis=0), points.expected[members].sum(axis=0)
        chosen[members] = np.lexsort((late, expected))[0]
    return chosen


def best_of_phases(
    phases: Sequence[Hashable], deadline_ms: FloatArray, reached_ms: FloatArray, error: FloatArray
) -> Numbers:
    """(rounds,) as `best_in_hindsight` for each phase and deadline, but chosen by all rounds of the phase.

    Any round says what would have come of any deadline; in the few that had this one, some point is always lucky.

    phases, deadline_ms: (rounds,). reached_ms: (rounds, points). error: (points,) the share that each gets wrong.
    """
    chosen = np.zeros(len(phases), np.intp)
    for phase in set(phases):
        members = np.array([other == phase for other in phases])
        for limit_ms in np.unique(deadline_ms[members]):
            late = reached_ms[members] > limit_ms
            expected = np.where(late, 1.0, error).sum(axis=0)
            chosen[members & (deadline_ms == limit_ms)] = np.lexsort((late.sum(axis=0), expected))[0]
    return chosen


def clairvoyant(reached_ms: FloatArray, deadline_ms: FloatArray, accuracy: FloatArray) -> Numbers:
    """(rounds,) the most accurate point reached by the deadline; -1 where none was.

    reached_ms: (rounds, points) as known afterwards. deadline_ms: (rounds,). accuracy: (points,) held out, so what is
    known in advance are the times and not the answers.
    """
    value = np.where(reached_ms <= deadline_ms[:, None], accuracy, -1.0)
    best = value.argmax(axis=1)
    return np.where(value.max(axis=1) < 0, -1, best)


@dataclass(frozen=True, slots=True)
class Resampled:
    """Draws of blocks of rounds, as many of each environment as there were (block bootstrap, Künsch 1989).

    member: (rounds,) each round's block. weights: (resamples, blocks) how often each block is in each draw.
    """

    member: Numbers
    weights: FloatArray

    @classmethod
    def of(cls, visits: Sequence[int], environments: Sequence[str], seed: int = 0) -> Self:
        """Blocks are `BLOCK_ROUNDS` rounds that followed each other in one visit to an environment.

        visits, environments: (rounds,) in the order of the rounds.
        """
        first, member, block_environments = 0, np.zeros(len(visits), np.intp), []
        for row, visit in enumerate(visits):
            begins = row == 0 or visit != visits[row - 1] or row - first == BLOCK_ROUNDS
            if begins:
                first = row
                block_environments.append(environments[row])
            member[row] = len(block_environments) - 1
        rng, weights = np.random.default_rng(seed), np.zeros((RESAMPLES, len(block_environments)))
        for environment in sorted(set(block_environments)):
            mine = np.array([name == environment for name in block_environments])
            weights[:, mine] = rng.multinomial(mine.sum(), np.full(mine.sum(), 1 / mine.sum()), RESAMPLES)
        return cls(member, weights)

    @property
    def enough(self) -> bool:
        """Whether there are so many blocks that an interval says something."""
        return self.weights.shape[1] >= LEAST_BLOCKS

    def sums(self, counted: Counted) -> FloatArray:
        """(resamples,) of how many rounds it holds; counted: (rounds,), or how much of each."""
        by_block = np.bincount(self.member, counted, self.weights.shape[1])
        totals: FloatArray = self.weights @ by_block
        return totals


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of two counts over the same rounds; `interval`: 95 %, named as `spread` does, None of too few rounds."""

    value: float
    interval: dict[str, float] | None


def ratio(ours: Counted, theirs: Counted, resampled: Resampled) -> Ratio | None:
    """How often the one happened over how often the other, each (rounds,); None where the other never did."""
    if not theirs.any():
        return None
    above, below = resampled.sums(ours), resampled.sums(theirs)
    drawn = interval(above[below > 0] / below[below > 0]) if resampled.enough else None
    return Ratio(float(ours.sum() / theirs.sum()), drawn)
