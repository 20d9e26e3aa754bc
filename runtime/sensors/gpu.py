"""NVIDIA's graphics processors, by NVML."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...policies.load import GpuLoad
from ..nvml import open_nvml
from .watched import Reading

log = logging.getLogger(__name__)
# bits of nvml.h (nvmlClocksEventReason…) that mean slower than asked for: power cap, hardware slowdown, heat as seen by
# the driver and by the board, power brake; idle clocks, and clocks that somebody set, are none
THROTTLED = 0x04 | 0x08 | 0x20 | 0x40 | 0x80


class Gpus:
    """`gpus`: load of each, in the driver's order.

    What a device doesn't tell (a partition, an old board) is None. A device that tells nothing at all, as one that fell
    off the bus, fails the reading.

    Args:
        root: not looked at; NVML is a library.
        nvml: the module `pynvml`, imported where it isn't given.

    Raises:
        pynvml.NVMLError: there is no driver.
    """

    period_s = 0.5

    def __init__(self, root: Path = Path("/"), nvml: Any = None):
        self._nvml = nvml = open_nvml(nvml)
        self._devices = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]

    def read(self) -> Reading:
        """Raises `pynvml.NVMLError`."""
        return {"gpus": tuple(self._load(device) for device in self._devices)}

    def close(self) -> None:
        self._nvml.nvmlShutdown()

    def _load(self, device: Any) -> GpuLoad:
        load = GpuLoad(
            busy=self._ask(self._busy, device),
            memory=self._ask(self._memory, device),
            clock=self._ask(self._clock, device),
            throttled=self._ask(self._throttled, device),
            power_w=self._ask(self._power_w, device),
        )
        if load == GpuLoad():
            self._memory(device)  # raises what is wrong
        return load

    def _ask(self, question: Callable[[Any], Any], device: Any) -> Any:
        try:
            return question(device)
        except self._nvml.NVMLError as error:
            log.debug("%s of a GPU: %s", question.__name__, error)
            return None

    def _busy(self, device: Any) -> float:
        return self._nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100

    def _memory(self, device: Any) -> float:
        memory = self._nvml.nvmlDeviceGetMemoryInfo(device)
        return memory.used / memory.total

    def _clock(self, device: Any) -> float:
        of_multiprocessors = self._nvml.NVML_CLOCK_SM
        highest_mhz = self._nvml.nvmlDeviceGetMaxClockInfo(device, of_multiprocessors)
        return self._nvml.nvmlDeviceGetClockInfo(device, of_multiprocessors) / highest_mhz

    def _throttled(self, device: Any) -> bool:
        return bool(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device) & THROTTLED)

    def _power_w(self, device: Any) -> float:
        return self._nvml.nvmlDeviceGetPowerUsage(device) / 1000
