"""What the device's load is just now, read off the request path.

A new sensor: a file here with a class as `watched.Sensor` describes, and a line in `SENSORS`.
"""

import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from math import inf
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from typing import Any, Self

from ...policies.load import UNKNOWN, Load
from .watched import Reading, Sensor, Watched

# name → module:class, relative to here; text, so that listing names imports nothing
SENSORS = {
    "running": ".cpu:Running",
    "shares": ".cpu:Shares",
    "pressure": ".pressure:Pressure",
    "quota": ".cgroup:Quota",
    "frequency": ".frequency:Frequency",
    "temperature": ".temperature:Temperature",
    "memory": ".memory:Memory",
    "power": ".power:Power",
    "gpus": ".gpu:Gpus",
    "portable": ".portable:Portable",
}
EVERY_ROUND = "running"
PERIOD_S = 0.05


class Sensors:
    """The device's load, kept up to date by one thread: `with Sensors() as sensors: … sensors.now`.

    A round reads the run queue and at most one of the slower sensors, so that no round takes long. A sensor that is
    missing or fails is unknown: logged once by name, tried again after a minute, never raising.

    Attributes:
        now: the load as last seen; replaced, never changed, so that reading it takes no lock and waits for nothing.
            Nothing is known before the first round, and after a fork or closing it stays as it was.

    Args:
        root: of the file system; recorded files serve as well.
        period_s: between rounds, in (0, 1]. What changes slowly is read each 0.5 to 2 s, or as rounds allow. On an
            idle machine they took 0.47 % of a core at 40 ms, 0.38 % at 60; nine tenths of it are the bare waking up.
        own_running: how many threads of this process run a step just now, which are no load of others.
        names: keys of `SENSORS`; those for this system where it isn't given.

    Raises:
        ValueError: no such sensor, or `period_s` is out of range.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        period_s: float = PERIOD_S,
        own_running: Callable[[], int] = lambda: 0,
        names: Iterable[str] | None = None,
    ):
        if not 0 < period_s <= 1:
            raise ValueError(f"period_s {period_s}: rounds are more than 0 and at most 1 second apart")
        chosen = _names_for(root) if names is None else _checked(names)
        self.now = UNKNOWN
        self._slow_now = UNKNOWN
        self._fast = [Watched(name, partial(_make, name, root, own_running)) for name in chosen if name == EVERY_ROUND]
        self._slow = [Watched(name, partial(_make, name, root)) for name in chosen if name != EVERY_ROUND]
        self._slow_due_s = -inf if self._slow else inf
        self._period_s, self._pid, self._is_closing = period_s, os.getpid(), False
        self._thread: Thread | None = None

    def start(self) -> Self:
        """Begins to read, on a thread of its own that keeps nobody from exiting; once.

        Raises:
            RuntimeError: it was started before, or belongs to the process that this one was forked from.
        """
        if self._pid != os.getpid():
            raise RuntimeError(f"these sensors belong to process {self._pid}, not to this fork of it; make new ones")
        if self._thread is not None:
            raise RuntimeError("these sensors were started before; make new ones")
        thread = Thread(target=self._run, name="stretto-sensors", daemon=True)
        thread.start()
        self._thread = thread
        return self

    def close(self, timeout_s: float = 2.0) -> bool:
        """Ends the thread after its round; whether it ended in time, since a driver may hang. No wait after a fork."""
        self._is_closing = True
        if self._thread is None or self._pid != os.getpid():
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def processor_s(self) -> float:
        """Processor time that its thread has taken; 0 before it starts.

        Raises:
            AttributeError: this system has no clocks of threads.
        """
        thread = self._thread
        if thread is None or thread.ident is None:
            return 0.0
        return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def round(self, now_s: float) -> None:
        """What the thread does again and again: reads what is due at `now_s`, seconds of a clock that never goes back.

        Not to be called once it is started.
        """
        if self._slow_due_s <= now_s:
            self._read_slow(now_s)
        for fast in self._fast:
            if fast.due_s <= now_s:
                fast.read(now_s)
        self.now = self._slow_now._replace(**self._fast[0].reading) if self._fast else self._slow_now

    def _read_slow(self, now_s: float) -> None:
        min(self._slow, key=_due_s).read(now_s)
        self._slow_due_s = min(map(_due_s, self._slow))
        known: Reading = {}
        for watched in self._slow:
            known.update(watched.reading)
        self._slow_now = Load(**known)

    def _run(self) -> None:
        # sleeping costs 2/3 of waiting for a lock with a time-out and half of an Event; closing then takes a period
        try:
            while not self._is_closing:
                self.round(monotonic())
                sleep(self._period_s)
        finally:
            for watched in self._fast + self._slow:
                watched.close()


def cost(seconds: float = 5.0, period_s: float = PERIOD_S) -> float:
    """Share of a core that the sensors take once they are running, by their thread's own clock, over `seconds`.

    What their start takes isn't counted.

    Raises:
        AttributeError: this system has no clocks of threads.
    """
    with Sensors(period_s=period_s) as sensors:
        sleep(1.0)
        before_s, before_processor_s = monotonic(), sensors.processor_s
        sleep(seconds)
        return (sensors.processor_s - before_processor_s) / (monotonic() - before_s)


def _names_for(root: Path) -> list[str]:
    if (root / "proc/stat").exists():
        return [name for name in SENSORS if name != "portable"]
    return ["portable", "gpus"]


def _checked(names: Iterable[str]) -> list[str]:
    chosen = list(names)
    for name in chosen:
        if name not in SENSORS:
            raise ValueError(f"sensor {name!r} isn't known; there are {', '.join(SENSORS)}")
    return chosen


def _due_s(watched: Watched) -> float:
    return watched.due_s


def _make(name: str, root: Path, *options: Any) -> Sensor:
    module, class_name = SENSORS[name].split(":")
    sensor: Sensor = getattr(import_module(module, __package__), class_name)(root, *options)
    return sensor
