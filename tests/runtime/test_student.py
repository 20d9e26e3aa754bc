"""A model that has something to study does so between requests, on a thread of the session's own."""

from threading import Event, current_thread, main_thread
from threading import enumerate as enumerate_threads
from time import sleep
from types import SimpleNamespace

import numpy as np
import pytest
from stretto.policies.deadline import Deadline
from stretto.policies.latency import TimeModel
from stretto.runtime import student
from stretto.runtime.bundle import Bundle
from stretto.runtime.session import Session

from .fakes import LEVELS, Clock, SetPace, set_profile
from .toy import toy_bundle

SAMPLE, SOON_S = np.zeros((3, 8, 8), np.float32), 30


class Studious(TimeModel):
    """Has something to study whenever it is asked; notes who asked, and whether the runner's lock was held."""

    levels, looks_at_load = LEVELS, False

    def __init__(self):
        self.is_locked, self.places, self.placed = lambda: False, [], Event()
        self.told, self.told_by = Event(), set()

    def finish_ms(self, idle_ms, ran_ms, load, legs=None):
        return idle_ms

    def observe(self, ran):
        self.told_by.add((self.is_locked(), current_thread().name))
        self.told.set()

    def study(self):
        self._note("study")
        return self

    def work_out(self):
        self._note("work out")

    def put_in_place(self):
        self._note("put in place")
        self.placed.set()

    def _note(self, what):
        self.places.append((what, self.is_locked(), current_thread()))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.open(toy_bundle(tmp_path_factory.mktemp("student") / "toy.stretto", widths=(1.0,), depths=2).path)


@pytest.fixture
def opened(bundle):
    def opened(model):
        session = Session(bundle, SetPace(bundle, Clock(), 1.0), Deadline(), set_profile(bundle), model=model)
        model.is_locked = session._runner._learning.locked
        return session

    return opened


def answered(session, until):
    """Requests until an event; whether it came."""
    for _ in range(SOON_S * 100):
        session.infer(SAMPLE)
        if until.wait(0.01):
            break
    return until.is_set()


def test_long_part_is_done_by_another_thread_without_the_lock_and_the_rest_under_it(opened):
    model = Studious()
    with opened(model) as session:
        assert answered(session, model.placed)
    what, thread = [place[:2] for place in model.places[:3]], {place[2] for place in model.places}
    assert what == [("study", True), ("work out", False), ("put in place", True)]
    assert len(thread) == 1 and main_thread() not in thread


def test_model_is_told_by_another_thread_under_the_lock(opened):
    model = Studious()
    with opened(model) as session:
        assert answered(session, model.told)
    assert model.told_by == {(True, "stretto-student")}


def test_only_the_first_request_enters_the_school(opened):
    model = Studious()
    with opened(model) as session:
        entered = []
        session._student._school = SimpleNamespace(enter=entered.append, leave=lambda student: None)
        for _ in range(3):
            session.infer(SAMPLE)
        assert entered == [session._student]


def test_plans_are_renewed_once_the_model_was_told(opened):
    model, renewed = Studious(), []
    with opened(model) as session:
        session._student._learnt = lambda: renewed.append(len(model.told_by))
        session._student._school = SimpleNamespace(enter=lambda student: None, leave=lambda student: None)
        session._student.learn()
        assert renewed == []  # no request, nothing new
        session.infer(SAMPLE)
        session._student.learn()
        assert renewed == [1]


def test_sessions_have_one_thread_together_which_ends_with_the_last(opened):
    models = Studious(), Studious()
    with opened(models[0]) as first:
        with opened(models[1]) as second:
            assert answered(first, models[0].told) and answered(second, models[1].told)
            assert names().count("stretto-student") == 1
        assert answered(first, models[0].placed)
    assert eventually(lambda: "stretto-student" not in names())


def test_student_leaves_after_a_while_and_the_next_request_brings_it_back(opened, monkeypatch):
    monkeypatch.setattr(student, "PERIOD_S", 0.001)
    model = Studious()
    with opened(model) as session:
        assert answered(session, model.told)
        assert eventually(lambda: not session._student._attends)
        model.told.clear()
        assert answered(session, model.told)


def names():
    return [thread.name for thread in enumerate_threads()]


def eventually(is_so):
    for _ in range(SOON_S * 100):
        if is_so():
            return True
        sleep(0.01)
    return False


def test_whoever_leaves_more_untold_than_may_be_tells_the_model(opened):
    model = Studious()
    with opened(model) as session:
        session._tally._ended = lambda: None
        for _ in range(1024 - 1):
            session.infer(SAMPLE)
        assert not model.told.is_set()
        session.infer(SAMPLE)
        assert model.told_by == {(True, current_thread().name)}


def test_model_that_does_not_learn_has_no_student_and_is_told_nothing(opened):
    class Idle(Studious):
        learns = False

    model = Idle()
    with opened(model) as session:
        session.infer(SAMPLE)
        session._runner.learn()
        assert session._student is None
    assert not model.told.is_set()


def test_study_that_fails_is_logged_and_a_later_one_takes_place(opened, caplog):
    class Fails(Studious):
        failed = Event()

        def work_out(self):
            if not self.failed.is_set():
                self.failed.set()
                raise ArithmeticError("no luck")

    model = Fails()
    with opened(model) as session:
        assert answered(session, model.placed)
    assert "no luck" in caplog.text
