import pytest
from stretto.runtime.sensors.cgroup import Quota
from stretto.runtime.sensors.groups import group_folders

from .trees import CONTAINER, CORES, SPLIT, UNIFIED, Clock, plant, under

SERVICE = "sys/fs/cgroup/apps.slice/kiosk.service"
KIOSK = "sys/fs/cgroup/cpu,cpuacct/apps/kiosk"
UNLIMITED_1 = {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}


def stat_2(throttled_usec):
    return {
        "cpu.stat": f"usage_usec 98\nuser_usec 60\nsystem_usec 38\nnr_throttled 3\nthrottled_usec {throttled_usec}\n"
    }


def stat_1(throttled_ns):
    return {"cpu.stat": f"nr_periods 20\nnr_throttled 3\nthrottled_time {throttled_ns}\n"}


def test_without_control_groups_the_cores_are_those_online(tmp_path):
    assert Quota(plant(tmp_path, CORES)).read() == {"cores": 5.0, "machine_cores": 5.0, "throttled": None}


def test_an_affinity_leaves_fewer_cores(tmp_path):
    pinned = CORES | {"proc/self/status": "Cpus_allowed_list:\t1-2,8-9\n"}
    reading = Quota(plant(tmp_path, pinned)).read()
    assert (reading["cores"], reading["machine_cores"]) == (3.0, 5.0)


def test_a_quota_leaves_fractions_of_a_core(tmp_path):
    plant(tmp_path, CORES, UNIFIED, under(SERVICE, {"cpu.max": "150000 100000\n"} | stat_2(0)))
    reading = Quota(tmp_path).read()
    assert (reading["cores"], reading["machine_cores"]) == (1.5, 5.0)


def test_the_tightest_quota_of_the_groups_above_counts(tmp_path):
    plant(tmp_path, CORES, UNIFIED, under(SERVICE, {"cpu.max": "max 100000\n"}))
    plant(tmp_path, under("sys/fs/cgroup/apps.slice", {"cpu.max": "50000 100000\n"}))
    assert Quota(tmp_path).read()["cores"] == 0.5


def test_a_quota_above_all_cores_leaves_them_all(tmp_path):
    plant(tmp_path, CORES, UNIFIED, under(SERVICE, {"cpu.max": "900000 100000\n"}))
    assert Quota(tmp_path).read()["cores"] == 5.0


def test_version_1_is_read_beside_an_empty_version_2(tmp_path):
    limited = {"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"}
    plant(tmp_path, CORES, SPLIT, under(KIOSK, limited), under("sys/fs/cgroup/cpu,cpuacct", UNLIMITED_1))
    assert Quota(tmp_path).read()["cores"] == 0.5


def test_a_quota_that_changes_is_seen(tmp_path):
    sensor = Quota(plant(tmp_path, CORES, UNIFIED, under(SERVICE, {"cpu.max": "max 100000\n"})))
    plant(tmp_path, under(SERVICE, {"cpu.max": "200000 100000\n"}))
    assert sensor.read()["cores"] == 2.0


@pytest.mark.parametrize(
    ("tree", "folder", "quota", "stat", "per_s"),
    [(UNIFIED, SERVICE, {"cpu.max": "max 100000\n"}, stat_2, 10**6), (SPLIT, KIOSK, UNLIMITED_1, stat_1, 10**9)],
    ids=["version 2", "version 1"],
)
def test_throttled_is_the_share_held_back_since_the_reading_before(tmp_path, tree, folder, quota, stat, per_s):
    clock = Clock()
    sensor = Quota(plant(tmp_path, CORES, tree, under(folder, quota | stat(7 * per_s))), clock)
    assert sensor.read()["throttled"] is None
    clock.now_s += 2
    plant(tmp_path, under(folder, stat(7 * per_s + per_s // 2)))
    assert sensor.read()["throttled"] == pytest.approx(0.25)
    clock.now_s += 2
    plant(tmp_path, under(folder, stat(70 * per_s)))
    assert sensor.read()["throttled"] == 1.0


def test_a_status_without_cores_is_named(tmp_path):
    plant(tmp_path, CORES, {"proc/self/status": "Name:\tpython\n"})
    with pytest.raises(ValueError, match=r"status has no line 'Cpus_allowed_list:'"):
        Quota(tmp_path).read()


def found(root, controller):
    return [folder.relative_to(root).as_posix() for folder in group_folders(root, controller)]


def test_groups_come_from_the_own_up_to_the_mount(tmp_path):
    plant(tmp_path, UNIFIED)
    assert found(tmp_path, "cpu") == [SERVICE, "sys/fs/cgroup/apps.slice", "sys/fs/cgroup"]


def test_controllers_of_version_1_have_groups_of_their_own(tmp_path):
    plant(tmp_path, SPLIT)
    assert found(tmp_path, "memory") == ["sys/fs/cgroup/memory/apps", "sys/fs/cgroup/memory"]


def test_in_a_container_the_mounted_group_is_the_own_one(tmp_path):
    plant(tmp_path, CONTAINER)
    assert found(tmp_path, "cpu") == ["sys/fs/cgroup/cpu,cpuacct"]


def test_a_group_outside_the_namespace_falls_back_to_the_mount(tmp_path):
    plant(tmp_path, UNIFIED, {"proc/self/cgroup": "0::/../sibling\n"})
    assert found(tmp_path, "cpu") == ["sys/fs/cgroup"]


def test_no_mount_means_no_groups(tmp_path):
    plant(tmp_path, UNIFIED, {"proc/self/mountinfo": "24 29 0:22 / /proc rw,nosuid - proc proc rw\n"})
    assert found(tmp_path, "cpu") == []
