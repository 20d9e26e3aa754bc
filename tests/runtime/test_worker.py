import logging
import threading
from queue import SimpleQueue
from threading import Event

import pytest
from stretto.runtime import worker as module
from stretto.runtime.priority import Granted
from stretto.runtime.worker import Worker

SOON_S = 30


@pytest.fixture
def worker():
    worker = Worker("a worker")
    yield worker
    assert worker.close()


def test_jobs_are_done_in_order_by_one_thread_that_starts_with_the_first(worker):
    before, done = threading.active_count(), SimpleQueue()
    for number in range(5):
        worker.put(lambda _, number=number: done.put((number, threading.current_thread().name)))
    assert [done.get(timeout=SOON_S) for _ in range(5)] == [(number, "a worker") for number in range(5)]
    assert threading.active_count() == before + 1


def test_job_that_fails_is_logged_and_the_next_one_is_done(worker, caplog):
    done = Event()
    with caplog.at_level(logging.ERROR):
        worker.put(lambda _: 1 / 0)
        worker.put(lambda _: done.set())
        assert done.wait(SOON_S)
    assert "a worker: a job failed" in caplog.text


def test_jobs_without_a_pause_are_told_the_same_awakening(worker):
    told, go_on = SimpleQueue(), Event()
    worker.put(lambda awake_cpu_s: (told.put(awake_cpu_s), go_on.wait(SOON_S)))
    worker.put(told.put)
    go_on.set()
    first, second = told.get(timeout=SOON_S), told.get(timeout=SOON_S)
    assert first == second


def test_priority_is_asked_in_the_thread_and_given_back_at_its_end(monkeypatch):
    asked, restored = [], Event()
    monkeypatch.setattr(
        module,
        "raise_priority",
        lambda level: (
            asked.append((level, threading.current_thread().name)) or Granted("nice", "a bit nicer", restored.set)
        ),
    )
    worker = Worker("an eager worker", "high")
    assert worker.granted is None
    assert worker.start(SOON_S)
    assert worker.granted.says == "a bit nicer"
    assert asked == [("high", "an eager worker")]
    assert not restored.is_set()
    assert worker.close()
    assert restored.is_set()


def test_unknown_priority_is_refused():
    with pytest.raises(ValueError, match=r"priority 'highest' isn't known; there are normal, high"):
        Worker("a worker", "highest")


def test_worker_that_never_started_is_closed_at_once():
    assert Worker("a worker").close(0.0)
