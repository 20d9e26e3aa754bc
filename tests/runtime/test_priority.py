import errno
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from types import SimpleNamespace

import pytest
from stretto.runtime.priority import NICE, raise_priority

linux = pytest.mark.skipif(not hasattr(os, "SCHED_RESET_ON_FORK"), reason="only Linux raises single threads")
OTHER, FIFO, RR, RESET = 0, 1, 2, 0x40000000


class System:
    """Stands for `os` on Linux, with one thread; refuses what isn't allowed, as the kernel does."""

    SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_RESET_ON_FORK, PRIO_PROCESS = OTHER, FIFO, RR, RESET, 0

    def __init__(self, real_time=False, lowest_nice=20, policy=OTHER, nice=0):
        self.real_time, self.lowest_nice = real_time, lowest_nice
        self.policy, self.parameter, self.nice = policy, 0, nice

    def sched_param(self, priority):
        return priority

    def sched_getscheduler(self, thread):
        return self.policy

    def sched_getparam(self, thread):
        return self.parameter

    def getpriority(self, which, thread):
        return self.nice

    def sched_setscheduler(self, thread, policy, parameter):
        takes_flag_back = self.policy & RESET and not policy & RESET
        if not self.real_time and (policy & ~RESET in (FIFO, RR) or takes_flag_back):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        self.policy, self.parameter = policy, parameter

    def setpriority(self, which, thread, nice):
        if nice < min(self.nice, self.lowest_nice):
            raise PermissionError(errno.EACCES, "Permission denied")
        self.nice = nice


def test_real_time_is_asked_first_and_not_inherited():
    system = System(real_time=True)
    granted = raise_priority(system=system)
    assert (granted.kind, system.policy, system.parameter) == ("real-time", FIFO | RESET, 1)
    assert granted.says == "real-time priority (SCHED_FIFO 1), for one thread alone"


@pytest.mark.parametrize(("lowest_nice", "nice"), [(-20, NICE), (-7, -7), (-1, -1)])
def test_where_real_time_is_refused_nice_is_as_low_as_allowed(lowest_nice, nice):
    system = System(lowest_nice=lowest_nice)
    granted = raise_priority(system=system)
    assert (granted.kind, system.nice, system.policy) == ("nice", nice, OTHER | RESET)
    assert granted.says == (
        f"nice {nice} instead of 0, for one thread alone; real time was refused (Operation not permitted)"
    )


def test_where_nothing_is_allowed_the_thread_is_as_before():
    system = System()
    granted = raise_priority(system=system)
    assert (granted.kind, system.nice, system.policy) == ("normal", 0, OTHER)
    assert granted.says == "normal priority: more was refused (Permission denied)"
    granted.restore()


@pytest.mark.parametrize("real_time", [True, False])
def test_restoring_gives_the_former_priority_back(real_time):
    system = System(real_time=real_time, lowest_nice=-20, nice=5)
    raise_priority(system=system).restore()
    assert (system.policy & ~RESET, system.parameter, system.nice) == (OTHER, 0, 5)


def test_a_thread_in_real_time_already_stays_there():
    system = System(real_time=True, policy=RR)
    system.parameter = 50
    granted = raise_priority(system=system)
    granted.restore()
    assert (granted.kind, system.policy, system.parameter) == ("real-time", RR, 50)


def test_a_thread_that_is_nice_enough_stays_so():
    assert raise_priority(system=System(nice=-18)).says == "normal priority: more was refused (nice is -18 already)"


def test_a_library_without_scheduling_is_no_error():
    system = System()
    system.sched_getscheduler = lambda thread: (_ for _ in ()).throw(OSError(errno.ENOSYS, "Function not implemented"))
    assert raise_priority(system=system).says == "normal priority: more was refused (Function not implemented)"


def test_restoring_a_thread_that_has_ended_harms_nobody():
    system = System(real_time=True)
    granted = raise_priority(system=system)
    system.setpriority = lambda *_: (_ for _ in ()).throw(ProcessLookupError(errno.ESRCH, "No such process"))
    granted.restore()


def test_other_systems_are_not_asked():
    granted = raise_priority(system=SimpleNamespace())
    assert granted.says == f"normal priority: on {sys.platform} it can't be raised for one thread alone"


def test_normal_asks_for_nothing():
    granted = raise_priority("normal", system=None)
    assert (granted.kind, granted.says) == ("normal", "normal priority, as asked")


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match=r"priority 'highest' isn't known; there are normal, high"):
        raise_priority("highest")


def scheduling():
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.getpriority(os.PRIO_PROCESS, 0)


def in_thread(function):
    found = []
    thread = Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@linux
def test_this_machine_raises_one_thread_at_most_and_takes_it_back():
    def body():
        before, granted = scheduling(), raise_priority()
        raised, child = scheduling(), in_thread(scheduling)
        granted.restore()
        return before, granted, raised, child, scheduling()

    callers = scheduling()
    with ThreadPoolExecutor(1) as pool:
        before, granted, raised, child, after = pool.submit(body).result()
    assert after == before
    assert scheduling() == callers
    assert (raised != before) == (granted.kind != "normal")
    assert child[0] == os.SCHED_OTHER
    assert child[1] >= min(0, before[1])


@linux
def test_another_thread_may_restore_it():
    with ThreadPoolExecutor(1) as pool:
        before = pool.submit(scheduling).result()
        granted = pool.submit(raise_priority).result()
        granted.restore()
        assert pool.submit(scheduling).result() == before
