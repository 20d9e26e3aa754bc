"""One sensor under watch: whatever becomes of it, there is a reading, if an empty one."""

import logging
from collections.abc import Callable
from math import inf
from typing import Any, Protocol

log = logging.getLogger(__name__)
RETRY_S = 60.0
Reading = dict[str, Any]  # fields of `Load`; what is missing or None is unknown


class Sensor(Protocol):
    """Reads one source; made from the root of the file system, so that recorded files serve too; used by one thread.

    `period_s`: how often it is worth reading. May raise anything, when made and when read, and may have `close()`.
    """

    period_s: float

    def read(self) -> Reading: ...


class Watched:
    """A sensor by name, made when it is first read; one that fails is logged once and made anew after `RETRY_S`.

    `reading`: its last; empty before the first and while it fails. `due_s`: when to read it next, on `now_s`'s clock.
    """

    def __init__(self, name: str, make: Callable[[], Sensor]):
        self.name, self.reading, self.due_s = name, Reading(), -inf
        self._make = make
        self._sensor: Sensor | None = None
        self._is_logged = False

    def read(self, now_s: float) -> None:
        """Never raises."""
        try:
            if self._sensor is None:
                self._sensor = self._make()
            self.reading, self.due_s = self._sensor.read(), now_s + self._sensor.period_s
        except Exception as error:
            self._log(error)
            self.close()
            self.reading, self.due_s = Reading(), now_s + RETRY_S

    def close(self) -> None:
        """Frees what the sensor holds; reading it again would make it anew. Never raises."""
        sensor, self._sensor = self._sensor, None
        try:
            if sensor is not None and hasattr(sensor, "close"):
                sensor.close()
        except Exception as error:
            self._log(error)

    def _log(self, error: Exception) -> None:
        level = logging.DEBUG if self._is_logged else logging.WARNING if self.reading else logging.INFO
        log.log(level, "sensor %s: unknown from now on, %s: %s", self.name, type(error).__name__, error)
        self._is_logged = True
