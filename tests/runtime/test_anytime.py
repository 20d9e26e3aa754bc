"""Tickets and deadlines of a session, with engines that are held until the test lets them go."""

import asyncio
import gc
import math
import os
import threading
import weakref
from concurrent.futures import CancelledError
from threading import Event, Thread

import numpy as np
import pytest
from stretto.policies.deadline import Deadline
from stretto.policies.scores import calibrated_scores
from stretto.policies.situation import OperatingPoint, Step, Stop
from stretto.runtime.bundle import Bundle
from stretto.runtime.engines import make_engine
from stretto.runtime.errors import ClosedError, InputError
from stretto.runtime.session import Session
from stretto.runtime.stand import Clocks

from .fakes import Clock, Held, Recorder, set_profile
from .toy import toy_bundle

DEPTHS = 4
SOON_S = 30  # by then everything has happened that happens at all, however slow the machine
SAMPLE = np.zeros((3, 8, 8), np.float32)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    path = tmp_path_factory.mktemp("anytime") / "toy.stretto"
    return toy_bundle(path, widths=(0.25, 0.5, 1.0), depths=DEPTHS, temperature=2.0)


@pytest.fixture(scope="module")
def bundle(toy):
    return Bundle.open(toy.path)


@pytest.fixture
def opened(bundle):
    """Opens sessions that expect a stage to take 5 ms, longer than it takes to cut one off."""
    sessions = []

    def opened(engine, policy=None, **options):
        sessions.append(
            Session(bundle, engine, policy or Deadline(), set_profile(bundle, 5.0), exit_by_exit=True, **options)
        )
        return sessions[-1]

    yield opened
    for session in sessions:
        session.close()


@pytest.fixture
def held(bundle, opened):
    """A session whose steps to `depth` are held, and its engine."""

    def held(depth, obeys=True, **options):
        engine = Held(bundle, depth, obeys)
        engine.release.set()  # while the session is made
        session = opened(engine, **options)
        engine.release.clear()
        return session, engine

    return held


def test_ticket_of_a_request_without_deadline_answers_like_infer(toy, bundle, opened):
    session, x = opened(make_engine("onnx", bundle)), toy.samples(3)
    for sample, ticket in [(sample, session.submit(sample)) for sample in x]:
        one, other = ticket.result(SOON_S), session.infer(sample)
        assert np.array_equal(one.scores, other.scores)
        assert (one.point, one.exits, one.stopped_by) == (other.point, other.exits, other.stopped_by)
        assert one.scores == pytest.approx(calibrated_scores(toy.logits(sample[None], DEPTHS, 1.0)[0], 2.0), abs=1e-5)


def test_best_answers_while_a_graph_is_running(held):
    session, engine = held(3)
    ticket = session.submit(SAMPLE)
    assert engine.entered.wait(SOON_S)
    assert ticket.best().exits == (1, 2)
    assert ticket.best().stopped_by is None
    assert ticket.running()
    engine.release.set()
    assert ticket.result(SOON_S).exits == (1, 2, 3, 4)


def test_nothing_is_reached_before_the_first_exit(held):
    session, engine = held(1)
    ticket = session.submit(SAMPLE)
    assert engine.entered.wait(SOON_S)
    assert ticket.best() is None
    engine.release.set()
    assert ticket.result(SOON_S).exits[0] == 1


def test_deadline_ends_a_ticket_inside_a_graph_that_can_not_be_stopped(held):
    session, engine = held(2, obeys=False)
    ticket, ended = session.submit(SAMPLE, budget_ms=30), Event()
    ticket.add_done_callback(lambda _: ended.set())
    assert ended.wait(SOON_S)  # by the watchdog: nobody waits for the result
    assert (ticket.result().exits, ticket.result().stopped_by) == ((1,), Stop.DEADLINE)
    assert not engine.ended.is_set()
    engine.release.set()


