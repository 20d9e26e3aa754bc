"""What is known under one kind of load: own times, what is stolen from them, how often predictions were kept."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from .coverage import Coverage
from .latency import IntArray, Ran, Study
from .losses import LOST_MS
from .own import LENGTHS, OwnTimes, length_of
from .situation import FloatArray

# close together where a loss of the core comes in: between the last level without one and the first with one, a policy
# can only guess, and a guess of 4 % weighs more than what the next width is worth
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.94, 0.96, 0.97, 0.98, 0.985, 0.99)
_FIT_AFTER, _FIT_EVERY = 2, 64  # steps: the first fit, and from then on twice as many until so many
_MOVED = 0.15  # share of α that a correction moves before it is worth new tables
_ANSWERS, _GRAIN_MS, _GRAIN = 256, 0.1, 0.02  # how many are kept, for what processor time and slowdown they serve


class Table(Protocol):
    """What was learnt, ready to be looked up; never changed."""

    def finish_ms(self, own_ms: FloatArray, ran_ms: float, legs: IntArray | None) -> FloatArray:
        """(steps, levels) of steps that take `own_ms`, (steps,), of the processor, after `ran_ms`; see `TimeModel`."""


T = TypeVar("T", bound=Table)
Spreads = Sequence[FloatArray]  # (steps,) ratios as in `OwnTimes.spreads`, ascending, for each length
Fit = Callable[[Spreads, Sequence[float]], T]  # the latter: the level to ask for as the highest, for each length
NO_SPREADS: Spreads = (np.empty(0),) * LENGTHS
AS_IS: tuple[float, ...] = (LEVELS[-1],) * LENGTHS


def levels_of(top: float) -> FloatArray:
    """(levels,) those of the model, but with another highest one."""
    return np.array([*LEVELS[:-1], top])


class Cell(ABC, Generic[T]):
    """What is known under one kind of load. What stolen time is like there, its children know.

    Attributes:
        table: what predictions are looked up in.
        own: own times.
        coverages: of the highest level, for each length of steps.

    Args:
        table: as long as nothing was studied.
    """

    def __init__(self, table: T) -> None:
        self.table, self.own = table, OwnTimes()
        self.coverages = [Coverage(LEVELS[-1]) for _ in range(LENGTHS)]
        self._asked, self._noted, self._fit_at = AS_IS, 0, _FIT_AFTER
        # given since the last study, beside the menus' times that were asked about: looking up is cheap, but not when
        # others have just emptied the caches
        self._answers: dict[tuple[int, int, int], tuple[FloatArray, FloatArray]] = {}

    @abstractmethod
    def note_stolen(self, ran_ms: float, used_ms: float, stolen_ms: float, legs: int) -> None:
        """Of a step: processor time used before it and in it, time stolen from it, how many graphs it ran."""

    @abstractmethod
    def fit(self) -> Fit[T]:
        """What makes a table of all that was noted; it holds copies, and is called when nobody waits."""

    def finish_ms(
        self, idle_ms: FloatArray, median: int, slowdown: float, ran_ms: float, legs: IntArray | None
    ) -> FloatArray:
        """(steps, levels), as in `TimeModel`; `median`: the place of 0.5 among the profile's levels."""
        key = id(idle_ms), round(ran_ms / _GRAIN_MS), round(slowdown / _GRAIN)
        kept = self._answers.get(key)
        if kept is not None and kept[0] is idle_ms:
            return kept[1]
        answer: FloatArray = np.maximum.accumulate(
            self.table.finish_ms(idle_ms[:, median] * slowdown, ran_ms, legs), axis=1
        )
        if len(self._answers) >= _ANSWERS:
            self._answers.clear()
        self._answers[key] = idle_ms, answer
        return answer

    def check(self, ran: Ran, own_ms: float) -> None:
        """Whether the prediction was kept; `own_ms`: processor time that was expected of it."""
        if ran.predicted_ms is None:
            return
        missed = bool(ran.wall_ms > ran.predicted_ms[-1])
        if missed or not ran.cut_off:  # what was cut off in time might have been in time or not
            self.coverages[length_of(own_ms)].observe(missed)

    def learn(self, ran: Ran, profiled_ms: float, slowdown: float) -> None:
        """A step, not a whole path."""
        stolen_ms = stolen_of(ran)
        used_ms = ran.wall_ms - stolen_ms
        self.note_stolen(ran.ran_ms, used_ms, stolen_ms, ran.graphs)
        self.own.note(used_ms, profiled_ms, slowdown, ran.cut_off)
        self._noted += 1

    @property
    def is_worth_a_study(self) -> bool:
        """Enough steps were noted, or the correction moved."""
        if self._noted >= self._fit_at:
            return True
        asked = zip(self.coverages, self._asked, strict=True)
        return any(abs(coverage.asked - before) > _MOVED * (1 - before) for coverage, before in asked)

    def study(self) -> Study:
        """Of all that was noted."""
        if self._noted >= self._fit_at:
            self._fit_at = self._noted + min(self._noted, _FIT_EVERY)
        return _CellStudy(self)

    def replace_table(self, table: T, asked: tuple[float, ...]) -> None:
        """`asked`: what it has as the highest level, for each length."""
        self.table, self._asked = table, asked
        self._answers.clear()


class _CellStudy(Generic[T]):
    """Copies are lists, as making arrays of them takes longer than a request should wait."""

    def __init__(self, cell: Cell[T]) -> None:
        self._cell, self._fit = cell, cell.fit()
        self._spreads = [list(ratios) for ratios in cell.own.spreads]
        self._asked = tuple([coverage.asked for coverage in cell.coverages])
        self._table: T | None = None

    def work_out(self) -> None:
        self._table = self._fit([np.sort(np.array(ratios)) for ratios in self._spreads], self._asked)

    def put_in_place(self) -> None:
        if self._table is not None:
            self._cell.replace_table(self._table, self._asked)


def stolen_of(ran: Ran) -> float:
    """Milliseconds, 0 where there is hardly any or only the wall clock is known."""
    stolen_ms = 0.0 if ran.cpu_ms is None else ran.wall_ms - ran.cpu_ms
    return stolen_ms if stolen_ms >= LOST_MS else 0.0
