"""How much memory is left."""

from pathlib import Path
from typing import NamedTuple

from .files import text_of
from .groups import group_folders
from .watched import Reading


class _Names(NamedTuple):
    """Files of a control group: its limit, what it uses; and in `memory.stat`, file cache that can be dropped."""

    limit: str
    used: str
    droppable: str


VERSIONS = (
    _Names("memory.max", "memory.current", "inactive_file"),
    _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


class Memory:
    """`memory_mb` that could still be had: the system's, or less where a control group limits this process."""

    period_s = 2.0

    def __init__(self, root: Path = Path("/")):
        self._system = root / "proc/meminfo"
        folders = group_folders(root, "memory")
        self._groups = [(f, names) for f in folders for names in VERSIONS if (f / names.limit).exists()]

    def read(self) -> Reading:
        """Raises OSError, and KeyError on kernels before 3.14, which don't say what is available."""
        system = _counts(self._system)["MemAvailable"] * 1024
        left = (_bytes_left(folder, names) for folder, names in self._groups)
        return {"memory_mb": max(0, min([system, *(group for group in left if group is not None)])) / 1e6}


def _counts(path: Path) -> dict[str, int]:
    """From lines such as `MemAvailable:   21894612 kB` or `inactive_file 7340032`."""
    pairs = (line.split() for line in text_of(path).splitlines())
    return {name.rstrip(":"): int(count) for name, count, *_ in pairs}


def _bytes_left(folder: Path, names: _Names) -> int | None:
    """None where the group isn't limited; version 1 says so by a limit of nearly 2 ** 63."""
    limit = text_of(folder / names.limit).strip()
    if limit == "max" or int(limit) > 2**62:
        return None
    return int(limit) - int(text_of(folder / names.used)) + _counts(folder / "memory.stat").get(names.droppable, 0)
