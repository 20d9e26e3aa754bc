"""What a session did so far, as counts."""

from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

from ..policies.situation import OperatingPoint


class Stats(NamedTuple):
    """Of a session since it was loaded.

    Args:
        requests: that ended, with an answer or dropped; a batch is one.
        deadlines_met: of them, answered in time.
        cut_offs: of them, those one of whose steps was ended before its exit.
        failures: how often the engine failed, by point; such a point is offered no more.
        shadowed: samples whose answer by the certified rule was compared with the full network's, in the background.
        agreed: of them, those where it was the same.
        drift: why nothing stops early any more, as the inputs aren't like those that it was calibrated on; None as long
            as they seem to be.
    """

    requests: int
    deadlines_met: int
    cut_offs: int
    failures: dict[OperatingPoint, int]
    shadowed: int = 0
    agreed: int = 0
    drift: str | None = None


class Tally:
    """Counts requests, from any thread; `ended` is called after each."""

    def __init__(self, ended: Callable[[], None] = lambda: None) -> None:
        self._counting, self._ended = Lock(), ended
        self.requests = self.deadlines_met = self.cut_offs = 0

    def add(self, deadline_met: bool, was_cut_off: bool) -> None:
        """A request ended."""
        with self._counting:
            self.requests += 1
            self.deadlines_met += deadline_met
            self.cut_offs += was_cut_off
        self._ended()
