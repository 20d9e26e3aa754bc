"""Own time: what a step takes of the processor now, over what it took when the profile was made."""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .situation import FloatArray

_BETWEEN_MS = (0.3, 1.0, 3.0)  # the lengths of steps whose spread is kept apart
_BETWEEN = np.array(_BETWEEN_MS)
LENGTHS = len(_BETWEEN_MS) + 1
_SPREAD_LEVELS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
_SPREAD = (0.8, 0.85, 0.95, 1.0, 1.06, 1.14, 1.2, 1.35, 1.7)  # at these levels, while little is known
_SPREAD_WORTH = 40  # steps that this is worth
_KEPT = 1600  # steps of a length that count
_RECENT, _SETTLED = 9, 61  # ratios whose median is the slowdown: after a change, and otherwise
_CHANGED = 0.12  # share by which the two differ when there was one
_FASTEST = 0.001  # ratio that a clock too coarse for a step is taken to have shown


def _kept() -> deque[float]:
    return deque(maxlen=_KEPT)


@dataclass(slots=True)
class OwnTimes:
    """Slowdown, the median ratio of own to profiled time lately, and how steps of each length spread around it.

    `ratios`: the last ones, of all lengths; `spreads`: of each length, over the slowdown as it was.
    """

    slowdown: float = 1.0
    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=_SETTLED))
    spreads: list[deque[float]] = field(default_factory=lambda: [_kept() for _ in range(LENGTHS)])
    _noted: int = 0

    @property
    def is_new(self) -> bool:
        """Whether so little ran that the slowdown means nothing yet."""
        return len(self.ratios) < _RECENT // 2

    def note(self, used_ms: float, profiled_ms: float, expected: float, cut_off: bool) -> None:
        """A step that used so much; `expected`: the slowdown it was foretold with. Cut off, it only counts if slow."""
        ratio = max(used_ms / profiled_ms, _FASTEST)
        self._noted += 1
        if cut_off and ratio <= expected:
            return
        self.spreads[length_of(profiled_ms * expected)].append(ratio / expected)
        self.ratios.append(ratio)
        self._follow()

    def _follow(self) -> None:
        """The settled median, unless the last few say that it changed; what was before is then forgotten."""
        ratios, before = self.ratios, self.slowdown
        recent = [ratios[at] for at in range(-min(_RECENT, len(ratios)), 0)]
        now = sorted(recent)[len(recent) // 2]
        if len(ratios) > _RECENT and abs(now / before - 1) > _CHANGED:
            ratios.clear()
            ratios.extend([ratio for ratio in recent if abs(ratio - now) < abs(ratio - before)])
            self.slowdown = sorted(ratios)[len(ratios) // 2]
        elif len(ratios) <= _RECENT or self._noted % 8 == 0:
            self.slowdown = sorted(ratios)[len(ratios) // 2]


def length_of(own_ms: float) -> int:
    """Which of the lengths this is."""
    return bisect_left(_BETWEEN_MS, own_ms)


def length_of_each(own_ms: FloatArray) -> NDArray[np.intp]:
    """The same of (steps,)."""
    return np.searchsorted(_BETWEEN, own_ms)


def spread(ratios: FloatArray, levels: FloatArray) -> FloatArray:
    """Quantiles, any shape in (0, 1), of `ratios`, (steps,) ascending, mixed with what is taken for granted.

    The largest ratio is none of them, so that one outlier changes nothing.
    """
    assumed: FloatArray = np.interp(levels, _SPREAD_LEVELS, _SPREAD)
    count = len(ratios) - 1
    if count < 1:
        return assumed
    weight = count / (count + _SPREAD_WORTH)
    return weight * np.interp(levels * len(ratios) - 0.5, np.arange(count), ratios[:-1]) + (1 - weight) * assumed
