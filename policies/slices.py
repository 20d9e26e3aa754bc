"""The time model of a busy machine: a step's own time × slowdown, plus the turns that others take in between."""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from .coverage import Coverage
from .latency import Ran
from .load import Load
from .losses import EARLY_MS, LOST_MS, MEANS, TURN_MS, Losses, expected_losses, fitted
from .situation import FloatArray

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_PER_CORE = (0.25, 0.75, 1.25, 1.75, 2.5, 4.0)  # others per core, between the classes of load
_TYPICAL = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)  # of each class
_UNKNOWN, _UNKNOWN_TYPICAL = len(_TYPICAL), 0.5
_BETWEEN_MEANS = (MEANS[1:] + MEANS[:-1]) / 2
_LENGTHS_MS = (0.3, 1.0, 3.0)  # between the lengths whose jitter and coverage are kept apart
_LENGTHS = np.array(_LENGTHS_MS)
_JITTER = np.array([0.85, 0.95, 1.0, 1.06, 1.14, 1.2, 1.35])  # at `LEVELS`, while little is known
_JITTER_WORTH = 40  # observations that this is worth
_KEPT = 800  # steps of a class, and ratios of a length, that count
_RECENT, _SETTLED = 9, 61  # ratios whose median is the slowdown: after a change, and otherwise
_ANSWERS, _GRAIN_MS, _GRAIN = 256, 0.1, 0.02  # how many are kept, for what processor time and slowdown they serve
_FASTEST = 0.001  # ratio that a clock too coarse for a step is taken to have shown
_CHANGED = 0.12  # share by which the two differ when there was one
_FIT_AFTER, _FIT_EVERY = 8, 128  # steps of a class: the first fit, and from then on twice as many until so many


@dataclass(slots=True)
class _Jitter:
    """Own times of steps of one length over what was expected; `upper`: some hundred of them, sorted."""

    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    coverage: Coverage = field(default_factory=lambda: Coverage(LEVELS[-1]))

    def quantiles(self, levels: FloatArray) -> FloatArray:
        """Any shape, in (0, 1); of those seen, mixed with what is taken for granted."""
        assumed = np.interp(levels, (0.0, *LEVELS, 1.0), (0.8, *_JITTER, 2.0))
        if not self.ratios:
            return assumed
        seen = np.sort(np.array(self.ratios))
        weight = len(seen) / (len(seen) + _JITTER_WORTH)
        return weight * np.interp(levels * len(seen) - 0.5, np.arange(len(seen)), seen) + (1 - weight) * assumed


@dataclass(slots=True)
class _Class:
    """What is known of one class of load.

    `steps`: processor time used before and after, time stolen in between; `ratios`: own times over the profile's;
    `own`: (lengths, means, levels) what a step's own time is multiplied by, `stolen`: (2, lengths, means, levels) what
    is then added, early in a request and later; `answers`: given since, beside the menus' times that were asked about:
    looking up is cheap, but not when others have just emptied the caches.
    """

    prior: Losses
    losses: Losses
    steps: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=_SETTLED))
    slowdown: float = 1.0
    seen: int = 0
    fit_at: int = _FIT_AFTER
    own: FloatArray = field(init=False)
    stolen: FloatArray = field(init=False)
    answers: dict[tuple[int, int, int], tuple[FloatArray, FloatArray]] = field(default_factory=dict)


