"""Ask the operating system to run one thread before others, as far as it allows."""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from errno import EPERM
from threading import get_native_id
from typing import Any

log = logging.getLogger(__name__)
LEVELS = ("normal", "high")
NICE = -15  # was worth nearly as much as real time beside two busy processes (design, "What was measured")


@dataclass(frozen=True, slots=True)
class Granted:
    """What one thread got. `kind`: "real-time", "nice" or "normal"; `says`: that in a plain sentence."""

    kind: str
    says: str
    _restore: Callable[[], None] | None = None

    def restore(self) -> None:
        """Gives the thread its former priority back, from any thread, best from itself before it ends. Never raises."""
        if self._restore is None:
            return
        try:
            self._restore()
        except OSError as error:
            log.info("former priority not restored: %s", error)


def check_level(level: str) -> None:
    """Raises ValueError unless it is one of `LEVELS`."""
    if level not in LEVELS:
        raise ValueError(f"priority {level!r} isn't known; there are {', '.join(LEVELS)}")


def raise_priority(level: str = "high", system: Any = os) -> Granted:
    """Asks for more priority for the calling thread alone; what is refused is no error, `says` tells it.

    On Linux real-time priority (`SCHED_FIFO`, the lowest), else niceness as low as allowed. Both with
    `SCHED_RESET_ON_FORK`, so that neither threads nor processes that this thread starts inherit it. Niceness may count
    only among programs of the same control group, and of the same terminal session (autogroup). Elsewhere the standard
    library can set it for a whole process at most, and nothing is asked.

    Args:
        level: "high", or "normal" for nothing.
        system: the module `os`, or something that stands for it.

    Raises:
        ValueError: no such level.
    """
    check_level(level)
    if level == "normal":
        return Granted("normal", "normal priority, as asked")
    if not hasattr(system, "SCHED_RESET_ON_FORK"):
        return Granted("normal", f"normal priority: on {sys.platform} it can't be raised for one thread alone")
    try:
        return _Thread(system).raised()
    except OSError as error:
        return Granted("normal", f"normal priority: more was refused ({error.strerror})")


class _Thread:
    """The calling thread as Linux's scheduler sees it, and the priority that it had."""

    def __init__(self, system: Any):
        self._system, self._id = system, get_native_id()
        self._policy, self._parameter = system.sched_getscheduler(self._id), system.sched_getparam(self._id)
        self._nice = system.getpriority(system.PRIO_PROCESS, self._id)

    def raised(self) -> Granted:
        """Raises OSError where all was refused; the thread is as it was then."""
        if self._policy & ~self._system.SCHED_RESET_ON_FORK in (self._system.SCHED_FIFO, self._system.SCHED_RR):
            return Granted("real-time", "real-time priority, which the thread had before")
        try:
            self._schedule(self._system.SCHED_FIFO, self._system.sched_param(1))
            return Granted("real-time", "real-time priority (SCHED_FIFO 1), for one thread alone", self._restore)
        except OSError as refusal:
            nice = self._nicer()
            says = (
                f"nice {nice} instead of {self._nice}, for one thread alone; real time was refused ({refusal.strerror})"
            )
            return Granted("nice", says, self._restore)

    def _schedule(self, policy: int, parameter: Any) -> None:
        self._system.sched_setscheduler(self._id, policy | self._system.SCHED_RESET_ON_FORK, parameter)

    def _nicer(self) -> int:
        nice = self._lowest_nice()
        self._schedule(self._policy, self._parameter)
        return nice

    def _lowest_nice(self) -> int:
        """Takes the lowest that is allowed, down to `NICE`; what a limit allows can't be asked in every container."""
        refusal = OSError(EPERM, f"nice is {self._nice} already")
        for nice in range(NICE, self._nice):
            try:
                self._system.setpriority(self._system.PRIO_PROCESS, self._id, nice)
                return nice
            except OSError as error:
                refusal = error
        raise refusal

    def _restore(self) -> None:
        self._system.setpriority(self._system.PRIO_PROCESS, self._id, self._nice)
        try:
            self._system.sched_setscheduler(self._id, self._policy, self._parameter)
        except PermissionError:  # who has no privilege can't take SCHED_RESET_ON_FORK back
            self._schedule(self._policy, self._parameter)
