"""Processor time of the calling thread, read without giving others an occasion to take the core.

On Linux, `time.thread_time` brings the scheduler's books of the running task up to date first, and where its slice is
over by then, which nobody would have noticed before the next tick, the task is preempted on the spot (`update_curr` in
kernel/sched/fair.c). Beside two processes that kept both cores busy, where a slice is 1.4 ms, a thread that woke up and
computed had lost its core within 1.6 ms in 6 to 10 of 100 cases, but in 32 to 90 where it read that clock on the way,
each time for some milliseconds. With the clock below it was 10 to 11 (three times 250 cases, counted by `getrusage`,
Linux 6.18, two cores). How often a thread was switched can be read without all that.
"""

import time
from collections.abc import Callable
from threading import local

Clock = Callable[[], float]
Switches = Callable[[], int]
_NEVER = None, 0.0, 0.0


class ThreadClock:
    """Seconds as `time.thread_time` gives them, from any thread, each for itself.

    A thread that wasn't switched since its last reading has been running, so its processor time went on as the wall
    clock did. Otherwise it has a new slice, and reading the exact clock does no harm.

    Args:
        switches: how often the calling thread was switched.
        wall, exact: the clocks.
    """

    def __init__(self, switches: Switches, wall: Clock = time.perf_counter, exact: Clock = time.thread_time):
        self._switches, self._wall, self._exact = switches, wall, exact
        self._last = local()

    def __call__(self) -> float:
        # the wall clock first: a thread that is switched between the two readings must not count its time away
        now_s, switches = self._wall(), self._switches()
        read_at, cpu_s, wall_s = getattr(self._last, "read", _NEVER)
        if read_at == switches:
            return cpu_s + (now_s - wall_s)
        while read_at != switches:  # once more where the thread was switched in between
            read_at, cpu_s, wall_s = switches, self._exact(), self._wall()
            switches = self._switches()
        self._last.read = read_at, cpu_s, wall_s
        return cpu_s


def _make_clock() -> Clock:
    try:
        from resource import RUSAGE_THREAD, getrusage
    except ImportError:  # not Linux
        return time.thread_time

    def switches() -> int:
        voluntary, involuntary = getrusage(RUSAGE_THREAD)[-2:]
        return voluntary + involuntary

    return ThreadClock(switches)


thread_clock = _make_clock()
