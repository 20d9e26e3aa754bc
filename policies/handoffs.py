"""Handoffs: each graph must win back what another thread of this process holds, such as Python's interpreter lock.

Stolen time then comes once per graph, however short that is: with a busy Python thread 5 ms, or 0.16 where it is asked
to hand over after 0.1 (`sys.setswitchinterval`), and now and then many times as long. Others' turns come by how long a
request has been running. So stolen time in steps where hardly a turn was to be expected tells the one from the other,
and so does any step that nothing was stolen from.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np

from .cells import AS_IS, LEVELS, NO_SPREADS, Cell, Fit, Spreads, Table, levels_of
from .latency import IntArray
from .own import length_of_each, spread
from .situation import FloatArray

_HELD = 0.75  # share of graphs that wait while there are handoffs; 0.66 to 0.93 did
_SURE = 5.0  # log odds that nothing exceeds, so that little is needed to turn them
_MOST_SAID = 3.5  # log odds that one step says at most: less than `_SURE`, so an outlier is forgotten
_TELLING = 0.25  # steps in which more turns were to be expected don't bring handoffs, as loads jump
_RAREST = 1e-3
_KEPT = 300  # steps that count
_PRIOR = (0.0, 1.0, 1.0, 2.0)  # waits that are added to those seen, in usual ones
_FIRST_MS = 1.0  # usual wait before there was any
_MOST = 12  # graphs of one step that are told apart
_DRAWS = np.random.default_rng(0).random((2048, _MOST))
_MIDDLE = LEVELS.index(0.5)
_SIDE = np.where(np.array(LEVELS) < 0.5, -1.0, 1.0)


@dataclass(slots=True)
class Presence:
    """Whether there are handoffs now, by `odds`: the logarithm of how much likelier that makes the last steps."""

    odds: float = -_SURE

    @property
    def now(self) -> bool:
        """Steps are taken to be under handoffs."""
        return self.odds > 0

    @property
    def at_rest(self) -> bool:
        """No step without stolen time would change anything."""
        return self.odds <= -_SURE

    @property
    def is_sure(self) -> bool:
        """Nothing that could be observed would make it surer."""
        return abs(self.odds) >= _SURE

    def note(self, was_stolen: bool, turns: float, legs: int) -> None:
        """A step that ran so many graphs; `turns`: of others that were to be expected in it without handoffs, >= 0.

        With handoffs, nothing is stolen where neither a graph waits nor a turn comes, which don't know of each other.
        """
        if was_stolen and turns > _TELLING and not self.now:
            return
        no_turn, none_held = exp(-max(turns, _RAREST)), (1 - _HELD) ** legs
        said = log((1 - none_held * no_turn) / (1 - no_turn)) if was_stolen else log(none_held)
        self.odds = min(_SURE, max(-_SURE, self.odds + min(_MOST_SAID, max(-_MOST_SAID, said))))


@dataclass(frozen=True, slots=True)
class WaitTable(Table):
    """`own`: (lengths, levels) what a step's own time is multiplied by; `waits_ms`: (lengths, graphs, levels)."""

    own: FloatArray
    waits_ms: FloatArray

    @classmethod
    def of(cls, waits_ms: FloatArray, spreads: Spreads, asked: Sequence[float]) -> "WaitTable":
        levels = [levels_of(top) for top in asked]
        own = np.stack([spread(ratios, of) for ratios, of in zip(spreads, levels, strict=True)])
        return cls(own, sums_of(waits_ms, np.stack(levels)).swapaxes(0, 1))

    def finish_ms(self, own_ms: FloatArray, ran_ms: float, legs: IntArray | None) -> FloatArray:
        """Medians add up, and so do the squares of how far the quantiles of two independent times are from them."""
        length = length_of_each(own_ms)
        graphs = np.ones(len(own_ms), np.intp) if legs is None else np.minimum(legs, _MOST)
        used_ms, waits_ms = own_ms[:, None] * self.own[length], self.waits_ms[length, graphs]
        middle_ms, waited_ms = used_ms[:, _MIDDLE, None], waits_ms[:, _MIDDLE, None]
        finish_ms = middle_ms + waited_ms + _SIDE * np.hypot(used_ms - middle_ms, waits_ms - waited_ms)
        return np.maximum(finish_ms, used_ms[:, :1])


class Handoffs(Cell[WaitTable]):
    """What is known of steps under handoffs, whatever the load is beside them."""

    def __init__(self) -> None:
        self._waits: deque[tuple[float, int]] = deque(maxlen=_KEPT)
        super().__init__(WaitTable.of(np.empty(0), NO_SPREADS, AS_IS))

    def note_stolen(self, ran_ms: float, used_ms: float, stolen_ms: float, legs: int) -> None:
        """See `Cell`."""
        self._waits.append((stolen_ms, legs))

    def fit(self) -> Fit[WaitTable]:
        """See `Cell`."""
        waits = list(self._waits)
        return lambda spreads, asked: WaitTable.of(single_waits(np.array(waits).reshape(-1, 2)), spreads, asked)


def single_waits(waits: FloatArray) -> FloatArray:
    """(steps,) ms with the mean and the variance of single graphs' waits; (steps, 2): of all graphs, and how many."""
    sums_ms, graphs = waits.T
    mean_ms = sums_ms.sum() / max(graphs.sum(), 1.0)
    single_ms: FloatArray = np.maximum(mean_ms + (sums_ms - graphs * mean_ms) / np.sqrt(graphs), 0.0)
    return single_ms


def sums_of(waits_ms: FloatArray, levels: FloatArray) -> FloatArray:
    """Quantiles of what 0 … `_MOST` graphs wait together, (numbers, …) ms, at levels of any shape (…).

    By drawing from `waits_ms`, (graphs,), what single ones waited, 0 where they hadn't to: these are mostly alike, and
    now and then many times as long, which no histogram is fine and wide enough for.
    """
    waited_ms = waits_ms[waits_ms > 0]
    usual_ms = float(np.median(waited_ms)) if len(waited_ms) else _FIRST_MS
    pool = np.concatenate([waits_ms, np.array(_PRIOR) * usual_ms])
    drawn = np.zeros((len(_DRAWS), _MOST + 1))
    np.cumsum(pool[(_DRAWS * len(pool)).astype(np.intp)], axis=1, out=drawn[:, 1:])
    quantiles: FloatArray = np.quantile(drawn, levels, axis=0)
    return np.moveaxis(quantiles, -1, 0)
