"""Load begins when told, stops when told, and never outlives who started it."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from stretto.bench.contention import load as module
from stretto.bench.contention.load import ENVIRONMENTS, LoadError, LoadProcess, busy_cores, processes, python_thread

LIMIT_S = 60


def wait_until(holds: Callable[[], bool]) -> bool:
    """Whether it holds within the limit, on however busy a machine."""
    end = time.monotonic() + LIMIT_S
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


def used_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


@pytest.fixture(params=["compute", "memory"])
def worker(request: pytest.FixtureRequest) -> Iterator[LoadProcess]:
    made = LoadProcess(request.param)
    yield made.wait_ready()
    made.end()


def test_process_works_while_switched_on_and_rests_while_off(worker: LoadProcess) -> None:
    before = used_s(worker.pid)
    worker.switch(True)
    assert wait_until(lambda: used_s(worker.pid) > before + 0.05)
    worker.switch(False)
    assert wait_until(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_SLEEPING)


def test_ended_process_is_gone_and_says_so_when_switched(worker: LoadProcess) -> None:
    psutil.Process(worker.pid).kill()
    assert wait_until(lambda: _refuses(worker))
    worker.end()
    assert not psutil.pid_exists(worker.pid)


def _refuses(worker: LoadProcess) -> bool:
    try:
        worker.switch(True)
    except LoadError as error:
        return "ended" in str(error)
    return False


def test_what_lies_in_the_folder_hides_nothing_that_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stretto").mkdir()
    (tmp_path / "stretto" / "__init__.py").write_text("raise ImportError('not the one installed')")
    monkeypatch.chdir(tmp_path)
    made = LoadProcess("compute")
    try:
        made.wait_ready()
    finally:
        made.end()


def test_command_line_shows_a_load_that_ended_as_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stretto import cli

    def fails() -> None:
        raise LoadError("a process that makes load ended")

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err.strip() == "stretto: a process that makes load ended"


def test_unknown_load_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="load 'disk' isn't known; there are compute, memory"):
        LoadProcess("disk")


def test_process_that_never_gets_ready_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_S", 0.0)
    with pytest.raises(LoadError, match="isn't ready"), processes("compute", 1):
        pytest.fail("it went on without its load")


def test_busy_processes_end_with_their_block() -> None:
    before = set(psutil.Process().children())  # another test's spawned processes left multiprocessing's tracker here
    with busy_cores(1):
        (busy,) = set(psutil.Process().children()) - before
    assert not busy.is_running()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_a_parent_that_is_killed_outright(ending: signal.Signals) -> None:
    code = """
from stretto.bench.contention.load import processes
import time
with processes("compute", 2) as switch:
    switch(True)
    print("on", flush=True)
    time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None and parent.stdout.readline() == "on\n"
    children = psutil.Process(parent.pid).children()
    parent.send_signal(ending)
    parent.wait(LIMIT_S)
    parent.stdout.close()
    assert len(children) == 2
    assert not psutil.wait_procs(children, LIMIT_S)[1]


def test_python_thread_works_in_this_process_while_switched_on_and_ends_with_its_block() -> None:
    before = threading.active_count()
    with python_thread() as switch:
        (thread,) = [each for each in threading.enumerate() if each.name == "busy Python"]
        switch(True)
        start = time.process_time()
        assert wait_until(lambda: time.process_time() > start + 0.05)
        switch(False)
    assert not thread.is_alive() and threading.active_count() == before


def test_every_environment_of_the_issue_is_there_and_one_of_them_comes_in_bursts() -> None:
    assert [each.name for each in ENVIRONMENTS] == ["idle", "compute", "memory", "bursts", "python"]
    assert [each.name for each in ENVIRONMENTS if each.bursts] == ["bursts"]
