"""What a session's time model learns with: soon after a request, on a thread of its own."""

import time

from .runner import Runner
from .worker import Worker

TOLD_EVERY = 4  # requests
STUDIES_EVERY = 16  # requests at the most, and after the 4th and 8th
_PAUSE_S = 0.002  # so that the request that has just ended is with its caller


class Student:
    """Tells the model of what ran, and lets it study. Its thread starts with the first request that ends.

    Right after a graph, waking that thread takes 40 µs and telling the model would take 80. So some requests are told
    together, but one that was late at once, as something has changed.
    """

    def __init__(self, name: str, runner: Runner):
        self._worker, self._runner = Worker(name), runner
        self._is_busy, self._requests, self._studied = False, 0, 0

    def request_ended(self, in_time: bool) -> None:
        """From any thread; a count that is missed now and then does no harm."""
        self._requests += 1
        if not self._is_busy and (not in_time or self._requests % TOLD_EVERY == 0):
            self._is_busy = True
            self._worker.put(self._learn)

    def close(self, timeout_s: float = 1.0) -> bool:
        """Whether its thread ended in time."""
        return self._worker.close(timeout_s)

    def _learn(self, awake_cpu_s: float) -> None:
        time.sleep(_PAUSE_S)
        self._is_busy = False  # what ends from now on may come too late for this turn
        self._runner.learn()
        if self._requests >= min(2 * self._studied, self._studied + STUDIES_EVERY):
            self._studied = self._requests
            self._runner.study()
