"""Work is shared out among processes that end with whoever started them; a record is of one training's settings."""

import json
import multiprocessing
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import pytest
from stretto.bench.jobs import JobError, check_settings, do_all, read_record, remove_leftovers, write_record

WORK = '''
import os, signal, sys
from collections import deque
from types import SimpleNamespace

def work(item, send):
    """Does what the item is called."""
    send(os.getpid())
    if item.name == "fails":
        raise ValueError("of no use")
    if item.name == "dies":
        os._exit(7)
    if item.name == "waits":
        signal.pause()
    while item.name == "talks":
        send(os.getpid())

if __name__ == "__main__":
    from stretto.bench.jobs import do_all
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts what is in the background
    do_all([deque([SimpleNamespace(name=sys.argv[1])])], work, lambda item, pid: print(pid, flush=True))
'''


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that other processes can import, to be run as a program too."""
    (tmp_path / "jobs_of_tests.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "jobs_of_tests.py"


def done(*queues: "deque[SimpleNamespace]") -> list[tuple[str, int]]:
    from jobs_of_tests import work  # type: ignore[import-not-found]

    told: list[tuple[str, int]] = []
    do_all(queues, work, lambda item, pid: told.append((item.name, pid)))
    return told


def items(*names: str) -> "deque[SimpleNamespace]":
    return deque(SimpleNamespace(name=name) for name in names)


def test_a_queue_is_done_in_its_order_by_a_process_of_its_own(script: Path) -> None:
    told = done(items("a", "b"), items(), items("c"))
    pids = dict(told)
    assert [name for name, _ in told if name != "c"] == ["a", "b"]
    assert pids["a"] == pids["b"] != pids["c"]
    assert multiprocessing.active_children() == []


def test_a_queue_given_twice_is_done_once(script: Path) -> None:
    shared = items("a", "b", "c")
    assert sorted(name for name, _ in done(shared, shared)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("fails", "^fails: ValueError: of no use$"), ("dies", "^dies: its process ended with exit code 7; if memory")],
)
def test_what_fails_is_named_and_ends_the_others(script: Path, name: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        done(items(name), items("waits"))
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "waits"), (signal.SIGKILL, "talks")])
def test_processes_end_with_the_one_that_started_them(script: Path, number: int, name: str) -> None:
    parent = subprocess.Popen([sys.executable, str(script), name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    assert int(parent.stdout.readline()) != parent.pid
    parent.send_signal(number)
    parent.communicate(timeout=60)  # ends only when nobody has its output open any more
    assert parent.returncode == (143 if number == signal.SIGTERM else -number)


def test_sigterm_is_handled_as_before_afterwards(script: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    done(items("a"))
    assert signal.getsignal(signal.SIGTERM) == before


def test_record_says_settings_machine_and_version(tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", {"epochs": 2}, history=[])
    record = read_record(tmp_path / "a.json", "history")
    assert record is not None
    assert record["settings"] == {"epochs": 2} and record["stretto"] and record["machine"]["processor"]
    assert read_record(tmp_path / "none.json") is None


@pytest.mark.parametrize("content", ["{}", "[]", "{", "3", '{"settings": 3, "history": null}', '{"settings": {}}'])
def test_malformed_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(JobError, match=r"a\.json: no record of a training .*; delete it"):
        read_record(tmp_path / "a.json", "history")


def test_other_settings_are_named_by_their_place(tmp_path: Path) -> None:
    ours = {"net": "resnet", "loss": {"sandwich": 1}, "lr": 0.1}
    check_settings(tmp_path, ours, json.loads(json.dumps(ours)))
    message = "of another training: loss.sandwich is 2 there, 1 here; lr is None there, 0.1 here; use another --folder"
    with pytest.raises(JobError, match=message):
        check_settings(tmp_path, ours, {"net": "resnet", "loss": {"sandwich": 2}})


def test_leftovers_are_of_one_checkpoint_alone(tmp_path: Path) -> None:
    kept = {"width-1.pt", ".width-0.5.pt.123", "width-1.json"}
    for name in (*kept, ".width-1.pt.123", ".width-1.pt.9"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "width-1.pt")
    assert {path.name for path in tmp_path.iterdir()} == kept
