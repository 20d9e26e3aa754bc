import pytest
from stretto.runtime.sensors.cpu import Running, Shares

from .trees import OWN_STAT, STAT, plant


@pytest.fixture
def running(tmp_path):
    plant(tmp_path, {"proc/loadavg": "3.73 2.45 2.05 5/103 23172\n"})
    opened = []

    def make(**options):
        opened.append(Running(tmp_path, **options))
        return opened[-1]

    yield make
    for sensor in opened:
        sensor.close()


def test_the_thread_that_reads_is_no_other(running):
    assert running().read() == {"others": 4.0}


def test_own_threads_that_run_steps_are_no_others(running):
    assert running(own_running=lambda: 3).read() == {"others": 1.0}


def test_others_are_never_negative(running):
    assert running(own_running=lambda: 9).read() == {"others": 0.0}


def test_run_queue_is_read_anew_each_time(running, tmp_path):
    sensor = running()
    sensor.read()
    plant(tmp_path, {"proc/loadavg": "0.42 0.31 0.24 12/99 23172\n"})
    assert sensor.read() == {"others": 11.0}


def test_a_strange_run_queue_raises(running, tmp_path):
    plant(tmp_path, {"proc/loadavg": "0.42 0.31\n"})
    with pytest.raises(IndexError):
        running().read()


def stat(*cores):
    """`cores`: ticks of user, idle, iowait, steal."""
    lines = [f"cpu{number} {user} 0 0 {idle} {wait} 0 0 {steal} 7 0" for number, (user, idle, wait, steal) in cores]
    return {"proc/stat": "\n".join(["cpu  1 2 3 4 5 6 7 8 9 0", *lines, "intr 5 0 0", "ctxt 4"])}


def own(user, system):
    return {"proc/self/stat": OWN_STAT.replace(" 100 20 ", f" {user} {system} ")}


@pytest.fixture
def shares(tmp_path):
    plant(tmp_path, stat((0, (10, 10, 0, 0)), (1, (500, 20, 0, 0))), own(100, 20))
    return Shares(tmp_path)


def test_busy_is_what_others_took_of_all_cores(shares, tmp_path):
    plant(tmp_path, stat((0, (60, 60, 0, 0)), (1, (500, 100, 20, 0))), own(110, 30))  # 50 of 200 busy, 20 our own
    assert shares.read() == {"busy": 0.15}


def test_time_stolen_by_the_hypervisor_is_busy(shares, tmp_path):
    plant(tmp_path, stat((0, (10, 60, 0, 50)), (1, (500, 120, 0, 0))), own(100, 20))
    assert shares.read() == {"busy": 0.25}


def test_rounding_of_own_time_leaves_busy_at_zero(shares, tmp_path):
    plant(tmp_path, stat((0, (60, 60, 0, 0)), (1, (500, 120, 0, 0))), own(152, 20))
    assert shares.read()["busy"] == 0.0


def test_a_core_that_came_is_left_out_until_the_next_reading(shares, tmp_path):
    plant(tmp_path, stat((0, (60, 60, 0, 0)), (1, (500, 120, 0, 0)), (2, (900, 0, 0, 0))), own(100, 20))
    assert shares.read() == {"busy": 0.25}


def test_a_core_that_went_is_left_out(shares, tmp_path):
    plant(tmp_path, stat((0, (60, 60, 0, 0))), own(100, 20))
    assert shares.read() == {"busy": 0.5}


def test_no_time_between_readings_tells_nothing(shares):
    assert shares.read() == {}


def test_a_recorded_machine_is_understood(tmp_path):
    plant(tmp_path, {"proc/stat": STAT, "proc/self/stat": OWN_STAT})
    sensor = Shares(tmp_path)
    plant(tmp_path, {"proc/stat": STAT.replace("cpu0 1588701", "cpu0 1588801").replace("467046", "467146")})
    assert sensor.read() == {"busy": 0.5}