def test_deadline_ends_the_graph_too(held):
    session, engine = held(2)
    answer = session.submit(SAMPLE, budget_ms=30).result(SOON_S)
    assert (answer.exits, answer.stopped_by) == ((1,), Stop.DEADLINE)
    if engine.entered.is_set():  # else the machine was too slow to begin it
        assert engine.ended.wait(SOON_S)
    assert session.submit(SAMPLE, on_late="drop").result(SOON_S).stopped_by is Stop.FINAL


def test_late_ticket_waits_for_its_first_exit(held):
    clock = Clock()
    session, engine = held(1, clocks=Clocks(clock, clock))
    ticket = session.submit(SAMPLE, budget_ms=1000)
    assert engine.entered.wait(SOON_S)
    clock.sleep(2)
    ticket.expire()
    assert not ticket.done()
    engine.release.set()
    answer = ticket.result(SOON_S)
    assert (answer.exits, answer.deadline_met, answer.stopped_by) == ((1,), False, Stop.DEADLINE)
    assert answer.latency_ms == pytest.approx(2000)


def test_late_ticket_may_be_dropped(held):
    session, engine = held(1)
    ticket = session.submit(SAMPLE, budget_ms=30, on_late="drop")
    assert ticket.result(SOON_S) is None
    assert ticket.best() is None
    engine.release.set()


def test_queued_tickets_have_their_turn_unless_they_ended_before(held):
    session, engine = held(1)
    first, dropped, cancelled, last = (
        session.submit(SAMPLE),
        session.submit(SAMPLE, budget_ms=1, on_late="drop"),
        session.submit(SAMPLE),
        session.submit(SAMPLE),
    )
    assert cancelled.cancel()
    assert dropped.result(SOON_S) is None
    engine.release.set()
    assert first.result(SOON_S).exits == last.result(SOON_S).exits == (1, 2, 3, 4)
    assert engine.runs.count(Step(2, 2, 1.0)) == 2


def test_cancelling_ends_the_graph_that_is_running(held):
    session, engine = held(2)
    ticket = session.submit(SAMPLE)
    assert engine.entered.wait(SOON_S)
    assert ticket.cancel()
    assert engine.ended.wait(SOON_S)
    with pytest.raises(CancelledError):
        ticket.result(SOON_S)


def test_ticket_can_be_awaited(held):
    session, engine = held(2)

    async def waits():
        ticket = session.submit(SAMPLE)
        engine.release.set()
        return await asyncio.wait_for(ticket, SOON_S)

    assert asyncio.run(waits()).exits == (1, 2, 3, 4)


def test_input_may_be_reused_once_it_was_submitted(toy, bundle, opened):
    session, x = opened(make_engine("onnx", bundle)), toy.samples(1)[0]
    expected = session.infer(x).scores
    ticket = session.submit(x)
    x.fill(np.nan)
    assert np.array_equal(ticket.result(SOON_S).scores, expected)


def test_submit_goes_exit_by_exit_even_where_a_span_was_chosen(bundle, opened):
    class Straight:
        def next(self, situation):
            return situation.steps[-1] if situation.steps else Stop.FINAL

    session = opened(Held(bundle, None), Straight())
    assert session.submit(SAMPLE).result(SOON_S).exits == (1, 2, 3, 4)


def test_submit_takes_one_sample(opened, bundle):
    with pytest.raises(InputError, match=r"submit takes one sample, \(3, 8, 8\), and got \(2, 3, 8, 8\)"):
        opened(Held(bundle, None)).submit(np.stack([SAMPLE, SAMPLE]))


def test_unknown_on_late_is_refused(opened, bundle):
    with pytest.raises(ValueError, match=r"on_late is 'later'; give one of wait, drop"):
        opened(Held(bundle, None)).submit(SAMPLE, on_late="later")


