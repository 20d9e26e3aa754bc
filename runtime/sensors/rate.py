"""How fast a counter grows."""

from collections.abc import Callable


class Rate:
    """Growth per second of a counter that is read again and again; in [0, 1] where it counts seconds of a second.

    `clock`: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._before: tuple[float, float] | None = None

    def of(self, total: float) -> float | None:
        """Growth per second since the reading before; None at the first, 0 for a counter that was set back."""
        now_s = self._clock()
        before, self._before = self._before, (now_s, total)
        if before is None or now_s <= before[0]:
            return None
        return max(0.0, (total - before[1]) / (now_s - before[0]))
