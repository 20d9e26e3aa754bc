"""One thread that does what it is given, in order, and can end."""

import logging
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread, current_thread

from .priority import Granted, check_level, raise_priority
from .thread_clock import thread_clock

Job = Callable[[float], object]  # told since when the thread runs without a sleep, in seconds of its own clock

log = logging.getLogger(__name__)


class Worker:
    """Starts with the first job; `name` is the thread's. `granted`: what priority it got, None before it started.

    `priority`: that it asks for, one of `LEVELS`; given back at its end.

    Raises:
        ValueError: no such priority.
    """

    def __init__(self, name: str, priority: str = "normal"):
        check_level(priority)
        self.name, self._priority = name, priority
        self.granted: Granted | None = None
        self._started = Event()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._starting = Lock()
        self._thread: Thread | None = None

    def put(self, job: Job) -> None:
        """Will call `job` in the thread; one that raises is logged."""
        self.start()
        self._jobs.put(job)

    def start(self, timeout_s: float = 0.0) -> bool:
        """Starts the thread where it wasn't; whether it knows its priority within `timeout_s`."""
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    thread = Thread(target=self._work, name=self.name, daemon=True)
                    thread.start()
                    self._thread = thread
        return self._started.wait(timeout_s)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Ends after what was put before; whether that was within `timeout_s`."""
        self._jobs.put(None)
        with self._starting:
            thread = self._thread
        if thread is None or thread is current_thread():
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def _work(self) -> None:
        self.granted = raise_priority(self._priority)
        self._started.set()
        awake_cpu_s = thread_clock()
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                job = self._jobs.get()
                awake_cpu_s = thread_clock()
            if job is None:
                break
            try:
                job(awake_cpu_s)
            except Exception:
                log.exception("%s: a job failed", self.name)
            del job  # may hold its request's arrays until the next one comes
        self.granted.restore()