def test_closing_fails_the_tickets_that_are_not_done(held):
    session, engine = held(2)
    running, queued = session.submit(SAMPLE), session.submit(SAMPLE)
    assert engine.entered.wait(SOON_S)
    session.close()
    for ticket in (running, queued):
        with pytest.raises(ClosedError, match=r"the session of toy\.stretto is closed"):
            ticket.result(SOON_S)
    assert running.best().exits == (1,)


def test_what_failed_is_not_counted_as_answered(held, opened, bundle):
    class Breaks:
        def next(self, situation):
            if situation.evidence:
                raise LookupError("a policy's own mistake")
            return situation.steps[0]

    session, engine = held(2)
    session.submit(SAMPLE)
    assert engine.entered.wait(SOON_S)
    session.close()
    assert session.stats.requests == 0
    session = opened(Held(bundle, None), Breaks())
    for ask in (session.infer, lambda x: list(session.refine(x)), lambda x: session.submit(x).result(SOON_S)):
        with pytest.raises(LookupError, match="own mistake"):
            ask(SAMPLE)
    assert session.stats.requests == 0


def test_refining_counts_once_its_caller_has_enough(opened, bundle):
    session = opened(Held(bundle, None))
    for _ in session.refine(SAMPLE):
        break
    gc.collect()
    assert session.stats.requests == 1


def test_session_that_nobody_closed_keeps_neither_engine_nor_threads(bundle):
    before = set(threading.enumerate())
    session = Session(bundle, Held(bundle, None), Deadline(), set_profile(bundle, 1e-3), sensors=True)
    session.submit(SAMPLE, budget_ms=60_000).result(SOON_S)
    engine, threads = weakref.ref(session._runner.engine), set(threading.enumerate()) - before
    assert len(threads) == 3
    del session
    gc.collect()
    for thread in threads:
        thread.join(SOON_S)
    assert engine() is None and not any(thread.is_alive() for thread in threads)


