import pytest
from stretto.runtime.sensors.temperature import Temperature

from .trees import plant, under

MONITORS = under("sys/class/hwmon", {
    "hwmon0/name": "nvme\n", "hwmon0/temp1_input": "91850\n",
    "hwmon1/name": "coretemp\n", "hwmon1/temp1_input": "61000\n", "hwmon1/temp2_input": "64000\n",
    "hwmon1/temp2_crit": "100000\n",
})  # fmt: skip
ZONES = under("sys/class/thermal", {
    "thermal_zone0/type": "acpitz\n", "thermal_zone0/temp": "99000\n",
    "thermal_zone1/type": "x86_pkg_temp\n", "thermal_zone1/temp": "55000\n",
    "thermal_zone2/type": "iwlwifi_1\n", "thermal_zone2/temp": "97000\n",
    "cooling_device0/type": "Processor\n",
})  # fmt: skip
BOARD = under("sys/class/thermal", {"thermal_zone0/type": "cpu-thermal\n", "thermal_zone0/temp": "48312\n"})


@pytest.mark.parametrize(
    ("trees", "hottest_c"),
    [((MONITORS, ZONES), 64.0), ((ZONES,), 55.0), ((BOARD,), 48.312)],
    ids=["both", "zones", "board"],
)
def test_hottest_sensor_of_the_processor_alone_counts(tmp_path, trees, hottest_c):
    assert Temperature(plant(tmp_path, *trees)).read() == {"temperature_c": hottest_c}


def test_a_sensor_that_does_not_answer_is_left_out(tmp_path):
    sensor = Temperature(plant(tmp_path, MONITORS))
    (tmp_path / "sys/class/hwmon/hwmon1/temp2_input").unlink()
    assert sensor.read() == {"temperature_c": 61.0}


def test_no_answer_at_all_raises(tmp_path):
    sensor = Temperature(plant(tmp_path, BOARD))
    plant(tmp_path, {"sys/class/thermal/thermal_zone0/temp": ""})
    with pytest.raises(ValueError, match="invalid literal"):
        sensor.read()


def test_a_zone_that_is_switched_off_is_unknown(tmp_path):
    plant(tmp_path, BOARD, {"sys/class/thermal/thermal_zone0/temp": "-273000"})
    assert Temperature(tmp_path).read() == {"temperature_c": None}


def test_a_machine_without_thermometers_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no sensor of the processor"):
        Temperature(tmp_path)
