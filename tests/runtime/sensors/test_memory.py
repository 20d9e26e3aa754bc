import pytest
from stretto.runtime.sensors.memory import Memory

from .trees import MEMINFO, SPLIT, UNIFIED, plant, under

SYSTEM = {"proc/meminfo": MEMINFO}
SYSTEM_MB = 21894612 * 1024 / 1e6
SERVICE = "sys/fs/cgroup/apps.slice/kiosk.service"
STAT = {"memory.stat": "anon 4096\ninactive_file 30000000\ntotal_inactive_file 40000000\n"}
USED = {"memory.current": "300000000\n", "memory.usage_in_bytes": "300000000\n"} | STAT


def test_without_control_groups_it_is_what_the_system_has(tmp_path):
    assert Memory(plant(tmp_path, SYSTEM)).read() == {"memory_mb": pytest.approx(SYSTEM_MB)}


def test_a_limit_counts_less_use_and_with_cache_that_can_be_dropped(tmp_path):
    plant(tmp_path, SYSTEM, UNIFIED, under(SERVICE, USED | {"memory.max": "500000000\n"}))
    assert Memory(tmp_path).read() == {"memory_mb": pytest.approx(230)}


def test_a_limit_of_version_1_counts_too(tmp_path):
    plant(tmp_path, SYSTEM, SPLIT, under("sys/fs/cgroup/memory/apps", USED | {"memory.limit_in_bytes": "500000000\n"}))
    assert Memory(tmp_path).read() == {"memory_mb": pytest.approx(240)}


@pytest.mark.parametrize("limit", [{"memory.max": "max\n"}, {"memory.limit_in_bytes": "9223372036854771712\n"}])
def test_unlimited_groups_leave_what_the_system_has(tmp_path, limit):
    plant(tmp_path, SYSTEM, UNIFIED, under(SERVICE, USED | limit))
    assert Memory(tmp_path).read() == {"memory_mb": pytest.approx(SYSTEM_MB)}


def test_use_above_the_limit_leaves_nothing(tmp_path):
    plant(tmp_path, SYSTEM, UNIFIED, under(SERVICE, USED | {"memory.max": "1000\n"}))
    assert Memory(tmp_path).read() == {"memory_mb": 0.0}
