"""NVIDIA's management library, which tells of graphics processors."""

from typing import Any


def open_nvml(nvml: Any = None) -> Any:
    """The module `pynvml`, imported where it isn't given, ready to be asked until `nvmlShutdown`.

    Raises:
        ImportError: it isn't installed.
        pynvml.NVMLError: there is no driver.
    """
    if nvml is None:
        import pynvml

        nvml = pynvml
    nvml.nvmlInit()
    return nvml
