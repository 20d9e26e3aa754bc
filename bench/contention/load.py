"""Other people's load: processes that keep cores or memory busy, and end with the bench whatever becomes of it.

A process obeys its standard input: "on" and "off" a line, and its end is the process's end. So no process outlives a
bench that was interrupted or killed outright.
"""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Self

from ...runtime.errors import StrettoError

START_S = 120.0  # to import NumPy, on a machine that is busy already
END_S = 10.0
SEEN_S = 0.5  # until the scheduler and its averages have seen a new process
MEMORY_BYTES = 64 << 20  # of each of the two arrays that are copied: larger than any cache
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
Switch = Callable[[bool], None]


class LoadError(StrettoError, RuntimeError):
    """A process that makes load didn't begin, or ended."""


class LoadProcess:
    """A process that keeps one core busy whenever it is switched on; off at first."""

    def __init__(self, kind: str) -> None:
        if kind not in WORK:
            raise ValueError(f"load {kind!r} isn't known; there are {', '.join(WORK)}")
        environment = os.environ | dict.fromkeys(THREADS, "1")
        command = [sys.executable, "-P", "-m", __name__, kind]  # -P: no folder of that name here hides the package
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self) -> Self:
        """Returns once it can be switched.

        Raises:
            LoadError: it ended, or isn't ready after `START_S`.
        """
        pipe = self._process.stdout
        if pipe is None or not select.select([pipe], [], [], START_S)[0] or not pipe.read(1):
            raise LoadError(f"a process that makes load isn't ready, exit code {self._process.poll()}; start again")
        return self

    def switch(self, on: bool) -> None:
        """Takes some milliseconds to be felt: what is being computed or copied is finished.

        Raises:
            LoadError: the process has ended.
        """
        try:
            if self._process.stdin is not None:
                self._process.stdin.write(b"on\n" if on else b"off\n")
        except BrokenPipeError:
            raise LoadError(f"a process that makes load ended, exit code {self._process.poll()}; start again") from None

    def end(self) -> None:
        """Ends it at once, and waits until it is gone."""
        self._process.kill()
        self._process.wait(END_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def processes(kind: str, count: int | None = None) -> Iterator[Switch]:
    """Processes that keep `count` cores busy while switched on, by default all that this process may use."""
    with ExitStack() as stack:
        workers = []
        for _ in range(cores() if count is None else count):
            workers.append(LoadProcess(kind))
            stack.callback(workers[-1].end)
        for worker in workers:
            worker.wait_ready()

        def switch(on: bool) -> None:
            for worker in workers:
                worker.switch(on)

        yield switch


@contextmanager
def busy_cores(count: int | None = None) -> Iterator[None]:
    """Keep `count` cores busy with arithmetic, all that this process may use by default."""
    with processes("compute", count) as switch:
        switch(True)
        time.sleep(SEEN_S)
        yield


@contextmanager
def nothing() -> Iterator[Switch]:
    """No load."""
    yield lambda on: None


@contextmanager
def python_thread() -> Iterator[Switch]:
    """A thread of this very process that runs Python without a pause while switched on."""
    on, ended = threading.Event(), threading.Event()

    def work() -> None:
        while not ended.is_set():
            if on.wait(0.1):
                sum(range(1000))

    thread = threading.Thread(target=work, name="busy Python", daemon=True)
    thread.start()
    try:
        yield lambda wanted: on.set() if wanted else on.clear()
    finally:
        ended.set()
        thread.join(END_S)


@dataclass(frozen=True, slots=True)
class Environment:
    """Under what requests are asked. `load`: gives the switch of its load; `bursts`: that goes on and off at random."""

    name: str
    load: Callable[[], AbstractContextManager[Switch]]
    bursts: bool = False


ENVIRONMENTS = (
    Environment("idle", nothing),
    Environment("compute", partial(processes, "compute")),
    Environment("memory", partial(processes, "memory")),
    Environment("bursts", partial(processes, "compute"), bursts=True),
    Environment("python", python_thread),
)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _compute() -> Callable[[], object]:
    """Arithmetic on arrays larger than the second-level cache, as a training process beside the runtime would do."""
    import numpy as np

    state = [np.random.default_rng(0).standard_normal((768, 768), np.float32)]

    def work() -> None:
        state[0] = np.tanh(state[0] @ state[0] / 768)

    return work


def _memory() -> Callable[[], object]:
    """Copies between arrays larger than any cache."""
    import numpy as np

    source, target = (np.ones(MEMORY_BYTES, np.uint8) for _ in range(2))
    return lambda: np.copyto(target, source)


WORK: dict[str, Callable[[], Callable[[], object]]] = {"compute": _compute, "memory": _memory}


def _obey(on: threading.Event) -> None:
    """What a process's second thread does: as the standard input says, until that ends, and the process with it."""
    for line in sys.stdin:
        if line == "on\n":
            on.set()
        else:
            on.clear()
    os._exit(0)


def main(kind: str) -> None:
    """What a process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the bench too, which ends its processes
    on = threading.Event()
    threading.Thread(target=_obey, args=(on,), daemon=True).start()
    work = WORK[kind]()
    print("ready", flush=True)
    while True:
        on.wait()
        work()


if __name__ == "__main__":
    main(sys.argv[1])
