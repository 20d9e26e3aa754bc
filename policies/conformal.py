"""The most accurate answer whose deadline is kept at a stated rate."""

from dataclasses import dataclass
from typing import ClassVar

from .heading import Heading
from .situation import Situation, Step, Stop
from .targets import most_accurate, quantile


@dataclass(frozen=True, slots=True)
class Conformal(Heading):
    """Heads for the most accurate step that finishes in time with probability `rate`.

    That the stated probability is also the long-run share is the time model's part: it corrects its quantiles by how
    often they were kept (`coverage.py`; Gibbs and Candès, Adaptive Conformal Inference Under Distribution Shift,
    NeurIPS 2021). Here is the choice alone, which any rate may be asked of: quantiles between the model's levels are
    interpolated, those above extrapolated cautiously. Every decision to go on takes the risk anew, but only steps that
    were on the verge of not fitting come near to it.

    Equal accuracies, no step that fits, `budget.min_accuracy`: as in `Deadline`. `budget.energy_mj` isn't looked at.

    Args:
        rate: share of deadlines to keep, in (0, 1).
    """

    looks_at_load: ClassVar[bool] = False  # but through the times that are predicted
    rate: float = 0.99

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"rate is {self.rate}; give the share of deadlines to keep, in (0, 1), such as 0.99")
        Heading.__post_init__(self)

    def target(self, situation: Situation) -> Step | Stop:
        """As in `Heading`."""
        return most_accurate(situation, self._finish_ms(situation), situation.slack_ms - self.margin_ms)

    def _finish_ms(self, situation: Situation) -> list[float]:
        """(steps,) by when each exit is reached at this policy's rate."""
        levels = situation.levels
        if self.rate in levels:
            column: list[float] = situation.finish_ms[:, levels.index(self.rate)].tolist()
            return column
        return [quantile(self.rate, row, levels) for row in situation.finish_ms.tolist()]
