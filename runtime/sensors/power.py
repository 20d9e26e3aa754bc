"""Where the power comes from: battery and mains."""

from pathlib import Path

from .watched import Reading


class Power:
    """`battery`: mean charge of the device's batteries; `on_mains`: whether any supply but them is online.

    Batteries of mice and the like are not the device's. Where no other supply is listed, it is plugged in if no battery
    is being discharged. Reference: https://docs.kernel.org/power/power_supply_class.html
    """

    period_s = 2.0

    def __init__(self, root: Path = Path("/")):
        folder = root / "sys/class/power_supply"
        supplies = [path.parent for path in sorted(folder.glob("*/type")) if _text(path.with_name("scope")) != "Device"]
        self._batteries = [supply for supply in supplies if _text(supply / "type") == "Battery"]
        self._mains = [s / "online" for s in supplies if s not in self._batteries and (s / "online").exists()]
        if not (self._batteries or self._mains):
            raise FileNotFoundError(f"no battery and no mains in {folder}")

    def read(self) -> Reading:
        """Raises OSError, ValueError."""
        charges = [int(_text(battery / "capacity")) / 100 for battery in self._batteries]
        return {"battery": min(1.0, sum(charges) / len(charges)) if charges else None, "on_mains": self._on_mains()}

    def _on_mains(self) -> bool:
        if self._mains:
            return any(_text(online) not in ("", "0") for online in self._mains)
        return all(_text(battery / "status") != "Discharging" for battery in self._batteries)


def _text(path: Path) -> str:
    """Empty where there is no such file."""
    return path.read_text().strip() if path.exists() else ""
