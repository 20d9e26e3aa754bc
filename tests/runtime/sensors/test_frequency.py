import pytest
from stretto.runtime.sensors.frequency import MOST_CORES, Frequency

from .trees import plant


def cores(*clocks_khz):
    """`clocks_khz`: (now, highest) of each core."""
    folders = [f"sys/devices/system/cpu/cpu{number}/cpufreq" for number in range(len(clocks_khz))]
    return {
        f"{folder}/{name}": f"{khz}\n"
        for folder, clocks in zip(folders, clocks_khz, strict=True)
        for name, khz in zip(("scaling_cur_freq", "cpuinfo_max_freq"), clocks, strict=True)
    }


def test_frequency_is_the_mean_over_each_cores_own_highest(tmp_path):
    sensor = Frequency(plant(tmp_path, cores((1_000_000, 4_000_000), (1_500_000, 2_000_000))))
    assert sensor.read() == {"frequency": 0.5}


def test_a_clock_above_the_highest_counts_as_it(tmp_path):
    assert Frequency(plant(tmp_path, cores((4_100_000, 4_000_000)))).read() == {"frequency": 1.0}


@pytest.mark.parametrize("count", [1, MOST_CORES, MOST_CORES + 1, 5 * MOST_CORES + 3])
def test_many_cores_are_read_in_part(tmp_path, count, monkeypatch):
    sensor = Frequency(plant(tmp_path, cores(*[(1, 2)] * count)))
    read = []
    monkeypatch.setattr("stretto.runtime.sensors.frequency.text_of", lambda path: read.append(path) or "1")
    sensor.read()
    assert min(count, MOST_CORES / 2) <= len(read) <= MOST_CORES


def test_a_virtual_machine_without_clocks_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no core's clock in"):
        Frequency(tmp_path)
