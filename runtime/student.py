"""What a session's time model learns with: between requests, on a thread of its own."""

from threading import Event

from .runner import Runner
from .worker import Worker

PERIOD_S = 0.05
STUDIES_EVERY = 16  # requests at the most, and after the 1st, 2nd, 4th and 8th
_QUIET = 20  # periods without a request, after which the thread sleeps until there is one


class Student:
    """Tells the model of what ran, and lets it study, every `PERIOD_S`. Its thread starts with the first request.

    Requests don't wake it: a thread that is woken asks for the interpreter, and who gives it away in the middle of a
    request loses the core where others want it. Beside two busy processes, 8.5 % of requests were late when some of
    them did that at their end, half of them though their answers had been made in time.
    """

    def __init__(self, name: str, runner: Runner):
        self._worker, self._runner = Worker(name), runner
        self._is_awake, self._requests, self._studied = False, 0, 0
        self._closing = Event()

    def request_ended(self) -> None:
        """From any thread; a count that is missed now and then does no harm."""
        self._requests += 1
        if not self._is_awake:
            self._is_awake = True
            self._worker.put(self._attend)

    def close(self, timeout_s: float = 1.0) -> bool:
        """Whether its thread ended in time."""
        self._closing.set()
        return self._worker.close(timeout_s)

    def _attend(self, awake_cpu_s: float) -> None:
        try:
            quiet, seen = 0, 0
            while quiet < _QUIET and not self._closing.wait(PERIOD_S):
                quiet = quiet + 1 if seen == self._requests else 0
                seen = self._requests
                self._learn()
        finally:
            self._is_awake = False

    def _learn(self) -> None:
        self._runner.learn()
        if self._requests > self._studied and self._requests >= min(2 * self._studied, self._studied + STUDIES_EVERY):
            self._studied = self._requests
            self._runner.study()
