"""Stands for the module `pynvml`, where there is no graphics processor."""

from types import SimpleNamespace


class NVMLError(Exception):
    pass


BOARD = {"busy": 87, "used": 30, "total": 80, "clock": 900, "highest": 1800, "reasons": 0x1, "power": 312_500}


class Nvml:
    """Stands for `pynvml`; a device is a dictionary, and what it lacks isn't supported."""

    NVMLError, NVML_CLOCK_SM = NVMLError, 1

    def __init__(self, *devices):
        self.devices, self.is_open = devices, False

    def nvmlInit(self):
        self.is_open = True

    def nvmlShutdown(self):
        self.is_open = False

    def nvmlDeviceGetCount(self):
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, number):
        return self.devices[number]

    def nvmlDeviceGetUtilizationRates(self, device):
        return SimpleNamespace(gpu=told(device, "busy"), memory=3)

    def nvmlDeviceGetMemoryInfo(self, device):
        return SimpleNamespace(used=told(device, "used"), total=told(device, "total"), free=0)

    def nvmlDeviceGetClockInfo(self, device, kind):
        assert kind == self.NVML_CLOCK_SM
        return told(device, "clock")

    def nvmlDeviceGetMaxClockInfo(self, device, kind):
        return told(device, "highest")

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, device):
        return told(device, "reasons")

    def nvmlDeviceGetPowerUsage(self, device):
        return told(device, "power")


def told(device, name):
    if name not in device:
        raise NVMLError("Not Supported")
    return device[name]
