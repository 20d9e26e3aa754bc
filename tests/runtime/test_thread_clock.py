import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from stretto.runtime.thread_clock import ThreadClock, thread_clock


@dataclass
class Core:
    """A thread's life in seconds; `read`: when its exact clock was."""

    wall_s: float = 100.0
    cpu_s: float = 7.0
    switches: int = 3
    read: list[float] = field(default_factory=list)
    preempts: int = 0  # so many of the next exact readings

    def run(self, seconds):
        self.wall_s += seconds
        self.cpu_s += seconds

    def away(self, seconds):
        self.wall_s += seconds
        self.switches += 1

    def exact(self):
        self.read.append(self.wall_s)
        cpu_s = self.cpu_s
        if self.preempts:
            self.preempts -= 1
            self.away(0.004)
        return cpu_s

    @property
    def clock(self):
        return ThreadClock(lambda: self.switches, lambda: self.wall_s, self.exact)


def test_exact_clock_is_read_once_while_the_thread_is_not_switched():
    core = Core()
    clock = core.clock
    readings = []
    for _ in range(4):
        readings.append(clock())
        core.run(0.001)
    assert readings == pytest.approx([7.0, 7.001, 7.002, 7.003])
    assert core.read == [100.0]


def test_time_away_from_the_core_does_not_count():
    core = Core()
    clock = core.clock
    clock()
    core.run(0.002)
    core.away(0.004)
    core.run(0.001)
    assert clock() == pytest.approx(7.003)
    assert len(core.read) == 2


def test_thread_that_is_switched_by_the_reading_itself_is_read_again():
    core = Core(preempts=2)
    clock = core.clock
    assert clock() == pytest.approx(7.0)
    core.run(0.001)
    assert clock() == pytest.approx(7.001)
    assert len(core.read) == 3


def test_time_away_just_when_the_clocks_are_read_does_not_count():
    core, preempted = Core(), []

    def wall():
        if preempted and preempted.pop():
            core.away(0.004)
        return core.wall_s

    clock = ThreadClock(lambda: core.switches, wall, core.exact)
    clock()
    core.run(0.001)
    preempted.append(True)
    assert clock() == pytest.approx(7.001)
    core.run(0.001)
    assert clock() == pytest.approx(7.002)


def test_each_thread_has_its_own_time():
    with ThreadPoolExecutor(1) as pool:
        other_s = pool.submit(thread_clock).result()
    assert other_s < thread_clock()


def test_sleep_takes_no_processor_time_and_computing_does():
    before_s = thread_clock()
    time.sleep(0.05)
    slept_s = thread_clock()
    sum(range(300_000))
    assert slept_s - before_s < 0.04
    assert thread_clock() > slept_s
    assert thread_clock() == pytest.approx(time.thread_time(), abs=0.02)
