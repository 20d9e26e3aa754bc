"""What psutil knows, for systems without `/proc`: macOS, Windows, the BSDs."""

from pathlib import Path
from typing import Any

from .cpu import Spent, shares
from .watched import Reading


class Portable:
    """`busy`, `cores`, `machine_cores`, `memory_mb`, `battery`, `on_mains`, `frequency`, where psutil tells it.

    Args:
        root: not looked at; psutil asks the system.
        system: the module `psutil`, imported where it isn't given.
    """

    period_s = 1.0

    def __init__(self, root: Path = Path("/"), system: Any = None):
        if system is None:
            import psutil

            system = psutil
        self._psutil, self._process = system, system.Process()
        self._before = self._spent()

    def read(self) -> Reading:
        """Raises `psutil.Error`, OSError."""
        before, self._before = self._before, self._spent()
        cores = self._psutil.cpu_count()
        left = self._psutil.virtual_memory().available
        return {
            "cores": cores and float(cores),
            "machine_cores": cores and float(cores),
            "memory_mb": left / 1e6,
            **shares(before, self._before),
            **self._power(),
            **self._clock(),
        }

    def _spent(self) -> Spent:
        """In seconds."""
        cores = enumerate(self._psutil.cpu_times(percpu=True))
        own = self._process.cpu_times()
        return Spent({core: (sum(times) - times.idle, sum(times)) for core, times in cores}, own.user + own.system)

    def _power(self) -> Reading:
        battery = self._psutil.sensors_battery() if hasattr(self._psutil, "sensors_battery") else None
        return {} if battery is None else {"battery": battery.percent / 100, "on_mains": battery.power_plugged}

    def _clock(self) -> Reading:
        clock = self._psutil.cpu_freq() if hasattr(self._psutil, "cpu_freq") else None
        return {"frequency": min(1.0, clock.current / clock.max)} if clock is not None and clock.max else {}
