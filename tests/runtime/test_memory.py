import ctypes
import sys

import pytest
from stretto.runtime.memory import return_freed_memory


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is asked on Linux only")
def test_a_c_library_without_malloc_trim_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    return_freed_memory()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is asked on Linux only")
def test_glibc_is_asked_to_return_all_it_can(monkeypatch):
    asked: list[int] = []
    library = type("Library", (), {"malloc_trim": staticmethod(asked.append)})
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    return_freed_memory()
    assert asked == [0]
