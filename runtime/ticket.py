"""What `Session.submit` gives: an answer that gets better until the deadline, to be had at any moment."""

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotDone
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from functools import cache
from math import inf
from threading import Lock
from time import monotonic
from typing import Any

from ..policies.situation import Stop
from .answer import Answer
from .engines.cut import Cut

_WAKING_S = 0.00025  # before the deadline, as a thread takes 60 to 150 µs to wake up, and the answer is to be in time


class OnLate(StrEnum):
    """What becomes of a ticket that has reached no exit by its deadline."""

    WAIT = "wait"  # for the first exit, with `deadline_met` False
    DROP = "drop"  # it ends at once, without an answer


class Ticket(Future["Answer | None"]):
    """One sample that a session works on. `best()` has the answer so far at any moment, `result()` the last one.

    It is done when the policy stops, or at the deadline, with the best answer so far; without any by then, it waits
    for the first exit, or ends with None as its result (`on_late="drop"`). Cancelling it also ends the graph that is
    running. It can be awaited. Callbacks run in a thread of the session, which they keep waiting.
    """

    def __init__(self, arrival: float, deadline: float, on_late: OnLate, wall: Callable[[], float] = monotonic):
        super().__init__()
        self.cut = Cut()
        self.expires_s = deadline - _WAKING_S
        self._arrival, self._deadline, self._on_late, self._wall = arrival, deadline, on_late, wall
        self._best: Callable[[], Answer] | None = None
        self._ending = Lock()
        self._ends = self._runs = False

    def best(self) -> Answer | None:
        """The answer of the most accurate exit so far, as it was made there; None before the first. Doesn't wait.

        Its `stopped_by` is None until the ticket is done; then this is its result.
        """
        if self.done() and not self.cancelled() and self.exception() is None:
            return super().result()
        best = self._best
        return None if best is None else best()

    def result(self, timeout: float | None = None) -> Answer | None:
        """The last answer, at the deadline at the latest if an exit was reached; None if it was dropped.

        Args:
            timeout: seconds to wait at most; None: until it's done.

        Raises:
            TimeoutError: it isn't done by then.
            CancelledError: it was cancelled.
            ClosedError, EngineError, …: whatever kept the session from answering.
        """
        left = self.expires_s - self._wall()
        if self.done() or left == inf or (timeout is not None and timeout < left):
            return super().result(timeout)
        with suppress(NotDone):
            return super().result(max(left, 0.0))
        self.expire()  # not left to the watchdog alone, which may be late
        return super().result(None if timeout is None else timeout - max(left, 0.0))

    def cancel(self) -> bool:
        """Ends the work, even where it is running; False if it was done before."""
        if not self._claim():
            return self.cancelled()
        super().cancel()
        self.set_running_or_notify_cancel()  # tells those who wait for several futures
        self.cut.stop()
        return True

    def running(self) -> bool:
        """Whether it is being worked on now."""
        return self._runs and not self.done()

    def __await__(self) -> Generator[Any, None, Answer | None]:
        return asyncio.wrap_future(self).__await__()

    def begin(self) -> bool:
        """For the worker: whether there is still something to do."""
        self._runs = not self._ends
        return self._runs

    def reach(self, best: Callable[[], Answer]) -> None:
        """For the worker: one more exit, and what makes the best answer so far, as mostly nobody looks at it.

        Past the deadline, the first one is the last.
        """
        if self._ends:
            return
        self._best = cache(best)
        if self._wall() >= self.expires_s:
            self.expire()

    def expire(self) -> None:
        """At the deadline: done with the best answer so far. Without one, it ends or waits, as was said."""
        if (self._best is not None or self._on_late is OnLate.DROP) and self._claim():
            self.cut.stop()
            self._give(Stop.DEADLINE)

    def finish(self, stopped_by: Stop | None, best: Callable[[], Answer] | None = None) -> None:
        """For the worker: no exit follows, for this reason; `best` makes the answer, if not as the last exit's did."""
        if self._claim():
            self._best = best or self._best
            self._give(stopped_by)

    def fail(self, error: BaseException) -> None:
        """It ends with an error."""
        if self._claim():
            self.cut.stop()
            self.set_exception(error)

    def _claim(self) -> bool:
        """Whether the caller is the first to end it."""
        with self._ending:
            first, self._ends = not self._ends, True
        return first

    def _give(self, stopped_by: Stop | None) -> None:
        best = None if self._best is None else self._best()
        if best is not None:
            now = self._wall()
            late = now > self._deadline
            best = replace(best, latency_ms=(now - self._arrival) * 1e3, deadline_met=not late, stopped_by=stopped_by)
        self.set_result(best)


def on_late_of(name: str) -> OnLate:
    """The choice of that name, or ValueError with the names there are."""
    try:
        return OnLate(name)
    except ValueError:
        raise ValueError(f"on_late is {name!r}; give one of {', '.join(OnLate)}") from None
