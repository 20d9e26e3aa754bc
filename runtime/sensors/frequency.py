"""How fast the cores are clocked."""

from pathlib import Path

from .files import text_of
from .watched import Reading

MOST_CORES = 16  # reading the clock of one takes 10 µs and more, and there may be hundreds


class Frequency:
    """`frequency`: the cores' mean frequency, each over the highest that it can reach, in (0, 1].

    Of some evenly spread cores where there are many. Most virtual machines don't show any.
    Reference: https://docs.kernel.org/admin-guide/pm/cpufreq.html
    """

    period_s = 2.0

    def __init__(self, root: Path = Path("/")):
        folders = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
        chosen = folders[:: -(-len(folders) // MOST_CORES) or 1]
        self._highest_khz = {folder / "scaling_cur_freq": _number(folder / "cpuinfo_max_freq") for folder in chosen}
        if not chosen:
            raise FileNotFoundError(f"no core's clock in {root / 'sys/devices/system/cpu'}")

    def read(self) -> Reading:
        """Raises OSError, ValueError."""
        shares = [_number(path) / highest for path, highest in self._highest_khz.items()]
        return {"frequency": min(1.0, sum(shares) / len(shares))}


def _number(path: Path) -> int:
    return int(text_of(path))
