import os
import subprocess
import sys
import threading

import pytest
from stretto.policies.load import UNKNOWN, GpuLoad, Load
from stretto.runtime import sensors as module
from stretto.runtime.sensors import SENSORS, Sensors, cost

from .nvml import BOARD, Nvml
from .trees import CORES, MEMINFO, OWN_STAT, PRESSURE, STAT, UNIFIED, plant, under

MACHINE = CORES | UNIFIED | {
    "proc/loadavg": "3.73 2.45 2.05 5/103 23172\n",
    "proc/stat": STAT,
    "proc/self/stat": OWN_STAT,
    "proc/pressure/cpu": PRESSURE.format(total=10),
    "proc/meminfo": MEMINFO,
    "sys/fs/cgroup/cpu.stat": "throttled_usec 0\n",
    "sys/class/hwmon/hwmon0/name": "coretemp\n",
    "sys/class/hwmon/hwmon0/temp1_input": "61000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2000000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "4000000\n",
    **under("sys/class/power_supply/BAT0", {"type": "Battery\n", "capacity": "80\n", "status": "Discharging\n"}),
}  # fmt: skip
MEMORY_MB = 21894612 * 1024 / 1e6
NO_GPU = [name for name in SENSORS if name not in ("gpus", "portable")]
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the files of Linux on this machine")


@pytest.fixture
def machine(tmp_path):
    return plant(tmp_path, MACHINE)


def rounds(sensors, times_s):
    for now_s in times_s:
        sensors.round(now_s)
    return sensors


@pytest.fixture
def sensors(machine):
    made = []

    def make(**options):
        made.append(Sensors(machine, names=NO_GPU, **options))
        return made[-1]

    yield make
    for each in made:  # never started: what the thread would do at its end
        for watched in each._fast + each._slow:
            watched.close()


def test_nothing_is_known_before_the_first_round(sensors):
    assert sensors().now == UNKNOWN


def test_everything_is_known_after_as_many_rounds_as_sensors(sensors):
    seen = rounds(sensors(), [number / 100 for number in range(len(NO_GPU))]).now
    assert seen == Load(
        others=4.0,
        cores=5.0,
        machine_cores=5.0,
        frequency=0.5,
        temperature_c=61.0,
        memory_mb=MEMORY_MB,
        battery=0.8,
        on_mains=False,
    )


def test_shares_of_others_are_known_from_their_second_reading(machine):
    watching = rounds(Sensors(machine, names=["shares", "memory"]), [0.0, 0.1])
    plant(machine, {"proc/stat": STAT.replace("cpu0 1588701", "cpu0 1588801").replace("467046", "467146")})
    rounds(watching, [1.1])
    assert watching.now == Load(busy=0.5, memory_mb=MEMORY_MB)


def test_graphics_processors_are_part_of_the_load(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(BOARD))
    watching = rounds(Sensors(machine, names=["gpus"]), [0.0])
    assert watching.now == Load(gpus=(GpuLoad(busy=0.87, memory=0.375, clock=0.5, throttled=False, power_w=312.5),))


def test_a_round_reads_the_run_queue_and_one_slower_sensor(sensors, monkeypatch):
    read = []
    monkeypatch.setattr(
        module.Watched, "read", lambda self, now_s: (read.append(self.name), setattr(self, "due_s", now_s))
    )
    watching = sensors()
    for now_s in range(1, len(NO_GPU)):
        read.clear()
        watching.round(float(now_s))
        assert len(read) == 2
        assert "running" in read


def test_the_run_queue_is_read_every_round(sensors, machine):
    watching = rounds(sensors(), [0.0])
    plant(machine, {"proc/loadavg": "3.73 2.45 2.05 9/103 23172\n"})
    assert rounds(watching, [0.03]).now.others == 8.0


def test_own_running_steps_are_no_others(sensors):
    assert rounds(sensors(own_running=lambda: 2), [0.0]).now.others == 2.0


def test_a_callback_that_fails_leaves_others_unknown(sensors):
    assert rounds(sensors(own_running=lambda: 1 // 0), [0.0]).now.others is None


def test_a_load_once_read_never_changes(sensors, machine):
    watching = rounds(sensors(), [0.0])
    before = watching.now
    plant(machine, {"proc/loadavg": "3.73 2.45 2.05 9/103 23172\n"})
    rounds(watching, [0.03])
    assert before.others == 4.0


@pytest.mark.parametrize(
    ("missing", "field"),
    [
        ("proc/loadavg", "others"),
        ("proc/self/status", "cores"),
        ("proc/meminfo", "memory_mb"),
        ("sys/class/hwmon/hwmon0/name", "temperature_c"),
        ("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "frequency"),
        ("sys/class/power_supply/BAT0/type", "battery"),
    ],
)
def test_a_missing_source_is_unknown_and_the_others_go_on(sensors, machine, missing, field):
    (machine / missing).unlink()
    seen = rounds(sensors(), range(len(NO_GPU))).now
    assert getattr(seen, field) is None
    assert sum(value not in (None, ()) for value in seen) >= 5


def test_an_empty_machine_is_unknown(tmp_path):
    assert rounds(Sensors(tmp_path, names=NO_GPU), range(20)).now == UNKNOWN


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"sensor 'wind' isn't known; there are running, shares, .*portable"):
        Sensors(names=["wind"])


@pytest.mark.parametrize("period_s", [0.0, -1.0, 1.5, float("nan")])
def test_a_period_out_of_range_is_refused(period_s):
    with pytest.raises(ValueError, match=r"at most 1 second apart"):
        Sensors(period_s=period_s)


def test_the_thread_reads_until_closed(machine):
    seen = threading.Event()

    def own_running():
        seen.set()
        return 0

    with Sensors(machine, period_s=0.001, own_running=own_running, names=["running"]) as watching:
        assert seen.wait(10)
        thread = watching._thread
        assert thread.daemon
    assert not thread.is_alive()
    assert watching.now.others == 4.0
    assert watching.close()


def test_sensors_never_started_close_at_once(machine):
    assert Sensors(machine).close()


def test_starting_twice_is_refused(machine):
    with Sensors(machine, names=["running"]) as watching, pytest.raises(RuntimeError, match="were started before"):
        watching.start()


def test_a_sensor_that_hangs_does_not_hang_closing(machine):
    reading, go_on = threading.Event(), threading.Event()

    def own_running():
        reading.set()
        go_on.wait(10)
        return 0

    watching = Sensors(machine, own_running=own_running, names=["running"]).start()
    assert reading.wait(10)
    assert not watching.close(timeout_s=0.01)
    go_on.set()
    assert watching.close(timeout_s=10)


@linux
def test_a_fork_is_told_and_closes_at_once():
    script = """
import os
from stretto.runtime.sensors import Sensors
with Sensors(names=["running"]) as sensors:
    child = os.fork()
    if child == 0:
        try:
            sensors.start()
        except RuntimeError as error:
            print(error, sensors.close(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    told = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60)
    assert "not to this fork of it; make new ones True" in told.stdout, told.stderr


@linux
def test_this_machine_has_tasks_cores_and_memory():
    here = rounds(Sensors(names=["running", "quota", "memory"]), [0.0, 0.1])
    assert here.now.others >= 0
    assert 0 < here.now.cores <= os.cpu_count()
    assert here.now.memory_mb > 0
    here._fast[0].close()


def test_systems_without_proc_use_what_psutil_knows(tmp_path):
    assert [watched.name for watched in Sensors(tmp_path)._slow] == ["portable", "gpus"]


@linux
def test_the_cost_is_a_share():
    assert 0 <= cost(0.01) < 1
