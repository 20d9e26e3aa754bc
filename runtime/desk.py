"""Where tickets are worked on: one after the other, in one thread, and none beyond its deadline."""

from collections.abc import Callable
from functools import partial
from math import inf

from .answer import Answer
from .engines.cut import Cut
from .handover import SOON
from .run import Run, SoFar
from .stats import Tally
from .ticket import Ticket
from .watchdog import Watchdog
from .worker import Worker

Begin = Callable[[Cut, float], Run]  # given what may end its steps, and since when the thread has been running
Describe = Callable[[SoFar], Answer]  # the best answer of a run that reached an exit
Conclude = Callable[[Run], Answer]  # the answer of a run that is over


class Desk:
    """For one session. `worker`: its thread, which the session ends."""

    def __init__(self, worker: Worker, watchdog: Watchdog, tally: Tally):
        self.worker, self._watchdog, self._tally = worker, watchdog, tally
        self._open: set[Ticket] = set()
        self._closed_by: Exception | None = None

    def take(self, ticket: Ticket, begin: Begin, describe: Describe, conclude: Conclude | None) -> None:
        """Works on a ticket when its turn comes, unless it is done by then.

        Args:
            conclude: makes the last answer; None: it is that of the last exit.
        """
        self._open.add(ticket)
        ticket.add_done_callback(self._open.discard)
        SOON.enter()  # from now on, as the worker has to get the interpreter first
        ticket.add_done_callback(lambda _: SOON.leave())
        if ticket.expires_s < inf:
            alarm = self._watchdog.at(ticket.expires_s, ticket.expire)
            ticket.add_done_callback(lambda _: alarm.call_off())
        self.worker.put(partial(self._work, ticket, begin, describe, conclude))
        if self._closed_by is not None:  # meanwhile, by another thread
            ticket.fail(self._closed_by)

    def fail(self, error: Exception) -> None:
        """Fails all open tickets, and those to come, as the session closes."""
        self._closed_by = error
        for ticket in list(self._open):
            ticket.fail(error)

    def _work(
        self, ticket: Ticket, begin: Begin, describe: Describe, conclude: Conclude | None, awake_cpu_s: float
    ) -> None:
        try:
            was_cut_off = False
            if ticket.begin():
                run = begin(ticket.cut, awake_cpu_s)
                while run.advance(passing=lambda now: ticket.reach(partial(describe, now))):
                    pass
                ticket.finish(run.stopped_by, partial(conclude, run) if conclude and run.reached else None)
                run.end()
                was_cut_off = run.was_cut_off
            self._count(ticket, was_cut_off)
        except Exception as error:
            ticket.fail(error)

    def _count(self, ticket: Ticket, was_cut_off: bool) -> None:
        """Those that ended, with an answer or dropped; not what was cancelled or failed."""
        if not ticket.cancelled() and self._closed_by is None:
            answer = ticket.best()
            self._tally.add(answer is not None and answer.deadline_met, was_cut_off)
