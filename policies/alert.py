"""ALERT: the path with the highest expected accuracy under the deadline, or the least energy that is good enough.

Reference: Wan et al., ALERT: Accurate Learning for Energy and Timeliness, USENIX ATC 2020.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from .heading import Heading
from .situation import Situation, Step, Stop
from .targets import accuracy_in_hand, chance_by


@dataclass(frozen=True, slots=True)
class Alert(Heading):
    """Heads for the exit with the highest expected accuracy at the deadline.

    A target is reached by the deadline with probability P and gives accuracy q, or what is in hand where that is
    better. A step that misses makes the answer late, whatever exits it passed, so what is expected is (ALERT's
    traditional network)

        q̂ = q · P + q_fail · (1 − P)

    With `interruptible`, what was reached by the deadline counts: exits k = 1 … K on the way to the target with P_k and
    q_k, and what was in hand before, q_0 (`q_fail` before the first exit). Then it is (ALERT's anytime network,
    P_{K+1} = 0)

        q̂ = Σ_k q_k · (P_k − P_{k+1}) + q_0 · (1 − P_1)

    P comes from the time model's quantiles (`chance_by`), where ALERT takes a normal distribution; with the time model
    "scalar" it is the same. A confidence aside, it stops when stopping is expected to be at least as accurate as any
    way on.

    With `budget.min_accuracy` and known energy: the least energy among the targets whose q̂ reaches it; without known
    energy, the soonest of them. With `budget.energy_mj` and known energy: only targets within what is left of it. It
    gives way where `budget.min_accuracy` can't be reached otherwise, and before the first exit, to the target of the
    least energy where none is within it. The accuracy gives way before the deadline does.

    Args:
        q_fail: what an answer after the deadline is worth, in [0, 1]: 0, or what a guess is right.
        interruptible: whether exits that were reached in time survive a step that misses the deadline: a ticket's do,
            but `infer` returns only after the step was stopped.
    """

    looks_at_energy: ClassVar[bool] = True
    looks_at_load: ClassVar[bool] = False  # but through the times that are predicted
    q_fail: float = 0.0
    interruptible: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.q_fail <= 1:
            raise ValueError(f"q_fail is {self.q_fail}; give what a late answer is worth, in [0, 1]")
        Heading.__post_init__(self)

    def target(self, situation: Situation) -> Step | Stop:
        """The step worth heading for, confidence aside.

        TARGET: nothing offered is expected to beat the best answer in hand, or that is good enough already.
        DEADLINE: something is, but too likely not in time.
        ENERGY: something is in time, but nothing of it within the energy that is left.
        """
        in_hand, enough = accuracy_in_hand(situation), situation.budget.min_accuracy
        best = max(situation.accuracy.tolist())
        if situation.evidence and in_hand >= (best if enough is None else min(best, enough)):
            return Stop.TARGET
        stopping = in_hand if situation.evidence else self.q_fail
        if enough is None and situation.budget.energy_mj is None and not self.interruptible:
            highest = self._highest(situation, in_hand, stopping)
            if highest is not None:
                return situation.steps[highest]
        else:
            expected = self.expected(situation)
            worth_it = [at for at, accuracy in enumerate(expected) if accuracy > stopping]
            if worth_it:
                chosen = _chosen(worth_it, expected, situation)
                return Stop.ENERGY if chosen is None else situation.steps[chosen]
        return Stop.DEADLINE if situation.evidence else situation.steps[int(situation.finish_ms[:, -1].argmin())]

    def _highest(self, situation: Situation, in_hand: float, stopping: float) -> int | None:
        """The step of the highest q̂ above `stopping`, the soonest of equals, if there is one.

        None is expected to be more accurate than it is in time, so most needn't be looked at: this is on the way of
        every request.
        """
        latest_ms, levels, q_fail = situation.slack_ms - self.margin_ms, situation.levels, self.q_fail
        accuracy, finish_ms = situation.accuracy.tolist(), situation.finish_ms.tolist()
        highest, chosen = stopping, None
        for at in sorted(range(len(accuracy)), key=accuracy.__getitem__, reverse=True):
            at_best = max(accuracy[at], in_hand)
            if at_best < highest:
                break
            expected = q_fail + chance_by(latest_ms, finish_ms[at], levels) * (at_best - q_fail)
            sooner = chosen is not None and expected == highest and finish_ms[at][-1] < finish_ms[chosen][-1]
            if expected > highest or sooner:
                highest, chosen = expected, at
        return chosen

    def expected(self, situation: Situation) -> list[float]:
        """(steps,) accuracy, q̂, that what is in hand at the deadline is expected to have, heading for that step."""
        latest_ms, levels = situation.slack_ms - self.margin_ms, situation.levels
        chances = [chance_by(latest_ms, finish_ms, levels) for finish_ms in situation.finish_ms.tolist()]
        in_hand, best = accuracy_in_hand(situation), situation.accuracy.tolist()
        if not self.interruptible:
            gains = [max(accuracy, in_hand) - self.q_fail for accuracy in best]
            return [self.q_fail + chance * gain for chance, gain in zip(chances, gains, strict=True)]
        missed = in_hand if situation.evidence else self.q_fail
        expected = [missed] * len(best)
        for at, before in _exits_in_turn(situation.steps):
            if before is None:
                so_far, best[at] = missed, max(best[at], in_hand)
            else:
                so_far, expected[at] = best[before], expected[before]
                if best[at] <= so_far:  # not what would be answered with
                    best[at] = so_far
                    continue
            # one term of the sum more: Σ q_k (P_k − P_{k+1}) = Σ P_k (q_k − q_{k−1})
            expected[at] += chances[at] * (best[at] - so_far)
        return expected


@lru_cache(maxsize=256)
def _exits_in_turn(steps: tuple[Step, ...]) -> list[tuple[int, int | None]]:
    """Every step's number after that of the exit before it on its path, None where it is the first."""
    turns: list[tuple[int, int | None]] = []
    latest: dict[tuple[int, float, str], int] = {}
    for at in sorted(range(len(steps)), key=lambda at: steps[at].depth):
        path = steps[at].first, steps[at].width, steps[at].precision
        turns.append((at, latest.get(path)))
        latest[path] = at
    return turns


def _chosen(candidates: list[int], expected: list[float], situation: Situation) -> int | None:
    """What the budget wants of these, the soonest of equals; None: rather the answer in hand."""
    budget, finish_ms = situation.budget, situation.finish_ms[:, -1].tolist()
    energy_mj = None if situation.energy_mj is None else situation.energy_mj.tolist()
    affordable = candidates
    if energy_mj is not None and budget.energy_mj is not None:
        left_mj = budget.energy_mj - situation.spent_mj
        affordable = [at for at in candidates if energy_mj[at] <= left_mj]
    if budget.min_accuracy is not None:
        good = [at for at in affordable if expected[at] >= budget.min_accuracy]
        good = good or [at for at in candidates if expected[at] >= budget.min_accuracy]
        if good:
            return min(good, key=(energy_mj or finish_ms).__getitem__)
    if affordable:
        highest = max([expected[at] for at in affordable])
        return min([at for at in affordable if expected[at] == highest], key=finish_ms.__getitem__)
    # nothing was affordable, so energy is known
    return None if situation.evidence else min(candidates, key=(energy_mj or finish_ms).__getitem__)
