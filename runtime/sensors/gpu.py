"""NVIDIA's graphics processors, by NVML."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...policies.load import GpuLoad
from .watched import Reading

log = logging.getLogger(__name__)
# bits of nvml.h (nvmlClocksEventReason…) that mean: slower than asked for. Idle clocks and clocks that somebody set
# are none.
REASONS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
}


class Gpus:
    """`gpus`: load of each, in the driver's order; `gpu_throttle_reasons`: the names in `REASONS` that hold for each.

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
        if nvml is None:
            import pynvml

            nvml = pynvml
        self._nvml = nvml
        nvml.nvmlInit()
        self._devices = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]

    def read(self) -> Reading:
        """Raises `pynvml.NVMLError`."""
        reasons = [self._ask(self._reasons, device) for device in self._devices]
        loads = [self._load(device, held) for device, held in zip(self._devices, reasons, strict=True)]
        return {"gpus": tuple(loads), "gpu_throttle_reasons": tuple(reasons)}

    def close(self) -> None:
        self._nvml.nvmlShutdown()

    def _load(self, device: Any, reasons: tuple[str, ...] | None) -> GpuLoad:
        load = GpuLoad(
            busy=self._ask(self._busy, device),
            memory=self._ask(self._memory, device),
            clock=self._ask(self._clock, device),
            throttled=None if reasons is None else bool(reasons),
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

    def _reasons(self, device: Any) -> tuple[str, ...]:
        bits = self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)
        return tuple(name for bit, name in REASONS.items() if bits & bit)

    def _power_w(self, device: Any) -> float:
        return self._nvml.nvmlDeviceGetPowerUsage(device) / 1000
