"""One thread that does what it is given, in order, and can end."""

import logging
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Lock, Thread, current_thread
from time import thread_time

Job = Callable[[float], object]  # told since when the thread runs without a sleep, in seconds of its own clock

log = logging.getLogger(__name__)


class Worker:
    """Starts with the first job; `name` is the thread's.

    Args:
        begin: called in the thread before the first job.
        end: called in the thread after the last one.
    """

    def __init__(self, name: str, begin: Callable[[], object] | None = None, end: Callable[[], object] | None = None):
        self.name, self._begin, self._end = name, begin, end
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._starting = Lock()
        self._thread: Thread | None = None

    def put(self, job: Job) -> None:
        """Will call `job` in the thread; one that raises is logged."""
        if self._thread is None:
            self._start()
        self._jobs.put(job)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Ends after what was put before; whether that was within `timeout_s`."""
        self._jobs.put(None)
        with self._starting:
            thread = self._thread
        if thread is None or thread is current_thread():
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = Thread(target=self._work, name=self.name, daemon=True)
                self._thread.start()

    def _work(self) -> None:
        if self._begin is not None:
            self._begin()
        awake_cpu_s = thread_time()
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                job = self._jobs.get()
                awake_cpu_s = thread_time()
            if job is None:
                break
            try:
                job(awake_cpu_s)
            except Exception:
                log.exception("%s: a job failed", self.name)
            del job  # may hold its request's arrays until the next one comes
        if self._end is not None:
            self._end()
