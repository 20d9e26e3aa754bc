"""What lets a session's time model learn: now and then, between requests, on a thread of its own."""

import time

from .runner import Runner
from .worker import Worker

EVERY = 16  # requests; of the first ones, the 2nd, 4th and 8th too
_PAUSE_S = 0.002  # so that the request that has just ended is with its caller


class Student:
    """Counts requests, and asks the model to study after some of them. Its thread starts with the first."""

    def __init__(self, name: str, runner: Runner):
        self._worker, self._runner = Worker(name), runner
        self._requests, self._is_busy = 0, False

    def request_ended(self) -> None:
        """From any thread; a count that is missed now and then does no harm."""
        self._requests += 1
        count = self._requests
        if not self._is_busy and (count % EVERY == 0 or (count < EVERY and count & (count - 1) == 0)):
            self._is_busy = True
            self._worker.put(self._study)

    def close(self, timeout_s: float = 1.0) -> bool:
        """Whether its thread ended in time."""
        return self._worker.close(timeout_s)

    def _study(self, awake_cpu_s: float) -> None:
        try:
            time.sleep(_PAUSE_S)
            self._runner.study()
        finally:
            self._is_busy = False
