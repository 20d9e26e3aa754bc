import pytest
from stretto.runtime.sensors.pressure import Pressure

from .trees import PRESSURE, Clock, plant


def pressures(**totals):
    return {f"proc/pressure/{name}": PRESSURE.format(total=total) for name, total in totals.items()}


def test_stalled_is_the_share_since_the_reading_before(tmp_path):
    clock = Clock()
    sensor = Pressure(plant(tmp_path, pressures(cpu=7_277_533_034, memory=0)), clock)
    assert sensor.read() == {"stalled": None}
    clock.now_s += 0.5
    plant(tmp_path, pressures(cpu=7_277_633_034, memory=500_050))
    assert sensor.read() == pytest.approx({"stalled": 0.2})


def test_stalled_is_never_more_than_all_the_time(tmp_path):
    clock = Clock()
    sensor = Pressure(plant(tmp_path, pressures(cpu=0)), clock)
    sensor.read()
    clock.now_s += 0.5
    plant(tmp_path, pressures(cpu=500_700))
    assert sensor.read() == {"stalled": 1.0}


def test_a_kernel_without_pressure_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="pressure"):
        Pressure(tmp_path).read()


def test_a_strange_record_is_shown(tmp_path):
    with pytest.raises(ValueError, match=r"no line 'some … total=…' in the pressure record 'full'"):
        Pressure(plant(tmp_path, {"proc/pressure/cpu": "full"})).read()
