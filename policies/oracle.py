"""What a policy could do that knew every step's time in advance: a bound for benches."""

from collections.abc import Mapping
from dataclasses import dataclass

from .heading import Heading
from .situation import Situation, Step, Stop
from .targets import most_accurate


@dataclass(frozen=True, slots=True)
class Oracle(Heading):
    """Heads for the most accurate step that will really finish in time.

    It knows times, not which answers are right. Equal accuracies, no step that fits, and `budget.min_accuracy`: as in
    `Deadline`. The quantiles in the situation aren't looked at.

    Args:
        finish_ms: what each step of this very request will take, from where it starts to its exit.
    """

    finish_ms: Mapping[Step, float]

    def target(self, situation: Situation) -> Step | Stop:
        """As in `Heading`.

        Raises:
            ValueError: a step is offered whose time it wasn't told.
        """
        finish_ms = [self._true_ms(step) for step in situation.steps]
        return most_accurate(situation, finish_ms, situation.slack_ms - self.margin_ms)

    def _true_ms(self, step: Step) -> float:
        if step not in self.finish_ms:
            raise ValueError(f"the oracle wasn't told how long {step} takes; give finish_ms for every step offered")
        return self.finish_ms[step]
