import pytest
from stretto.runtime.energy import WATTS_PER_CORE, WATTS_PER_GPU, EnergyMeter, Power, Rapl, open_meter

from .sensors.trees import RANGE_UJ, plant, zone


@pytest.fixture
def packages(tmp_path):
    """Two packages, a zone within one, the whole device, and the first package's other interface."""
    plant(tmp_path, zone("intel-rapl:0", "package-0", 1_000), zone("intel-rapl:1", "package-1", RANGE_UJ - 500))
    plant(tmp_path, zone("intel-rapl:0:0", "core", 7), zone("intel-rapl:2", "psys", 9))
    return plant(tmp_path, zone("intel-rapl-mmio:0", "package-0", 1_000))


def grow(root, folder, energy_uj):
    plant(root, {f"sys/class/powercap/{folder}/energy_uj": f"{energy_uj}\n"})


def test_rapl_adds_the_packages_alone(packages):
    rapl = Rapl(packages)
    grow(packages, "intel-rapl:0", 3_001_000)
    for other in ("intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"):
        grow(packages, other, 99_000_000)
    assert rapl() == 3_000.0


def test_a_counter_that_wraps_loses_nothing(packages):
    rapl = Rapl(packages)
    grow(packages, "intel-rapl:1", 1_500)
    assert rapl() == 2.0
    grow(packages, "intel-rapl:1", 4_500)
    assert rapl() == 5.0


def test_the_model_assumes_so_many_busy_cores_as_a_step_has_threads(tmp_path):
    power = open_meter(threads=2, root=tmp_path).power
    assert power == Power(2 * WATTS_PER_CORE, f"model: busy time × {2 * WATTS_PER_CORE:.3g} W")


def test_the_models_power_can_be_given(tmp_path):
    assert open_meter(threads=2, watts=1.5, root=tmp_path).power == Power(1.5, "model: busy time × 1.5 W")


@pytest.fixture
def clock_s(monkeypatch):
    """Moments that the meter's clock gives, one after the other; a list to be filled."""
    moments = []
    monkeypatch.setattr("stretto.runtime.energy.monotonic", lambda: moments.pop(0))
    return moments


def counting(*counts_mj):
    left = list(counts_mj)
    return EnergyMeter(lambda: left.pop(0), "RAPL", watts=5.0)


def watch(meter, times=1):
    for _ in range(times):
        with meter.watching():
            pass


def test_watched_steps_give_the_power(clock_s):
    meter = counting(0.0, 3_000.0, 10_000.0, 11_000.0)
    clock_s += [0.0, 0.5, 7.0, 7.5]
    assert meter.power == Power(5.0, "model: busy time × 5 W; RAPL is there and not read yet")
    watch(meter)
    assert meter.power == Power(6.0, "RAPL: 6 W while 0.5 s of steps ran")
    watch(meter)
    assert meter.power.watts == pytest.approx(4.0)


def test_time_in_which_the_counter_stood_still_counts_too(clock_s):
    meter = counting(0.0, 0.0, 0.0, 400.0, 400.0, 400.0)
    clock_s += [0.0, 0.25, 1.0, 1.25, 2.0, 2.5]
    watch(meter, times=3)
    assert meter.power.watts == pytest.approx(0.4)


def test_a_counter_that_never_moved_tells_nothing():
    meter = counting(7.0, 7.0)
    watch(meter)
    assert meter.power.watts == 5.0


def test_a_counter_that_began_again_tells_nothing(clock_s):
    meter = counting(0.0, 2_000.0, 3_000.0, 5.0)
    clock_s += [0.0, 1.0, 2.0, 3.0]
    watch(meter, times=2)
    assert meter.power.watts == 2.0


def test_watching_without_a_meter_does_nothing():
    meter = EnergyMeter(watts=5.0)
    watch(meter)
    assert not meter.is_there
    assert meter.power.source == "model: busy time × 5 W"


def test_a_meter_that_fails_is_given_up_and_said(caplog):
    meter = EnergyMeter(lambda: 1 / 0, "RAPL")
    watch(meter, times=2)
    assert [record.message for record in caplog.records] == ["RAPL can't be read any more: division by zero"]
    assert meter.power.source == "model: busy time × 5 W"


@pytest.mark.parametrize("watts", [0.0, -1.0, float("inf"), float("nan")])
def test_a_power_out_of_range_is_refused(watts):
    with pytest.raises(ValueError, match="the power of a busy device is a positive number"):
        EnergyMeter(watts=watts)


def test_readable_packages_are_the_meter(packages):
    meter = open_meter(root=packages)
    assert meter.is_there
    assert meter.power.source == "model: busy time × 5 W; RAPL, processor packages is there and not read yet"


def test_unreadable_packages_leave_the_model(packages, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    assert open_meter(root=packages).power.source == "model: busy time × 5 W"


class Nvml:
    """Stands for `pynvml`; one board, with or without a counter."""

    def __init__(self, *counts_mj):
        self.counts_mj = list(counts_mj)

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByIndex(self, number):
        return number

    def nvmlDeviceGetTotalEnergyConsumption(self, device):
        return self.counts_mj.pop(0)


def test_a_gpus_own_counter_is_its_meter(clock_s):
    meter = open_meter(gpu=1, nvml=Nvml(100, 100, 600_100))
    clock_s += [0.0, 2.0]
    watch(meter)
    assert meter.power == Power(300.0, "NVML, total energy of GPU 1: 300 W while 2 s of steps ran")


def test_a_gpu_without_a_counter_leaves_the_model():
    assert open_meter(gpu=0, nvml=Nvml()).power.source == f"model: busy time × {WATTS_PER_GPU:.3g} W"
