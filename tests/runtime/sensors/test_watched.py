import logging

import pytest
from stretto.runtime.sensors.watched import RETRY_S, Watched


class Flaky:
    """A sensor that fails while told to."""

    period_s = 2.0

    def __init__(self):
        self.error, self.closed = None, 0

    def make(self):
        return self

    def read(self):
        if self.error is not None:
            raise self.error
        return {"busy": 0.5}

    def close(self):
        self.closed += 1


@pytest.fixture
def flaky():
    return Flaky()


@pytest.fixture
def watched(flaky, caplog):
    caplog.set_level(logging.INFO)
    return Watched("flaky", flaky.make)


def test_a_reading_is_due_again_after_its_period(watched):
    watched.read(100.0)
    assert (watched.reading, watched.due_s) == ({"busy": 0.5}, 102.0)


def test_a_failing_sensor_is_unknown_and_tried_again_rarely(watched, flaky):
    watched.read(100.0)
    flaky.error = OSError("gone")
    watched.read(102.0)
    assert (watched.reading, watched.due_s, flaky.closed) == ({}, 102.0 + RETRY_S, 1)


def test_a_sensor_that_comes_back_is_read_again(watched, flaky):
    flaky.error = OSError("not yet")
    watched.read(100.0)
    flaky.error = None
    watched.read(100.0 + RETRY_S)
    assert watched.reading == {"busy": 0.5}


def test_a_failure_is_logged_once_by_name(watched, flaky, caplog):
    watched.read(100.0)
    for now_s in (102.0, 200.0, 300.0):
        flaky.error = OSError("gone")
        watched.read(now_s)
        flaky.error = None
        watched.read(now_s)
    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("WARNING", "sensor flaky: unknown from now on, OSError: gone")
    ]


def test_a_source_that_was_never_there_is_no_warning(watched, flaky, caplog):
    flaky.error = FileNotFoundError("no such file")
    watched.read(100.0)
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_a_sensor_that_fails_to_close_harms_nobody(watched, flaky, caplog):
    watched.read(100.0)
    flaky.close = lambda: 1 / 0
    watched.close()
    watched.close()
    assert [record.message for record in caplog.records] == [
        "sensor flaky: unknown from now on, ZeroDivisionError: division by zero"
    ]
