"""The most accurate answer that the profile expects in time, looked at again at every exit."""

from dataclasses import dataclass
from typing import ClassVar

from .heading import Heading
from .situation import Situation, Step, Stop
from .targets import most_accurate


@dataclass(frozen=True, slots=True)
class Deadline(Heading):
    """Heads for the most accurate step whose finish quantile fits the slack.

    Equal accuracies: the soonest. Before the first exit, when nothing fits: the step that finishes soonest. After it,
    only steps more accurate than the best answer in hand are worth going on for.

    `budget.min_accuracy` says what is good enough: the target is then the soonest fitting step that reaches it, and the
    request stops once an exit has. The deadline comes first: where no fitting step reaches it, it changes nothing.
    `budget.energy_mj` isn't looked at.

    Args:
        level: quantile of the finish time that must fit, one that is predicted; higher is more cautious.
    """

    looks_at_load: ClassVar[bool] = False  # but through the times that are predicted
    level: float = 0.99

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level is {self.level}; give a quantile in (0, 1), such as 0.99")
        Heading.__post_init__(self)

    def target(self, situation: Situation) -> Step | Stop:
        """As in `Heading`; more slack never makes it a less accurate one.

        Raises:
            ValueError: the situation has no quantiles at this policy's level.
        """
        return most_accurate(situation, self._finish_ms(situation), situation.slack_ms - self.margin_ms)

    def _finish_ms(self, situation: Situation) -> list[float]:
        """(steps,) the column of this policy's level."""
        if self.level not in situation.levels:
            levels = ", ".join(map(str, situation.levels))
            raise ValueError(f"level {self.level} isn't predicted; choose one of {levels}")
        finish_ms: list[float] = situation.finish_ms[:, situation.levels.index(self.level)].tolist()
        return finish_ms
