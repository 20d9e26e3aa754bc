"""How much of the processor this process may use: its cores, and the quota of its control groups."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic

from .files import text_of
from .groups import group_folders
from .rate import Rate
from .watched import Reading


class Quota:
    """`cores` that this process may use, `machine_cores` online, `throttled`: share of time that a quota held it back.

    This process's cores are those that it may run on, or fewer where a group above it has a quota, also fractions of
    one; the machine's are all, also as seen from within a container. The kernel adds up what every core was held back,
    so that with several threads `throttled` is an upper bound.

    Reference: https://docs.kernel.org/scheduler/sched-bwc.html
    """

    period_s = 1.0

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = monotonic):
        self._status, self._online = root / "proc/self/status", root / "sys/devices/system/cpu/online"
        folders = group_folders(root, "cpu")
        self._quotas = [quota for folder in folders if (quota := _quota_reader(folder)) is not None]
        self._stats = [folder / "cpu.stat" for folder in folders if (folder / "cpu.stat").exists()]
        self._throttled = Rate(clock)

    def read(self) -> Reading:
        """`throttled` is None at the first reading and where no group counts it. Raises OSError, ValueError."""
        quotas = (quota() for quota in self._quotas)
        online = _numbers(text_of(self._online))
        cores = min([float(len(self._allowed() & online)), *(quota for quota in quotas if quota is not None)])
        share = self._throttled.of(sum(map(_throttled_s, self._stats))) if self._stats else None
        throttled = None if share is None else min(1.0, share)
        return {"cores": cores, "machine_cores": float(len(online)), "throttled": throttled}

    def _allowed(self) -> set[int]:
        """Lists cores that aren't there as well, as many as the kernel could have."""
        _, found, after = text_of(self._status).partition("Cpus_allowed_list:")
        if not found:
            raise ValueError(f"{self._status} has no line 'Cpus_allowed_list:'")
        return _numbers(after.partition("\n")[0])


def _numbers(ranges: str) -> set[int]:
    """The numbers in a list such as `0-3,8`."""
    pairs = (part.partition("-") for part in ranges.strip().split(",") if part)
    return {number for first, _, last in pairs for number in range(int(first), int(last or first) + 1)}


def _quota_reader(folder: Path) -> Callable[[], float | None] | None:
    """What reads the group's quota, in version 2 or 1; None where the group has none (the uppermost, say)."""
    if (folder / "cpu.max").exists():
        return partial(_quota_2, folder / "cpu.max")
    if (folder / "cpu.cfs_quota_us").exists():
        return partial(_quota_1, folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
    return None


def _quota_2(limit: Path) -> float | None:
    """Cores' worth of time that the group may use; None where it isn't limited."""
    quota, period = text_of(limit).split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_1(limit: Path, per: Path) -> float | None:
    quota = int(text_of(limit))
    return None if quota < 0 else quota / int(text_of(per))


def _throttled_s(stat: Path) -> float:
    """How long the group was held back by its own quota since it was made; version 1 counts nanoseconds."""
    counts = dict(line.split() for line in text_of(stat).splitlines())
    return int(counts.get("throttled_usec", 0)) / 1e6 + int(counts.get("throttled_time", 0)) / 1e9
