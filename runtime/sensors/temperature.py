"""How hot the processor is."""

import logging
import re
from pathlib import Path

from .files import text_of
from .watched import Reading

log = logging.getLogger(__name__)
DRIVERS = ("coretemp", "k10temp", "zenpower")  # of hardware monitors that are in the processor, beside those named cpu…
ZONES = re.compile("cpu|soc|x86_pkg", re.IGNORECASE)  # thermal zones of it: cpu-thermal, CPU-therm, soc_thermal, …
COLDEST_C = -60.0  # zones that are switched off tell 273 degrees below zero


class Temperature:
    """`temperature_c` of the hottest of the processor's own sensors; hardware monitors, else thermal zones.

    The mainboard's, the battery's and the like aren't looked at.
    """

    period_s = 2.0

    def __init__(self, root: Path = Path("/")):
        self._files = _monitors(root / "sys/class/hwmon") or _zones(root / "sys/class/thermal")
        if not self._files:
            raise FileNotFoundError(f"no sensor of the processor in {root / 'sys/class/hwmon'} or …/thermal")

    def read(self) -> Reading:
        """Sensors that don't answer are left out; raises the last one's OSError or ValueError where none answers."""
        found, errors = [], []
        for path in self._files:
            try:
                found.append(int(text_of(path)) / 1000)
            except (OSError, ValueError) as error:
                log.debug("%s: %s", path, error)
                errors.append(error)
        if not found:
            raise errors[-1]
        hottest = max(found)
        return {"temperature_c": hottest if hottest > COLDEST_C else None}


def _monitors(folder: Path) -> list[Path]:
    chips = [name.parent for name in sorted(folder.glob("hwmon*/name")) if _is_processor(name.read_text().strip())]
    return [path for chip in chips for path in sorted(chip.glob("temp*_input"))]


def _is_processor(driver: str) -> bool:
    return driver in DRIVERS or driver.startswith("cpu")


def _zones(folder: Path) -> list[Path]:
    kinds = sorted(folder.glob("thermal_zone*/type"))
    return [kind.parent / "temp" for kind in kinds if ZONES.search(kind.read_text())]