def test_thread_that_cannot_start_is_an_error_of_the_request_and_the_next_one_starts_it(opened, bundle, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    session = opened(Held(bundle, None))
    with monkeypatch.context() as patch:
        patch.setattr(Thread, "start", refuse)
        for ask in (session.infer, session.submit):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                ask(SAMPLE, budget_ms=60_000)
    assert session.stats.failures == {}
    assert session.submit(SAMPLE, budget_ms=60_000).result(SOON_S).deadline_met


def test_closing_ends_the_threads(held):
    before = set(threading.enumerate())
    session, engine = held(2, sensors=True)
    engine.release.set()
    session.submit(SAMPLE, budget_ms=60_000).result(SOON_S)
    assert len(set(threading.enumerate()) - before) == 3
    session.close()
    assert set(threading.enumerate()) == before


def test_closing_does_not_wait_long_for_an_engine_that_hangs(held, monkeypatch, caplog):
    monkeypatch.setattr("stretto.runtime.worker.Worker.close", lambda worker: False)
    session, engine = held(2)
    session.submit(SAMPLE)
    session.close()
    engine.release.set()
    assert "the worker is still busy" in caplog.text


def test_error_of_the_policy_reaches_the_ticket(opened, bundle):
    class Fickle:
        asked = 0

        def next(self, situation):
            self.asked += 1
            return situation.steps[0] if self.asked == 1 else "left"

    with pytest.raises(RuntimeError, match=r"chose 'left'; it must choose one of situation\.steps"):
        opened(Held(bundle, None), Fickle()).submit(SAMPLE).result(SOON_S)


def test_submit_in_a_fork_says_so(opened, bundle, monkeypatch):
    session, owner = opened(Held(bundle, None)), os.getpid()
    with monkeypatch.context() as patched:
        patched.setattr("os.getpid", lambda: owner + 1)
        with pytest.raises(ClosedError, match=rf"loaded in process {owner}, not in its fork"):
            session.submit(SAMPLE)


def test_many_threads_submit_and_all_are_answered(toy, bundle, opened):
    session, x = opened(make_engine("onnx", bundle)), toy.samples(8)
    expected = [session.infer(sample).scores for sample in x]
    tickets = {}
    threads = [
        Thread(target=lambda n=n: tickets.update({(n, m): session.submit(x[m]) for m in range(8)})) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON_S)
    assert len(tickets) == 32
    for (_, m), ticket in tickets.items():
        assert np.array_equal(ticket.result(SOON_S).scores, expected[m])


def test_infer_is_cut_off_at_the_deadline_and_answers_with_the_exit_in_hand(held):
    session, engine = held(2)
    answer = session.infer(SAMPLE, budget_ms=50)
    assert (answer.exits, answer.stopped_by) == ((1,), Stop.DEADLINE)
    assert session.stats.cut_offs == engine.entered.is_set()


def test_batch_is_cut_off_at_the_deadline_too(held):
    session, _ = held(2)
    for answer in session.infer(np.stack([SAMPLE, SAMPLE]), budget_ms=50):
        assert (answer.exits, answer.stopped_by) == ((1,), Stop.DEADLINE)


def test_refine_ends_where_it_is_cut_off(held):
    session, _ = held(3)
    answers = list(session.refine(SAMPLE, budget_ms=50))
    assert 0 < len(answers) <= 2
    assert answers[-1].exits[-1] == len(answers)


def test_infer_without_an_exit_is_not_cut_off(held):
    session, engine = held(1)

    def let_go():
        engine.entered.wait(SOON_S)
        deadline_passed.wait(0.05)
        engine.release.set()

    deadline_passed = Event()
    thread = Thread(target=let_go)
    thread.start()
    answer = session.infer(SAMPLE, budget_ms=1)
    thread.join(SOON_S)
    assert (answer.exits, answer.deadline_met) == ((1,), False)


def test_request_without_deadline_is_never_cut_off(held):
    session, engine = held(2)
    thread = Thread(target=lambda: (engine.entered.wait(SOON_S), engine.release.set()))
    thread.start()
    assert session.infer(SAMPLE, budget_ms=math.inf).stopped_by is Stop.FINAL
    thread.join(SOON_S)


class Endless(Recorder):
    """Runs the real graphs, those of exit 2 and beyond again and again."""

    def run(self, step, x, cut=None):
        for _ in range(100_000 if step.first and cut is not None else 1):
            found = super().run(step, x, cut)
        return found


def test_real_graphs_are_ended_at_the_deadline_and_run_again(toy, bundle, opened):
    session, x = opened(Endless(make_engine("onnx", bundle))), toy.samples(1)[0]
    for ask in (lambda: session.infer(x, budget_ms=100), lambda: session.submit(x, budget_ms=100).result(SOON_S)):
        answer = ask()
        assert (answer.exits, answer.stopped_by) == ((1,), Stop.DEADLINE)
    assert session.infer(x).point == OperatingPoint(1.0, DEPTHS)


def test_stats_count_requests_deadlines_and_what_was_cut_off(held):
    session, engine = held(2)
    session.infer(SAMPLE, budget_ms=50)
    engine.release.set()
    session.infer(SAMPLE)
    session.infer(np.stack([SAMPLE, SAMPLE]))
    list(session.refine(SAMPLE))
    session.submit(SAMPLE).result(SOON_S)
    session.close()  # so that the worker has counted, too
    stats = session.stats
    assert stats.requests == 5
    assert stats.cut_offs == engine.entered.is_set()
    assert stats.deadlines_met >= 4
    assert stats.failures == {}


def test_priority_says_what_it_is(opened, bundle):
    session = opened(Held(bundle, None))
    assert session.priority == "normal priority, until it starts"
    session.submit(SAMPLE).result(SOON_S)
    assert session.priority == "normal priority, as asked"


def test_high_priority_is_asked_for_when_the_session_is_made(opened, bundle):
    session = opened(Held(bundle, None), priority="high")
    assert session.priority != "normal priority, until it starts"
