"""The time model of a busy machine: a step's own time × slowdown, plus what others take in between."""

from bisect import bisect_left
from typing import Any, ClassVar, NamedTuple

from .cells import LEVELS, Cell, stolen_of
from .handoffs import Handoffs, Presence
from .latency import IntArray, Ran, Study, TimeModel
from .load import Load
from .losses import EARLY_MS
from .situation import FloatArray
from .turns import Turns

_PER_CORE = (0.25, 0.75, 1.25, 1.75, 2.5, 4.0)  # others per core, between the classes of load
_TYPICAL = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)  # of each class
_UNKNOWN, _UNKNOWN_TYPICAL = len(_TYPICAL), 0.5
_IN_DOUBT = 16  # steps and paths that wait at most for it to become clear what they ran under


class _Noted(NamedTuple):
    """What ran; `foretold`: with handoffs or without, None where that changed meanwhile."""

    ran: Ran
    foretold: bool | None


class SliceModel(TimeModel):
    """Time = own time on the idle device × slowdown × spread + stolen time.

    Slowdown is the median of what steps' processor time lately was over their profile (`own.py`). Stolen time, the wall
    clock minus processor time, comes in turns of others, by how long the request has been running (`turns.py`,
    `losses.py`). Both are kept apart for some classes of load, by runnable tasks of others per core (unknown is a class
    of its own), so that a jump of the load changes the prediction before any request has felt it. A class that little
    ran in follows what is known of schedulers. Adaptive conformal correction holds the highest level's long-run
    coverage, in each class for each length of steps.

    Where each graph must wait for another thread of this process, no load says so. Such handoffs are seen by two short
    steps that were held up, and what runs under them is kept apart like a class of load (`handoffs.py`): or else they
    would be taken for turns, and poison what is foretold without them. What ran while it isn't clear which it was is
    learnt once it is.

    Of the profile only the median counts. Its upper quantiles, where a profile was made at another time than what is
    foretold, said less of how steps spread than all steps of about that length do.

    Not safe from several threads at once. Observations are only noted; tables are made by `study`, after each 64 steps
    of a class or where its correction has moved.

    Args:
        median: the place of 0.5 among the profile's levels.
    """

    levels = LEVELS
    looks_at_load: ClassVar[bool] = True

    def __init__(self, median: int = 0):
        self._median = median
        # all of them now, as the table of one takes longer than a request should wait
        self._classes = [Turns(typical) for typical in (*_TYPICAL, _UNKNOWN_TYPICAL)]
        self._handoffs, self._presence = Handoffs(), Presence()
        self._latest: Cell[Any] | None = None
        self._in_doubt: list[_Noted] = []
        self._steps_since_change = 0

    def finish_ms(self, idle_ms: FloatArray, ran_ms: float, load: Load, legs: IntArray | None = None) -> FloatArray:
        """(steps, levels) from now, not to be changed."""
        known = self._cell(load)
        return known.finish_ms(idle_ms, self._median, self._slowdown(known), ran_ms, legs)

    def observe(self, ran: Ran) -> None:
        """Learns from a step; a whole path, whose steps were told, only says how good the prediction was."""
        before = self._presence.now
        if ran.whole_path:
            has_changed = self._steps_since_change < ran.graphs
            self._in_doubt.append(_Noted(ran, None if has_changed else before))
        else:
            self._steps_since_change += 1
            self._look_for_handoffs(ran)
            self._in_doubt.append(_Noted(ran, before))
        if before != self._presence.now:
            self._steps_since_change = 0
        elif not self._presence.is_sure and len(self._in_doubt) < _IN_DOUBT:
            return
        for noted in self._in_doubt:
            self._learn(noted)
        self._in_doubt.clear()

    def study(self) -> Study | None:
        """Of the first class, or of handoffs, that it is worth for."""
        cells: list[Cell[Any]] = [self._handoffs, *self._classes]
        return next((known.study() for known in cells if known.is_worth_a_study), None)

    def _look_for_handoffs(self, ran: Ran) -> None:
        """Brought by steps that end before a slice does, which others' turns hardly ever come between; gone by any."""
        was_stolen = stolen_of(ran) > 0
        if not was_stolen and self._presence.at_rest:
            return
        known = self._class(ran.load)
        own_ms = float(ran.idle_ms[self._median]) * self._slowdown(known)
        if was_stolen and ran.ran_ms + own_ms > EARLY_MS and not self._presence.now:
            return
        self._presence.note(was_stolen, known.table.expected(own_ms, ran.ran_ms), ran.graphs)

    def _learn(self, noted: _Noted) -> None:
        ran, known = noted.ran, self._cell(noted.ran.load)
        profiled_ms, slowdown = float(ran.idle_ms[self._median]), self._slowdown(known)
        if noted.foretold == self._presence.now:
            known.check(ran, profiled_ms * slowdown)
        if not ran.whole_path:
            known.learn(ran, profiled_ms, slowdown)
            self._latest = known

    def _slowdown(self, known: Cell[Any]) -> float:
        """Of this class; while it is new, of the one that ran last."""
        known = self._latest if known.own.is_new and self._latest is not None else known
        return known.own.slowdown

    def _cell(self, load: Load) -> Cell[Any]:
        return self._handoffs if self._presence.now else self._class(load)

    def _class(self, load: Load) -> Turns:
        cores = load.machine_cores or load.cores
        if load.others is None or not cores:
            return self._classes[_UNKNOWN]
        return self._classes[bisect_left(_PER_CORE, load.others / cores)]
