"""Rings at set moments, from one thread for all: what cuts off steps that would end too late."""

import heapq
import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from math import inf
from threading import Condition, Thread, current_thread
from time import monotonic

from .engines.cut import Cut

Ring = Callable[[], float | None]  # told nothing; gives the moment to ring again, if any

_IDLE_S = 60.0
_CROWD = 256  # alarms, past which those that were called off are thrown out, each time that they have doubled
_FIRST_LAG_S = 0.002  # measured: a graph ends 0.8 to 2.3 ms after its termination was asked for, in the median

log = logging.getLogger(__name__)


class Alarm:
    """What `Watchdog.at` set; `call_off` unsets it, unless it is ringing already."""

    __slots__ = ("ring",)

    def __init__(self, ring: Ring):
        self.ring: Ring | None = ring

    def call_off(self) -> None:
        """It won't ring any more."""
        self.ring = None


class Watchdog:
    """A thread that starts with the first alarm and sleeps until the next one; `name` is the thread's.

    Whoever rings keeps the others waiting, so rings are short. One that raises is logged. `wall` gives seconds.
    """

    def __init__(self, name: str = "stretto-watchdog", wall: Callable[[], float] = monotonic):
        self.name, self._wall = name, wall
        self._changed = Condition()
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._order, self._crowd = count(), _CROWD
        self._wakes_s = inf
        self._thread: Thread | None = None
        self._closed = False

    def at(self, moment_s: float, ring: Ring) -> Alarm:
        """Calls `ring` at a moment of the clock, at once if it is past, and never once the watchdog is closed."""
        alarm = Alarm(ring)
        with self._changed:
            if self._closed:
                return alarm
            if len(self._alarms) >= self._crowd:
                self._alarms = [entry for entry in self._alarms if entry[2].ring is not None]
                heapq.heapify(self._alarms)
                self._crowd = max(_CROWD, 2 * len(self._alarms))
            heapq.heappush(self._alarms, (moment_s, next(self._order), alarm))
            if self._thread is None:
                thread = Thread(target=self._watch, name=self.name, daemon=True)
                thread.start()
                self._thread = thread
            elif moment_s < self._wakes_s:
                self._changed.notify()
        return alarm

    def close(self, timeout_s: float = 1.0) -> bool:
        """Rings no more; whether the thread ended within `timeout_s`."""
        with self._changed:
            self._closed = True
            self._alarms.clear()
            self._changed.notify()
            thread = self._thread
        if thread is None or thread is current_thread():
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def _watch(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                due = self._take_due(self._wall())
                if not due:
                    self._sleep()
            for alarm in due:
                self._ring(alarm)

    def _take_due(self, now: float) -> list[Alarm]:
        due = []
        while self._alarms and (self._alarms[0][0] <= now or self._alarms[0][2].ring is None):
            due.append(heapq.heappop(self._alarms)[2])
        return due

    def _sleep(self) -> None:
        self._wakes_s = self._alarms[0][0] if self._alarms else inf
        self._changed.wait(min(self._wakes_s - self._wall(), _IDLE_S))
        self._wakes_s = -inf  # awake: whoever comes now is seen anyway

    def _ring(self, alarm: Alarm) -> None:
        ring = alarm.ring
        if ring is None:
            return
        try:
            again_s = ring()
        except Exception:
            log.exception("%s: an alarm failed", self.name)
            return
        if again_s is not None:
            with self._changed:
                heapq.heappush(self._alarms, (again_s, next(self._order), alarm))


class Lags:
    """How long steps went on lately after they should have been cut off: `lead_s`, in seconds, is what to expect."""

    def __init__(self) -> None:
        self._last: deque[float] = deque([_FIRST_LAG_S], maxlen=32)
        self.lead_s = _FIRST_LAG_S

    def add(self, lag_s: float) -> None:
        """One more; the expectation is the 90 % quantile of the last 32."""
        self._last.append(lag_s)
        self.lead_s = sorted(self._last)[int(0.9 * len(self._last))]


class Guard:
    """Cuts off a request that has an answer in hand, where its step wouldn't end by the deadline.

    As a step takes a while to end, an answer at the deadline needs it cut off before: at `lags.lead_s` before the
    deadline, if it then takes longer than 99 % were expected to, else once it does, and at the deadline at last.

    `cut`: to run the steps with.
    """

    __slots__ = ("_alarm", "_begun_s", "_deadline", "_lags", "_off_s", "_rang_s", "_wall", "_watchdog", "cut")

    def __init__(self, watchdog: Watchdog, lags: Lags, deadline: float, wall: Callable[[], float]):
        self._watchdog, self._lags, self._deadline, self._wall = watchdog, lags, deadline, wall
        self.cut = Cut()
        self._begun_s, self._off_s, self._rang_s = -inf, deadline, -inf
        self._alarm: Alarm | None = None

    def expect(self, begun_s: float, end_s: float) -> None:
        """Before each step: when that began, and when 99 % of its like have ended."""
        early_s = self._deadline - self._lags.lead_s
        self._begun_s, self._off_s = begun_s, min(max(early_s, end_s), self._deadline)
        if self._alarm is None:
            self._alarm = self._watchdog.at(early_s, self._ring)
        self.look()

    def look(self) -> None:
        """Between two parts of a step: past the deadline the next one needn't begin for the watchdog to end it."""
        if self._wall() >= self._deadline:
            self.cut.stop()

    def was_cut(self, ended_s: float) -> None:
        """Takes note of how long the step went on that was cut off."""
        if self._rang_s >= self._begun_s:  # otherwise it was cut off before it began
            self._lags.add(ended_s - self._rang_s)

    def call_off(self) -> None:
        """The request ended."""
        if self._alarm is not None:
            self._alarm.call_off()

    def _ring(self) -> float | None:
        if self._wall() < self._off_s:
            return self._off_s
        self._rang_s = self._off_s  # when it should have rung: waking up late is part of the lag
        self.cut.stop()
        return None


class Guards:
    """Those of a session's requests, with what they learn from each other."""

    def __init__(self, watchdog: Watchdog, wall: Callable[[], float]):
        self._watchdog, self._lags, self._wall = watchdog, Lags(), wall

    def until(self, deadline: float) -> Guard:
        """One for a request with that deadline."""
        return Guard(self._watchdog, self._lags, deadline, self._wall)

    @staticmethod
    def help(ends_ms: Sequence[float], has_answer: bool) -> bool:
        """Whether a part of a step is longer than it takes to end one, so that cutting it off gains anything.

        Args:
            ends_ms: when its parts end, from when the first begins.
            has_answer: whether the first part may be cut off too.
        """
        before_ms = 0.0 if has_answer else inf
        for end_ms in ends_ms:
            if end_ms - before_ms > _FIRST_LAG_S * 1e3:
                return True
            before_ms = end_ms
        return False
