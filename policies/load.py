"""What is known of the load at a moment: plain data, read by sensors, looked at by time models and policies."""

from typing import NamedTuple


class GpuLoad(NamedTuple):
    """One graphics processor; None where unknown. `busy`, `memory`: shares in [0, 1]; `clock`: of its highest."""

    busy: float | None = None
    memory: float | None = None
    clock: float | None = None
    throttled: bool | None = None
    power_w: float | None = None


class Load(NamedTuple):
    """The device as sensors last saw it; None where unknown, and everything may be.

    Args:
        others: tasks of the whole system that run or want to run, without this process's own; >= 0.
        cores: that this process may use; under a quota fewer, and fractions of one.
        machine_cores: of the whole system, which the others share.
        busy: share of all cores' time that other processes took since the sample before, in [0, 1].
        stalled: share of time in which some task waited for a core (Linux pressure), in [0, 1].
        throttled: share of time in which this process was held back by its quota, in [0, 1].
        frequency: the cores' mean frequency over their highest.
        temperature_c: of the hottest sensor of the processor.
        memory_mb: that could still be had without swapping.
        battery: charge in [0, 1]; None also where there is no battery.
        on_mains: whether the device is plugged in.
        gpus: in the driver's order.
    """

    others: float | None = None
    cores: float | None = None
    machine_cores: float | None = None
    busy: float | None = None
    stalled: float | None = None
    throttled: float | None = None
    frequency: float | None = None
    temperature_c: float | None = None
    memory_mb: float | None = None
    battery: float | None = None
    on_mains: bool | None = None
    gpus: tuple[GpuLoad, ...] = ()


UNKNOWN = Load()
