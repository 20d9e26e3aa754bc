"""What the time models of a process learn with: between requests, on one thread for all of its sessions."""

import logging
import os
from collections.abc import Callable
from threading import Event, Lock

from .runner import Runner
from .worker import Worker

PERIOD_S = 0.05
STUDIES_EVERY = 16  # requests at the most, and after the 1st, 2nd, 4th and 8th
_QUIET = 20  # periods without a request, after which a student leaves until there is one

log = logging.getLogger(__name__)


class Student:
    """Has a session's model told of what ran, and lets it study, in a `School`; `learnt`: to be called after that.

    Requests don't wake its thread: one that is woken asks for the interpreter, and who gives it away in the middle of a
    request loses the core where others want it.
    """

    def __init__(self, name: str, runner: Runner, learnt: Callable[[], None], school: "School | None" = None):
        self.name, self._runner, self._learnt, self._school = name, runner, learnt, school or SCHOOL
        self._attends = False
        self._requests = self._seen = self._studied = self._quiet = 0
        self._learning = Lock()

    def request_ended(self) -> None:
        """From any thread; a count that is missed now and then does no harm."""
        self._requests += 1
        if not self._attends:
            self._attends = True
            self._school.enter(self)

    def close(self, timeout_s: float = 1.0) -> bool:
        """Leaves; whether what it was learning ended in time."""
        self._school.leave(self)
        in_time = self._learning.acquire(timeout=timeout_s)
        if in_time:
            self._learning.release()
        return in_time

    def learn(self) -> bool:
        """What is new; whether it stays."""
        if self._seen == self._requests:
            self._quiet += 1
            return self._quiet < _QUIET
        self._seen, self._quiet = self._requests, 0
        with self._learning:
            self._runner.learn()
            if self._seen > self._studied and self._seen >= min(2 * self._studied, self._studied + STUDIES_EVERY):
                self._studied = self._seen
                self._runner.study()
            self._learnt()
        return True

    def left(self) -> None:
        """It is out of the school: the next request brings it back."""
        self._attends = False


class School:
    """The thread, while there are students; each of its own would wake up as often, and hinder all requests."""

    def __init__(self) -> None:
        self._begin()
        if hasattr(os, "register_at_fork"):  # which has neither the thread nor usable sessions
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._changing, self._changed = Lock(), Event()
        self._students: list[Student] = []
        self._worker: Worker | None = None

    def enter(self, student: Student) -> None:
        """It learns from now on."""
        with self._changing:
            if student not in self._students:
                self._students.append(student)
            if self._worker is None:
                self._worker = Worker("stretto-student")
                self._worker.put(self._teach)

    def leave(self, student: Student) -> None:
        """It doesn't any more; the last one ends the thread."""
        with self._changing:
            if student in self._students:
                self._students.remove(student)
        if not self._students:
            self._changed.set()

    def _teach(self, awake_cpu_s: float) -> None:
        while self._has_students():
            self._changed.wait(PERIOD_S)
            for student in list(self._students):
                if not self._learns(student):
                    self.leave(student)
                    student.left()

    def _has_students(self) -> bool:
        with self._changing:
            self._changed.clear()
            if not self._students and self._worker is not None:
                self._worker.close(0.0)
                self._worker = None
            return bool(self._students)

    @staticmethod
    def _learns(student: Student) -> bool:
        try:
            return student.learn()
        except Exception:
            log.exception("%s: what ran couldn't be learnt from", student.name)
            return True


SCHOOL = School()  # of the process
