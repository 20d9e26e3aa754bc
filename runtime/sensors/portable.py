"""What psutil knows, for systems without `/proc`: macOS, Windows, the BSDs."""

from pathlib import Path
from typing import Any

from .watched import Reading


class Portable:
    """`busy`, `core_busy`, `cores`, `memory_mb`, `battery`, `on_mains`, `frequency`, each where psutil tells it here.

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
        self._before = self._times()

    def read(self) -> Reading:
        """Raises `psutil.Error`, OSError."""
        cores = self._psutil.cpu_count()
        left = self._psutil.virtual_memory().available
        return {
            "cores": cores and float(cores),
            "memory_mb": left / 1e6,
            **self._shares(),
            **self._power(),
            **self._clock(),
        }

    def _times(self) -> tuple[list[tuple[float, float]], float]:
        """Per core seconds (busy, all) since the start, and this process's."""
        cores = [(sum(times) - times.idle, sum(times)) for times in self._psutil.cpu_times(percpu=True)]
        own = self._process.cpu_times()
        return cores, own.user + own.system

    def _shares(self) -> Reading:
        (before, own_before), self._before = self._before, self._times()
        now, own = self._before
        spans = [(b - b0, total - total0) for (b, total), (b0, total0) in zip(now, before, strict=True)]
        total_s = sum(span for _, span in spans)
        if total_s <= 0:
            return {}
        others_s = sum(busy for busy, _ in spans) - (own - own_before)
        core_busy = tuple(min(1.0, max(0.0, busy / span)) if span > 0 else 0.0 for busy, span in spans)
        return {"busy": min(1.0, max(0.0, others_s / total_s)), "core_busy": core_busy}

    def _power(self) -> Reading:
        battery = self._psutil.sensors_battery() if hasattr(self._psutil, "sensors_battery") else None
        return {} if battery is None else {"battery": battery.percent / 100, "on_mains": battery.power_plugged}

    def _clock(self) -> Reading:
        clock = self._psutil.cpu_freq() if hasattr(self._psutil, "cpu_freq") else None
        return {"frequency": min(1.0, clock.current / clock.max)} if clock is not None and clock.max else {}