class SliceModel:
    """Time = own time on the idle device × slowdown × jitter + stolen time (`losses.py`).

    Slowdown is the median of what steps' processor time lately was over their profile. Stolen time, the wall clock
    minus processor time, comes in turns of others, by how long the request has been running. Both are kept apart for
    some classes of load, by runnable tasks of others per core (unknown is a class of its own), so that a jump of the
    load changes the prediction before any request has felt it. A class that little ran in follows what is known of
    schedulers. Adaptive conformal correction holds the highest level's long-run coverage, for each length of steps.

    Not safe from several threads at once. Beside two busy processes a prediction for 16 steps took 20 µs, or 1 where it
    had been given before; an observation 4 µs, but about 0.8 ms where it is the 128th of its class and all is fitted.

    Args:
        median: the place of 0.5 among the profile's levels.
    """

    levels = LEVELS
    looks_at_load: ClassVar[bool] = True

    def __init__(self, median: int = 0):
        self._median = median
        self._classes: dict[int, _Class] = {}
        self._jitters = [_Jitter() for _ in range(len(_LENGTHS_MS) + 1)]
        self._latest: _Class | None = None

    def finish_ms(self, idle_ms: FloatArray, ran_ms: float, load: Load) -> FloatArray:
        """(steps, levels) from now, not to be changed; of the profile only the median counts."""
        known = self._class(load)
        slowdown = self._slowdown(known)
        key = id(idle_ms), round(ran_ms / _GRAIN_MS), round(slowdown / _GRAIN)
        kept = known.answers.get(key)
        if kept is not None and kept[0] is idle_ms:
            return kept[1]
        answer = _predicted(known, idle_ms[:, self._median] * slowdown, ran_ms)
        if len(known.answers) >= _ANSWERS:
            known.answers.clear()
        known.answers[key] = idle_ms, answer
        return answer

    def observe(self, ran: Ran) -> None:
        """Learns from a step; a whole path, whose steps were told, only says how good the prediction was."""
        known, own_ms = self._class(ran.load), float(ran.idle_ms[self._median])
        jitter = self._jitters[bisect_left(_LENGTHS_MS, own_ms * self._slowdown(known))]
        if ran.predicted_ms is not None:
            missed = ran.wall_ms > ran.predicted_ms[-1]
            if missed or not ran.cut_off:  # what was cut off in time might have been in time or not
                jitter.coverage.observe(bool(missed))
        if not ran.whole_path:
            self._learn(ran, known, own_ms, jitter)

    def _learn(self, ran: Ran, known: _Class, own_ms: float, jitter: _Jitter) -> None:
        stolen_ms = 0.0 if ran.cpu_ms is None else ran.wall_ms - ran.cpu_ms
        if stolen_ms < LOST_MS:
            stolen_ms = 0.0
        used_ms = ran.wall_ms - stolen_ms
        known.steps.append((ran.ran_ms, ran.ran_ms + used_ms, stolen_ms))
        ratio, slowdown = max(used_ms / own_ms, _FASTEST), self._slowdown(known)
        if ratio > slowdown or not ran.cut_off:
            jitter.ratios.append(ratio / slowdown)
            known.ratios.append(ratio)
            _follow(known)
        self._latest = known
        known.seen += 1
        if known.seen >= known.fit_at:
            known.fit_at += min(known.seen, _FIT_EVERY)
            known.losses = fitted(np.array(known.steps), known.prior, known.losses)
            self._tabulate(known)

    def _slowdown(self, known: _Class) -> float:
        """Of this class; while it is new, of the one that ran last."""
        new = len(known.ratios) < _RECENT // 2 and self._latest is not None
        return self._latest.slowdown if new and self._latest is not None else known.slowdown

    def _class(self, load: Load) -> _Class:
        number = _UNKNOWN
        cores = load.machine_cores or load.cores
        if load.others is not None and cores:
            number = bisect_left(_PER_CORE, load.others / cores)
        known = self._classes.get(number)
        return known or self._begin(number)

    def _begin(self, number: int) -> _Class:
        typical = _UNKNOWN_TYPICAL if number == _UNKNOWN else _TYPICAL[number]
        # while a core is free, it is mostly found; a loss in 500 slices is what an idle machine has
        contention = max(0.002, min(1.0, typical) ** 4)
        prior = expected_losses(contention, TURN_MS * max(1.0, typical))
        known = self._classes[number] = _Class(prior, prior)
        self._tabulate(known)
        return known

    def _tabulate(self, known: _Class) -> None:
        """What a number of losses to expect means for each length of steps, ready to be looked up."""
        tops = [jitter.coverage.asked for jitter in self._jitters]
        stolen, none = known.losses.quantiles(np.array([*LEVELS[:-1], *tops]))
        own, added = [], []
        for at, jitter in enumerate(self._jitters):
            levels = np.array([*LEVELS[:-1], tops[at]])
            column = [*range(len(LEVELS) - 1), len(LEVELS) - 1 + at]
            is_lost = levels > none[:, None]
            usual = jitter.quantiles(np.append(np.minimum(levels / none[:, None], 0.9995).ravel(), 0.6))
            own.append(np.where(is_lost, usual[-1], usual[:-1].reshape(is_lost.shape)))
            added.append(np.where(is_lost, stolen[:, :, column], 0.0))
        known.answers.clear()
        known.own, known.stolen = np.stack(own), np.stack(added, axis=1)


def _predicted(known: _Class, own_ms: FloatArray, ran_ms: float) -> FloatArray:
    """(steps, levels) of steps that take `own_ms`, (steps,), after `ran_ms`."""
    used_ms = own_ms + ran_ms
    mean = known.losses.until(used_ms) - known.losses.until(np.array(ran_ms))
    row, length = np.searchsorted(_BETWEEN_MEANS, mean), np.searchsorted(_LENGTHS, own_ms)
    later = (used_ms > EARLY_MS).astype(np.intp)
    finish_ms = own_ms[:, None] * known.own[length, row] + known.stolen[later, length, row]
    return np.maximum.accumulate(finish_ms, axis=1)


def _follow(known: _Class) -> None:
    """A new ratio: the settled median, unless the last few say that it changed; what was before is then forgotten."""
    ratios, before = known.ratios, known.slowdown
    recent = [ratios[at] for at in range(-min(_RECENT, len(ratios)), 0)]
    now = sorted(recent)[len(recent) // 2]
    if len(ratios) > _RECENT and abs(now / before - 1) > _CHANGED:
        ratios.clear()
        ratios.extend([ratio for ratio in recent if abs(ratio - now) < abs(ratio - before)])
        known.slowdown = sorted(ratios)[len(ratios) // 2]
    elif len(ratios) <= _RECENT or known.seen % 8 == 0:
        known.slowdown = sorted(ratios)[len(ratios) // 2]
