"""Where this process's control groups are, of version 1 and 2 and both at once, in containers too."""

from pathlib import Path, PurePosixPath


def group_folders(root: Path, controller: str) -> list[Path]:
    """The folders of the groups that bind this process for "cpu" or "memory", its own first, then all above it.

    A limit may stand in any of them. Empty where the system has no control groups, or none are mounted. A container
    sees its own group as the uppermost, whether it has a namespace of its own or only a mount of that group.
    """
    membership = root / "proc/self/cgroup"
    if not membership.exists():
        return []
    kind, path = _group(membership.read_text(), controller)
    mount = _mount((root / "proc/self/mountinfo").read_text(), kind, controller)
    if mount is None:
        return []
    mounted, at = mount
    top = root / at.lstrip("/")
    below = PurePosixPath(path).relative_to(mounted) if PurePosixPath(path).is_relative_to(mounted) else None
    own = top if below is None or ".." in below.parts else top / below
    return [own, *(folder for folder in own.parents if folder.is_relative_to(top))]


def _group(membership: str, controller: str) -> tuple[str, str]:
    """File system and path of the group, from lines such as `4:cpu,cpuacct:/user` (1) and `0::/user` (2)."""
    groups = [line.split(":", 2)[1:] for line in membership.splitlines()]
    for controllers, path in groups:
        if controller in controllers.split(","):
            return "cgroup", path
    return "cgroup2", next((path for controllers, path in groups if not controllers), "/")


def _mount(mounts: str, kind: str, controller: str) -> tuple[str, str] | None:
    """Which group is mounted where; from lines as `32 31 0:29 /group /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu`."""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        file_system, *_, options = after.split()
        if file_system == kind and (kind == "cgroup2" or controller in options.split(",")):
            _, _, _, mounted, at, *_ = before.split()
            return mounted, at
    return None
