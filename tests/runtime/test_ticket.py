"""Tickets end once: by their work, at their deadline, by an error, or cancelled. On a clock that the test moves."""

import asyncio
from concurrent.futures import CancelledError, TimeoutError, wait
from functools import partial
from math import inf
from threading import Event, Thread

import numpy as np
import pytest
from stretto.policies.situation import Evidence, OperatingPoint, Stop
from stretto.runtime.answer import Answer
from stretto.runtime.ticket import OnLate, Ticket, on_late_of

from .fakes import Clock

ARRIVAL = 1000.0


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ticket(clock):
    return Ticket(ARRIVAL, ARRIVAL + 1, OnLate.WAIT, clock)


def answer(depth=1):
    return Answer(
        seen=Evidence(OperatingPoint(1.0, depth), np.ones(1), 1.0, 0, 1.0, 0.5),
        label="cat",
        index=0,
        confidence=1.0,
        point=OperatingPoint(1.0, depth),
        latency_ms=depth,
        deadline_met=True,
        stopped_by=None,
        expected_ms=1.0,
        expected_accuracy=0.5,
        exits=tuple(range(1, depth + 1)),
        energy_mj=2.0 * depth,
    )


def test_best_is_the_latest_one_told_and_none_before(ticket):
    assert ticket.best() is None
    for depth in (1, 2):
        ticket.reach(partial(answer, depth))
        assert ticket.best().exits[-1] == depth
    assert not ticket.done()


def test_finished_ticket_says_when_and_why(ticket, clock):
    ticket.reach(lambda: answer(3))
    clock.sleep(0.25)
    ticket.finish(Stop.FINAL)
    result = ticket.result()
    assert result is ticket.best()
    assert (result.point.depth, result.stopped_by, result.deadline_met) == (3, Stop.FINAL, True)
    assert result.latency_ms == pytest.approx(250)
    assert not ticket.cut.asked


def test_result_at_the_deadline_is_the_best_so_far_and_the_work_is_cut_off(ticket, clock):
    ticket.reach(lambda: answer(2))
    clock.sleep(1.0)
    result = ticket.result()
    assert (result.point.depth, result.stopped_by) == (2, Stop.DEADLINE)
    assert ticket.cut.asked


def test_it_ends_a_little_before_the_deadline_so_that_the_answer_is_in_time(ticket, clock):
    ticket.reach(answer)
    clock.now_s = ticket.expires_s
    assert ARRIVAL + 0.999 < clock.now_s < ARRIVAL + 1
    assert ticket.result().deadline_met


def test_without_an_exit_at_the_deadline_it_waits_for_the_first_one(ticket, clock):
    clock.sleep(2.0)
    ticket.expire()
    with pytest.raises(TimeoutError):
        ticket.result(0)
    assert not ticket.cut.asked
    ticket.reach(answer)
    assert ticket.done()
    assert (ticket.result().stopped_by, ticket.result().deadline_met) == (Stop.DEADLINE, False)


def test_without_an_exit_at_the_deadline_it_may_be_dropped(clock):
    ticket = Ticket(ARRIVAL, ARRIVAL + 1, OnLate.DROP, clock)
    clock.sleep(1.0)
    assert ticket.result() is None
    assert ticket.cut.asked
    assert not ticket.begin()
    ticket.reach(answer)
    assert ticket.result() is None


def test_exit_reached_in_time_is_not_dropped(clock):
    ticket = Ticket(ARRIVAL, ARRIVAL + 1, OnLate.DROP, clock)
    ticket.reach(answer)
    clock.sleep(1.0)
    assert ticket.result().stopped_by is Stop.DEADLINE


@pytest.mark.parametrize("seconds", [0, 0.01])
def test_result_waits_no_longer_than_told(ticket, seconds):
    with pytest.raises(TimeoutError):
        ticket.result(seconds)
    assert not ticket.done()


def test_result_comes_from_another_thread(clock):
    ticket = Ticket(ARRIVAL, inf, OnLate.WAIT, clock)
    ticket.reach(answer)
    worker = Thread(target=ticket.finish, args=(Stop.TARGET,))
    worker.start()
    assert ticket.result(30).stopped_by is Stop.TARGET
    worker.join(30)


def test_cancelled_ticket_is_cut_off_and_gives_no_result(ticket):
    assert ticket.begin() and ticket.running()
    ticket.reach(answer)
    assert ticket.cancel() and ticket.cancel()
    assert ticket.cancelled() and ticket.done() and not ticket.running() and ticket.cut.asked
    assert wait([ticket], timeout=0).done == {ticket}
    with pytest.raises(CancelledError):
        ticket.result()
    assert ticket.best().exits == (1,)
    ticket.finish(Stop.FINAL)
    assert ticket.cancelled()


def test_ended_ticket_can_not_be_cancelled(ticket):
    ticket.reach(answer)
    ticket.finish(Stop.FINAL)
    assert not ticket.cancel()
    assert ticket.result().stopped_by is Stop.FINAL


def test_error_is_raised_by_result_and_best_keeps_what_there_was(ticket):
    ticket.reach(answer)
    ticket.fail(OSError("the disk is gone"))
    with pytest.raises(OSError, match="the disk is gone"):
        ticket.result()
    assert ticket.best().exits == (1,)
    assert ticket.cut.asked


def test_own_time_out_of_the_work_is_told_as_it_is(ticket):
    ticket.fail(TimeoutError("the driver hangs"))
    with pytest.raises(TimeoutError, match="the driver hangs"):
        ticket.result()


def test_it_ends_once_whoever_comes_first(clock):
    for _ in range(200):
        ticket, begin = Ticket(ARRIVAL, ARRIVAL, OnLate.WAIT, clock), Event()
        ticket._best = answer
        ends = [ticket.expire, ticket.cancel, lambda ticket=ticket: ticket.finish(Stop.FINAL)]
        threads = [Thread(target=lambda end=end, begin=begin: (begin.wait(30), end())) for end in ends]
        for thread in threads:
            thread.start()
        begin.set()
        for thread in threads:
            thread.join(30)
        assert ticket.done()


def test_callback_is_called_with_the_ticket(ticket):
    called = []
    ticket.add_done_callback(called.append)
    ticket.reach(answer)
    ticket.finish(Stop.FINAL)
    assert called == [ticket]


def test_ticket_can_be_awaited(clock):
    async def waits():
        ticket = Ticket(ARRIVAL, inf, OnLate.WAIT, clock)
        ticket.reach(lambda: answer(2))
        asyncio.get_running_loop().call_soon(ticket.finish, Stop.FINAL)
        return await ticket

    assert asyncio.run(waits()).point.depth == 2


def test_awaiting_task_that_is_cancelled_ends_the_work(ticket):
    async def gives_up():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ticket, 0.01)

    asyncio.run(gives_up())
    assert ticket.cancelled() and ticket.cut.asked


def test_unknown_on_late_names_what_there_is():
    with pytest.raises(ValueError, match=r"on_late is 'never'; give one of wait, drop"):
        on_late_of("never")
