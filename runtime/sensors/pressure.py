"""Pressure stall information (PSI) of Linux: how long tasks waited for what they need."""

from collections.abc import Callable
from pathlib import Path
from time import monotonic

from .files import text_of
from .rate import Rate
from .watched import Reading

# resource → key of the reading; the processor's is the one that policies look at
KEYS = {"cpu": "stalled", "memory": "memory_stalled", "io": "io_stalled"}


class Pressure:
    """Share of time since the reading before in which some task waited: `stalled`, `memory_stalled`, `io_stalled`.

    Of the whole system, this process's own tasks included. From the totals, since the kernel's own averages span 10
    seconds and more. Reference: https://docs.kernel.org/accounting/psi.html
    """

    period_s = 1.0

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = monotonic):
        files = {key: root / "proc/pressure" / resource for resource, key in KEYS.items()}
        self._files = {key: path for key, path in files.items() if key == "stalled" or path.exists()}
        self._rates = {key: Rate(clock) for key in self._files}

    def read(self) -> Reading:
        """Raises OSError where the kernel keeps no such record (it may be switched off), ValueError on other text."""
        rates = {key: self._rates[key].of(_waited_s(text_of(path))) for key, path in self._files.items()}
        return {key: None if rate is None else min(1.0, rate) for key, rate in rates.items()}


def _waited_s(text: str) -> float:
    """Of the line `some avg10=0.00 avg60=0.00 avg300=0.00 total=7277533034`, the total, microseconds there."""
    some = next((line for line in text.splitlines() if line.startswith("some ")), "")
    if " total=" not in some:
        raise ValueError(f"no line 'some … total=…' in the pressure record {text!r}")
    return int(some.rpartition("total=")[2]) / 1e6
