"""Recorded files of several machines, planted in a folder that stands for the root of a file system."""

from pathlib import Path

Files = dict[str, str]

STAT = """\
cpu  3308268 441994 182257 1071135 2743 0 938 2264 0 0
cpu0 1588701 221526 87903 604089 680 0 229 1127 0 0
cpu1 1719567 220467 94354 467046 2063 0 709 1137 0 0
intr 13183265 0 0 0 0
ctxt 12866693
btime 1795522651
processes 26831
procs_running 5
procs_blocked 0
"""
OWN_STAT = (
    "24087 (a (strange) name) R 24077 24077 19921 0 -1 4194304 99 0 0 0 100 20 0 0 20 0 1 0 2530508 3133440 407 "
    "18446744073709551615 94073266774016 94073266793897 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0\n"
)
PRESSURE = "some avg10=62.53 avg60=63.51 avg300=29.71 total={total}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
MEMINFO = "MemTotal:       24684092 kB\nMemFree:        20309532 kB\nMemAvailable:   21894612 kB\nBuffers: 31604 kB\n"
CORES = {
    "proc/self/status": "Name:\tpython\nCpus_allowed:\tff\nCpus_allowed_list:\t0-127\nMems_allowed_list:\t0\n",
    "sys/devices/system/cpu/online": "0-3,8\n",
}
UNIFIED = {  # version 2: a service in a slice
    "proc/self/cgroup": "0::/apps.slice/kiosk.service\n",
    "proc/self/mountinfo": (
        "24 29 0:22 / /proc rw,nosuid - proc proc rw\n"
        "33 28 0:29 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
    ),
}
SPLIT = {  # version 1 beside an empty version 2, as systemd's hybrid layout has it
    "proc/self/cgroup": "5:memory:/apps\n4:cpu,cpuacct:/apps/kiosk\n1:name=systemd:/apps\n0::/\n",
    "proc/self/mountinfo": (
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
        "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
    ),
}
CONTAINER = {  # version 1 without a namespace: the path is the host's, and only the container's group is mounted
    "proc/self/cgroup": "4:cpu,cpuacct:/docker/4f2a\n5:memory:/docker/4f2a\n",
    "proc/self/mountinfo": (
        "432 31 0:29 /docker/4f2a /sys/fs/cgroup/cpu,cpuacct ro,relatime master:15 - cgroup cgroup rw,cpu,cpuacct\n"
        "435 31 0:32 /docker/4f2a /sys/fs/cgroup/memory ro,relatime master:18 - cgroup cgroup rw,memory\n"
    ),
}


RANGE_UJ = 262_143_328_850  # where the packages' counters wrap


def zone(folder: str, name: str, energy_uj: int) -> Files:
    """A counter of energy, such as that of a processor's package."""
    files = {"name": f"{name}\n", "energy_uj": f"{energy_uj}\n", "max_energy_range_uj": f"{RANGE_UJ}\n"}
    return under(f"sys/class/powercap/{folder}", files)


def plant(root: Path, *trees: Files) -> Path:
    """Writes the files, later ones over earlier ones."""
    for files in trees:
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    return root


def under(folder: str, files: Files) -> Files:
    return {f"{folder}/{name}": text for name, text in files.items()}


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s
