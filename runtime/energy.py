"""What a step's time costs in energy: from the device's own meter where one can be read, else from a stated model."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from .nvml import open_nvml

log = logging.getLogger(__name__)
WATTS_PER_CORE = 5.0  # a busy core of a laptop; phones' take 1 to 2, servers' 5 to 10
WATTS_PER_GPU = 200.0
Counter = Callable[[], float]  # millijoules since some moment


@dataclass(frozen=True, slots=True)
class Power:
    """What the device takes while steps run; times milliseconds, that makes millijoules.

    Args:
        watts: the mean, > 0.
        source: one sentence on where it is from.

    Raises:
        ValueError: `watts` isn't positive.
    """

    watts: float
    source: str

    def __post_init__(self) -> None:
        if not 0 < self.watts < float("inf"):
            raise ValueError(f"watts {self.watts}: the power of a busy device is a positive number")


class EnergyMeter:
    """Knows the power while steps ran, from a meter; or, before that and without one, assumes it.

    Package and board meters count all that ran, other programs and what the device takes at rest included: watch steps
    on an otherwise idle device. Under the model only the ratio between steps means anything, and equals that of times.

    Args:
        counter: reads the meter; None for the model.
        name: of the meter.
        watts: power that is assumed.

    Raises:
        ValueError: `watts` isn't positive.
    """

    def __init__(self, counter: Counter | None = None, name: str = "", watts: float = WATTS_PER_CORE):
        self._assumed = Power(watts, f"model: busy time × {watts:.3g} W")
        self._counter, self._name = counter, name
        self._watched_mj = self._watched_s = 0.0

    @property
    def is_there(self) -> bool:
        """Whether there is a meter, which is worth watching steps for."""
        return self._counter is not None

    @property
    def power(self) -> Power:
        """As far as it knows by now."""
        if self._watched_mj > 0:
            watts = self._watched_mj / 1e3 / self._watched_s
            return Power(watts, f"{self._name}: {watts:.3g} W while {self._watched_s:.3g} s of steps ran")
        unread = f"; {self._name} is there and not read yet" if self.is_there else ""
        return replace(self._assumed, source=self._assumed.source + unread)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Around nothing but running steps: reads the meter before and after; adds up.

        For tenths of a second at least, as meters count in steps of about a millisecond. Does nothing without one; a
        meter that can't be read any more is logged and given up. From one thread at a time.
        """
        before_mj, before_s = self._read(), monotonic()
        yield
        after_mj, now_s = self._read(), monotonic()
        # a counter that stood still counts too: else only the times with one of its steps in them would
        if before_mj is not None and after_mj is not None and after_mj >= before_mj:
            self._watched_mj += after_mj - before_mj
            self._watched_s += now_s - before_s

    def _read(self) -> float | None:
        try:
            return self._counter() if self._counter else None
        except Exception as error:
            log.warning("%s can't be read any more: %s", self._name, error)
            self._counter = None
            return None


def open_meter(
    gpu: int | None = None, threads: int = 1, watts: float | None = None, root: Path = Path("/"), nvml: Any = None
) -> EnergyMeter:
    """The meter of what runs the steps, or the model where there is none that may be read.

    Args:
        gpu: number of the graphics processor in NVML's order; None for the processor, whose meter is RAPL.
        threads: of one step; the model assumes so many busy cores.
        watts: power that the model assumes for the steps; None for `WATTS_PER_CORE` × threads, or `WATTS_PER_GPU`.
        root: of the file system.
        nvml: the module `pynvml`, imported where it isn't given and needed.
    """
    assumed = watts if watts is not None else WATTS_PER_CORE * threads if gpu is None else WATTS_PER_GPU
    try:
        if gpu is None:
            return EnergyMeter(Rapl(root), "RAPL, processor packages", assumed)
        return EnergyMeter(_nvml_counter(gpu, nvml), f"NVML, total energy of GPU {gpu}", assumed)
    except Exception as error:
        log.info("no energy meter, %s: %s", type(error).__name__, error)
        return EnergyMeter(watts=assumed)


class Rapl:
    """Millijoules that the processor's packages took since it was made, memory's left out; on Intel and AMD.

    The counters wrap, at 100 W after 40 minutes: called at least that often, nothing is lost. Most systems let only
    root read them. Reference: https://docs.kernel.org/power/powercap/powercap.html

    Raises:
        OSError: there are none, or they may not be read.
    """

    def __init__(self, root: Path = Path("/")):
        zones = sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
        # zones within a package (core, dram) are intel-rapl:0:0 …; psys is the whole device
        packages = [zone for zone in zones if (zone / "name").read_text().startswith("package")]
        if not packages:
            raise FileNotFoundError(f"no package in {root / 'sys/class/powercap'}")
        self._ranges_uj = {zone / "energy_uj": int((zone / "max_energy_range_uj").read_text()) for zone in packages}
        self._before_uj = self._counts_uj()
        self._total_uj = 0

    def __call__(self) -> float:
        before, self._before_uj = self._before_uj, self._counts_uj()
        for path, count in self._before_uj.items():
            grown = count - before[path]
            self._total_uj += grown if grown >= 0 else grown + self._ranges_uj[path]
        return self._total_uj / 1e3

    def _counts_uj(self) -> dict[Path, int]:
        return {path: int(path.read_text()) for path in self._ranges_uj}


def _nvml_counter(gpu: int, nvml: Any) -> Counter:
    nvml = open_nvml(nvml)
    device = nvml.nvmlDeviceGetHandleByIndex(gpu)
    nvml.nvmlDeviceGetTotalEnergyConsumption(device)  # boards before Volta have no such counter, and say so here
    return lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(device))  # millijoules
