"""Who wants to run, and who ran: Linux's `/proc/loadavg`, `/proc/stat` and `/proc/self/stat`."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .files import text_of
from .watched import Reading


class Running:
    """`others`: tasks of the whole system that run or wait to run at this moment, without our own; the run queue.

    The kernel counts threads, over all cores, also from within a container. The thread that reads is one of them and
    isn't counted; of this process's other threads those are left out that `own_running` knows of: a busy thread of the
    caller's own takes time from a step as any other task does. Costs 1.3 µs, by one descriptor that stays open.

    `own_running`: how many threads of this process run a step just now.
    """

    period_s = 0.0

    def __init__(self, root: Path = Path("/"), own_running: Callable[[], int] = lambda: 0):
        self._own_running = own_running
        self._file = os.open(root / "proc/loadavg", os.O_RDONLY)

    def read(self) -> Reading:
        """Raises ValueError or IndexError where the file isn't what Linux writes, OSError where it can't be read."""
        running = int(os.pread(self._file, 128, 0).split(b" ", 4)[3].partition(b"/")[0])  # 0.42 0.31 0.24 3/103 23172
        return {"others": float(max(0, running - 1 - self._own_running()))}

    def close(self) -> None:
        os.close(self._file)


class Spent(NamedTuple):
    """`cores`: by core (busy, all) of its time since the start; `own`: of all cores' busy time, this process's."""

    cores: Mapping[Any, tuple[float, float]]
    own: float


def shares(before: Spent, now: Spent) -> Reading:
    """`busy`: what others took of the cores' time in between, missing where none has passed.

    Cores that came or went in between are left out.
    """
    pairs = [(before.cores[core], spent) for core, spent in now.cores.items() if core in before.cores]
    total = sum(after[1] - start[1] for start, after in pairs)
    if total <= 0:
        return {}
    others = sum(after[0] - start[0] for start, after in pairs) - (now.own - before.own)
    return {"busy": min(1.0, max(0.0, others / total))}  # ticks are 10 ms: at rest, rounding can make it negative


class Shares:
    """`busy`: what others took of the cores' time since the reading before.

    Time stolen by the hypervisor counts as busy.
    """

    period_s = 1.0

    def __init__(self, root: Path = Path("/")):
        self._stat, self._own_stat = root / "proc/stat", root / "proc/self/stat"
        self._before = self._ticks()

    def read(self) -> Reading:
        """Empty where less than a tick has passed; OSError, ValueError where the files are wrong."""
        before, self._before = self._before, self._ticks()
        return shares(before, self._before)

    def _ticks(self) -> Spent:
        lines = (line.split() for line in text_of(self._stat).partition("\nintr")[0].splitlines())
        cores = {name: _busy_and_all([int(part) for part in ticks]) for name, *ticks in lines if name != "cpu"}
        own = text_of(self._own_stat).rpartition(")")[2].split()  # the name in brackets may hold anything
        return Spent(cores, int(own[11]) + int(own[12]))


def _busy_and_all(ticks: list[int]) -> tuple[int, int]:
    """Of user, nice, system, idle, iowait, irq, softirq, steal; guests' time, which follows, is part of user's."""
    total = sum(ticks[:8])
    return total - sum(ticks[3:5]), total
