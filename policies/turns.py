"""Turns: what is known of a class of load, whose tasks take the core from a step now and then."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .cells import AS_IS, LEVELS, NO_SPREADS, Cell, Fit, Spreads, Table, levels_of
from .latency import IntArray
from .losses import EARLY_MS, MEANS, TURN_MS, Losses, expected_losses, fitted
from .own import length_of_each, spread
from .situation import FloatArray

_KEPT = 1600  # steps that count
_BRIEF_MS = 2.0  # a turn of what now and then wants to run on an idle machine
_BETWEEN_MEANS = (MEANS[1:] + MEANS[:-1]) / 2
_SURELY = 0.9995  # of own times, instead of any higher level
_WHILE_LOST = np.array(0.6)  # level of the own time that goes with a quantile of what others take


@dataclass(frozen=True, slots=True)
class TurnTable(Table):
    """What a number of losses to expect, as in `MEANS`, means for each length of steps.

    `own`: (lengths, means, levels) what a step's own time is multiplied by; `stolen_ms`: (2, lengths, means, levels)
    what is then added, early in a request and later.
    """

    losses: Losses
    own: FloatArray
    stolen_ms: FloatArray

    @classmethod
    def of(cls, losses: Losses, spreads: Spreads, asked: Sequence[float]) -> "TurnTable":
        """`asked`: the level to ask for as the highest, for each length."""
        stolen_ms, none = losses.quantiles(np.array([*LEVELS[:-1], *asked]))
        own, added_ms = [], []
        for length, (ratios, top) in enumerate(zip(spreads, asked, strict=True)):
            levels, columns = levels_of(top), [*range(len(LEVELS) - 1), len(LEVELS) - 1 + length]
            is_lost = levels > none[:, None]
            usual = spread(ratios, np.minimum(levels / none[:, None], _SURELY))
            own.append(np.where(is_lost, spread(ratios, _WHILE_LOST), usual))
            added_ms.append(np.where(is_lost, stolen_ms[:, :, columns], 0.0))
        return cls(losses, np.stack(own), np.stack(added_ms, axis=1))

    def finish_ms(self, own_ms: FloatArray, ran_ms: float, legs: IntArray | None) -> FloatArray:
        """See `Table`."""
        used_ms = own_ms + ran_ms
        mean = self.losses.until(used_ms) - self.losses.until(np.array(ran_ms))
        row, length = np.searchsorted(_BETWEEN_MEANS, mean), length_of_each(own_ms)
        later = (used_ms > EARLY_MS).astype(np.intp)
        finish_ms: FloatArray = own_ms[:, None] * self.own[length, row] + self.stolen_ms[later, length, row]
        return finish_ms

    def expected(self, own_ms: float, ran_ms: float) -> float:
        """Losses of a step that takes so long, after so much processor time."""
        before, after = self.losses.until(np.array([ran_ms, ran_ms + own_ms])).tolist()
        return float(after - before)


class Turns(Cell[TurnTable]):
    """What is known of one class of load; at first that it has so many others per core, `typical`."""

    def __init__(self, typical: float) -> None:
        self._steps: deque[tuple[float, float, float]] = deque(maxlen=_KEPT)
        super().__init__(_first_table(typical))
        self._prior = self.table.losses

    def note_stolen(self, ran_ms: float, used_ms: float, stolen_ms: float, legs: int) -> None:
        """See `Cell`."""
        self._steps.append((ran_ms, ran_ms + used_ms, stolen_ms))

    def fit(self) -> Fit[TurnTable]:
        """See `Cell`."""
        steps, prior, latest = list(self._steps), self._prior, self.table.losses

        def made(spreads: Spreads, asked: Sequence[float]) -> TurnTable:
            return TurnTable.of(fitted(np.array(steps).reshape(-1, 3), prior, latest), spreads, asked)

        return made


@lru_cache
def _first_table(typical: float) -> TurnTable:
    # while a core is free, it is mostly found; a loss in 500 slices is what an idle machine has
    contention = max(0.002, min(1.0, typical) ** 4)
    prior = expected_losses(contention, TURN_MS * typical if typical >= 1 else _BRIEF_MS)
    return TurnTable.of(prior, NO_SPREADS, AS_IS)
