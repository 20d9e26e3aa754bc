import pytest
from stretto.policies.load import GpuLoad
from stretto.runtime.sensors.gpu import Gpus

from .nvml import BOARD, Nvml, NVMLError


def test_every_gpu_has_its_load_in_the_drivers_order():
    other = {"busy": 0, "used": 0, "total": 24, "clock": 300, "highest": 1200, "reasons": 0, "power": 9_000}
    assert Gpus(nvml=Nvml(BOARD, other)).read()["gpus"] == (
        GpuLoad(busy=0.87, memory=0.375, clock=0.5, throttled=False, power_w=312.5),
        GpuLoad(busy=0.0, memory=0.0, clock=0.25, throttled=False, power_w=9.0),
    )


@pytest.mark.parametrize("bits", [0x4, 0x8, 0x20, 0x40, 0x80, 0x80 | 0x1])
def test_power_caps_and_heat_throttle_a_gpu(bits):
    assert Gpus(nvml=Nvml(BOARD | {"reasons": bits})).read()["gpus"][0].throttled is True


@pytest.mark.parametrize("bits", [0x0, 0x1, 0x1 | 0x2, 0x10, 0x100])
def test_idle_clocks_and_clocks_that_were_set_do_not(bits):
    assert Gpus(nvml=Nvml(BOARD | {"reasons": bits})).read()["gpus"][0].throttled is False


def test_what_a_gpu_does_not_tell_is_unknown():
    reading = Gpus(nvml=Nvml({"used": 30, "total": 80})).read()
    assert reading == {"gpus": (GpuLoad(memory=0.375),)}


def test_a_gpu_that_tells_nothing_fails_the_reading():
    with pytest.raises(NVMLError, match="Not Supported"):
        Gpus(nvml=Nvml(BOARD, {})).read()


def test_closing_shuts_the_library_down():
    nvml = Nvml(BOARD)
    sensor = Gpus(nvml=nvml)
    assert nvml.is_open
    sensor.close()
    assert not nvml.is_open


def test_the_real_library_has_every_name_that_is_used():
    import pynvml

    assert [name for name in dir(Nvml) if name.lower().startswith("nvml") and not hasattr(pynvml, name)] == []
    assert Nvml.NVML_CLOCK_SM == pynvml.NVML_CLOCK_SM
