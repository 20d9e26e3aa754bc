from collections import namedtuple
from types import SimpleNamespace

import pytest
from stretto.policies.load import Load
from stretto.runtime.sensors.portable import Portable

Times = namedtuple("Times", "user system idle")


class System:
    """Stands for psutil on a laptop with two cores."""

    def __init__(self):
        self.cores, self.own = [Times(1.0, 1.0, 8.0), Times(0.0, 0.0, 10.0)], SimpleNamespace(user=1.0, system=0.5)
        self.battery = SimpleNamespace(percent=42, power_plugged=False)

    def Process(self):
        return SimpleNamespace(cpu_times=lambda: self.own)

    def cpu_times(self, percpu):
        return self.cores

    def cpu_count(self):
        return len(self.cores)

    def virtual_memory(self):
        return SimpleNamespace(available=4e9)

    def sensors_battery(self):
        return self.battery

    def cpu_freq(self):
        return SimpleNamespace(current=1800.0, max=2400.0)


def test_everything_is_told():
    system = System()
    sensor = Portable(system=system)
    system.cores = [Times(2.0, 1.0, 8.0), Times(0.0, 0.0, 11.0)]
    system.own = SimpleNamespace(user=1.25, system=0.5)
    assert sensor.read() == {
        "busy": pytest.approx(0.375), "cores": 2.0, "machine_cores": 2.0, "memory_mb": 4000.0,
        "battery": 0.42, "on_mains": False, "frequency": 0.75,
    }  # fmt: skip


def test_what_psutil_lacks_here_is_left_out():
    system = System()
    system.battery = system.cpu_freq = None
    system.cpu_freq = lambda: None
    assert set(Portable(system=system).read()) == {"cores", "machine_cores", "memory_mb"}


@pytest.mark.parametrize("count", [1, 3])
def test_a_core_that_came_or_went_is_left_out(count):
    system = System()
    sensor = Portable(system=system)
    system.cores = [Times(2.5, 1.0, 8.5), *[Times(0.0, 0.0, 12.0)] * (count - 1)]
    assert sensor.read()["busy"] == pytest.approx(1.5 / (2 if count == 1 else 4))


def test_the_real_psutil_is_understood():
    reading = Portable().read()
    assert reading["cores"] >= 1
    assert reading.keys() <= set(Load._fields)
