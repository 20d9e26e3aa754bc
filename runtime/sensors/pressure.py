"""Pressure stall information (PSI) of Linux: how long tasks waited for what they need."""

from collections.abc import Callable
from pathlib import Path
from time import monotonic

from .files import text_of
from .rate import Rate
from .watched import Reading


class Pressure:
    """`stalled`: share of time since the reading before in which some task waited for a core.

    Of the whole system, this process's own tasks included. From the totals, since the kernel's own averages span 10
    seconds and more. Reference: https://docs.kernel.org/accounting/psi.html
    """

    period_s = 1.0

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = monotonic):
        self._file, self._rate = root / "proc/pressure/cpu", Rate(clock)

    def read(self) -> Reading:
        """Raises OSError where the kernel keeps no such record (it may be switched off), ValueError on other text."""
        rate = self._rate.of(_waited_s(text_of(self._file)))
        return {"stalled": None if rate is None else min(1.0, rate)}


def _waited_s(text: str) -> float:
    """Of the line `some avg10=0.00 avg60=0.00 avg300=0.00 total=7277533034`, the total, microseconds there."""
    some = next((line for line in text.splitlines() if line.startswith("some ")), "")
    if " total=" not in some:
        raise ValueError(f"no line 'some … total=…' in the pressure record {text!r}")
    return int(some.rpartition("total=")[2]) / 1e6
