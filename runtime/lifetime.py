"""How long a session lives: in one process, until it is closed, and its threads with it."""

import logging
import os
from collections.abc import Mapping
from typing import Protocol

from .errors import ClosedError

log = logging.getLogger(__name__)


class Ends(Protocol):
    """A thread, or whoever has one."""

    def close(self, timeout_s: float = ...) -> bool:
        """Ends it; whether that was in time."""


class Lifetime:
    """From the load of a session to its end. `name`: of its bundle; `threads`: by what a warning calls them."""

    def __init__(self, name: str, threads: Mapping[str, Ends | None]):
        self._name, self._pid, self._is_over = name, os.getpid(), False
        self._threads = {what: thread for what, thread in threads.items() if thread is not None}

    @property
    def error(self) -> ClosedError:
        """What whoever uses it afterwards is told."""
        return ClosedError(f"the session of {self._name} is closed; load it again")

    def require(self) -> None:
        """Raises ClosedError where the session is closed, or of another process."""
        if self._is_over:
            raise self.error
        if os.getpid() != self._pid:
            raise ClosedError(
                f"the session of {self._name} was loaded in process {self._pid}, not in its fork {os.getpid()}; "
                "load it again there"
            )

    def end(self) -> bool:
        """Whether there is something to free: the first time only, and not in a fork, which has none of it."""
        is_first = not self._is_over and os.getpid() == self._pid
        self._is_over = True
        return is_first

    def end_threads(self) -> None:
        """Waits for each; one that is busy for too long is logged."""
        for what, thread in self._threads.items():
            if not thread.close():
                log.warning("%s: the %s is still busy; it ends by itself", self._name, what)

    def let_go(self) -> None:
        """Asks the threads of a session that is gone to end, without waiting for them; a fork has none of them."""
        if os.getpid() == self._pid:
            for thread in self._threads.values():
                thread.close(0.0)
