"""A bundle in a program: load it, then ask for answers under a budget, from any thread."""

import logging
import math
import os
from collections.abc import Iterator
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..policies.fixed import Fixed
from ..policies.latency import TimeModel
from ..policies.profile_model import ProfileModel
from ..policies.situation import Budget, OperatingPoint, Policy, Step, Stop
from .answer import Answer, make_answer
from .batch import BatchRun
from .bundle import Bundle
from .course import Request
from .engines import Engine, make_engine
from .errors import ClosedError, InputError
from .inputs import UNLIMITED, Samples, budget_of, check_input
from .memory import return_freed_memory
from .offers import Offers
from .options import chosen_model, chosen_policy, chosen_profile
from .profile import Profile
from .run import Run
from .runner import NOTHING, Clocks, Reached, Runner, Sensing, Stand
from .stats import Stats, Tally
from .ticket import Ticket, on_late_of
from .watchdog import Guard, Lags, Watchdog
from .worker import Worker

log = logging.getLogger(__name__)


def load(
    path: str | os.PathLike[str],
    engine: str = "onnx",
    threads: int = 1,
    policy: str | Policy | OperatingPoint = "deadline",
    confidence: float | None = None,
    profile: str | os.PathLike[str] | Profile = "auto",
    checks: bool = True,
    time_model: str | TimeModel = "profile",
) -> "Session":
    """Opens a bundle and gets it ready to answer: `stretto.load("model.stretto").infer(image, budget_ms=8)`.

    Args:
        path: a `.stretto` file.
        engine: what runs the graphs, one of `ENGINES`.
        threads: processor threads for one step.
        policy: the name of a policy, a policy of one's own, or an operating point to answer at always.
        confidence: stop at an exit that is at least this sure, in (0, 1].
        profile: "auto" takes the one that `stretto profile` measured on this device, or else makes do with a few runs
            while loading; otherwise a `Profile`, or the file of one.
        checks: look for NaN and infinity in every input; dtype and shape are looked at in any case.
        time_model: how long steps take now: "profile" as on the idle device whatever happens.

    Raises:
        BundleError: the file can't be used.
        ValueError: an option out of range, or a profile of another bundle.
    """
    bundle = Bundle.open(path)
    chosen = chosen_policy(policy, confidence, bundle)
    runner = make_engine(engine, bundle, threads)
    try:
        times = chosen_profile(profile, bundle, runner)
        session = Session(bundle, runner, chosen, times, checks, chosen_model(time_model, times))
    except BaseException:
        runner.close()
        raise
    return_freed_memory()
    return session


class Session:
    """Answers requests; `load` makes one. For use from any number of threads, not across a fork.

    `bundle`: what it runs; `profile`: the times on the idle device, whose `source` says where they are from; `points`:
    the operating points it can answer at. Closing it closes the engine.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        policy: Policy,
        profile: Profile,
        checks: bool = True,
        model: TimeModel | None = None,
        sensors: Sensing | None = None,
        clocks: Clocks = Clocks(),
    ):
        profile.check(bundle)
        self.bundle, self.profile = bundle, profile
        self.points = tuple(
            OperatingPoint(record.width, record.depth, record.precision) for record in bundle.manifest.points
        )
        self._checks, self._clocks = checks, clocks
        self._pid, self._closed = os.getpid(), False
        self._runner = Runner(engine, policy, model or ProfileModel(profile.levels), sensors, clocks)
        # whoever asks for one point gets it, whatever other points are worth
        self._offers = Offers(bundle.path.name, bundle.manifest, profile, engine, whole=isinstance(policy, Fixed))
        self._tally, self._lags = Tally(), Lags()
        self._watchdog = Watchdog(f"stretto-watchdog-{bundle.path.stem}", clocks.wall)
        self._worker = Worker(f"stretto-worker-{bundle.path.stem}")
        self._tickets: set[Ticket] = set()
        self._median = self._runner.model.levels.index(0.5)
        self._rehearse()

    @property
    def stats(self) -> Stats:
        """What it did so far."""
        failures = {point: failed.count for point, failed in self._offers.failures.items()}
        return Stats(self._tally.requests, self._tally.deadlines_met, self._tally.cut_offs, failures)

    def infer(
        self, x: Samples, budget_ms: float | None = None, *, deadline: float | None = None, budget: Budget | None = None
    ) -> Answer | list[Answer]:
        """The best answer that the policy expects in time. Missing the deadline is no error: the answer says so.

        Once an exit was reached, what would end after the deadline is cut off; before, the first exit is waited for.

        Args:
            x: float32 as in the bundle's input specification; one sample, or a batch of any size for a list of
                answers, whose samples stop at exits of their own.
            budget_ms: milliseconds from this call, > 0.
            deadline: instead of it, a moment of `time.monotonic()`.
            budget: instead of both, a whole budget.

        Raises:
            InputError: `x` isn't what the bundle takes.
            ValueError, TypeError: the budget is out of range or no number, or there are several.
            EngineError: the engine failed at so many points that none is left.
            RuntimeError: the session is closed (`ClosedError`) or of another process, or its policy chose what isn't
                possible.
        """
        request, is_batch = self._accept(x, budget_ms, deadline, budget)
        return self._infer_batch(x, request) if is_batch else self._infer_one(x[None], request)

    def refine(
        self, x: Samples, budget_ms: float | None = None, *, deadline: float | None = None, budget: Budget | None = None
    ) -> Iterator[Answer]:
        """The best answer so far, at every exit along the width that the policy chose, until the policy stops.

        Each exit is computed when the next answer is asked for, and nothing twice, so who stops iterating stops the
        work. The last answer says why in `stopped_by`, unless the time ran out after it.

        Takes one sample; arguments and errors as for `infer`.
        """
        request = self._accept_one("refine", x, budget_ms, deadline, budget)
        return self._refine(x[None], request)

    def submit(
        self,
        x: Samples,
        budget_ms: float | None = None,
        *,
        deadline: float | None = None,
        budget: Budget | None = None,
        on_late: str = "wait",
    ) -> Ticket:
        """Answers on the session's one worker thread; the ticket has the best answer so far at any moment.

        It goes exit by exit, so that there is one early. At the deadline it is done with what it has, even while a
        graph is running, which is then ended. Takes one sample, and copies it; arguments and errors as for `infer`.

        Args:
            on_late: what to do at the deadline without any exit reached: "wait" for the first one, or "drop" it, which
                makes None the result.
        """
        late = on_late_of(on_late)
        request = self._accept_one("submit", x, budget_ms, deadline, budget)
        ticket = Ticket(request.arrival, request.deadline, late, self._clocks.wall)
        self._tickets.add(ticket)
        ticket.add_done_callback(self._tickets.discard)
        if request.deadline < math.inf:
            alarm = self._watchdog.at(ticket.expires_s, ticket.expire)
            ticket.add_done_callback(lambda _: alarm.call_off())
        self._worker.put(partial(self._work, ticket, request, x[None].copy()))
        if self._closed:  # meanwhile, by another thread
            ticket.fail(self._closed_error())
        return ticket

    def prepare(self, pixels: NDArray[np.uint8]) -> Samples:
        """Pixels, one sample or a batch, as the numbers that `infer` takes."""
        return self.bundle.manifest.input.prepare(pixels)

    def close(self) -> None:
        """Ends its threads and frees the engine; tickets that aren't done fail with `ClosedError`."""
        if not self._closed and os.getpid() == self._pid:  # a fork has none of it to end
            self._closed = True
            for ticket in list(self._tickets):
                ticket.fail(self._closed_error())
            for thread in (self._worker, self._watchdog):
                if not thread.close():
                    log.warning("%s is still busy; it ends by itself", thread.name)
            self._runner.engine.close()
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _accept(
        self, x: Any, budget_ms: float | None, deadline: float | None, budget: Budget | None
    ) -> tuple[Request, bool]:
        arrival = self._clocks.wall()
        self._require_usable()
        allowed = budget_of(arrival, budget_ms, deadline, budget)
        is_batch = check_input(x, self.bundle.manifest.input, self._checks)
        menus = self._offers.menus(len(x) if is_batch else 1)
        return Request(arrival, arrival + allowed.latency_ms / 1e3, allowed, menus), is_batch

    def _accept_one(
        self, verb: str, x: Any, budget_ms: float | None, deadline: float | None, budget: Budget | None
    ) -> Request:
        request, is_batch = self._accept(x, budget_ms, deadline, budget)
        if is_batch:
            shape = self.bundle.manifest.input.shape
            raise InputError(f"{verb} takes one sample, {shape}, and got {x.shape}; use infer")
        return request

    def _require_usable(self) -> None:
        if self._closed:
            raise self._closed_error()
        if os.getpid() != self._pid:
            raise ClosedError(
                f"the session of {self.bundle.path.name} was loaded in process {self._pid}, not in its fork "
                f"{os.getpid()}; load it again there"
            )

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"the session of {self.bundle.path.name} is closed; load it again")

    def _infer_one(self, x: Samples, request: Request) -> Answer:
        run = Run(self._runner, self._offers, request, x, self._guard(request))
        try:
            while run.advance():
                pass
        finally:
            run.end()
        answer = self._answer(request, run.start, run.reached, run.stopped_by)
        self._tally.add(answer.deadline_met, run.was_cut_off)
        return answer

    def _refine(self, x: Samples, request: Request) -> Iterator[Answer]:
        run = Run(self._runner, self._offers, request, x, self._guard(request))
        answer = None
        try:
            while run.advance(leg=True):
                yield (answer := self._answer(request, run.start, run.reached, run.stopped_by))
                self._require_usable()
                run.look_again()
        finally:
            run.end()
            self._tally.add(answer is not None and answer.deadline_met, run.was_cut_off)

    def _infer_batch(self, x: Samples, request: Request) -> list[Answer]:
        run = BatchRun(self._runner, self._offers, request, x, self._guard(request))
        try:
            run.finish()
        finally:
            run.end()
        answers = [self._answer(request, run.start, seen, run.stops[n]) for n, seen in enumerate(run.reached)]
        self._tally.add(all(answer.deadline_met for answer in answers), run.was_cut_off)
        return answers

    def _work(self, ticket: Ticket, request: Request, x: Samples, awake_cpu_s: float) -> None:
        """A ticket's turn, in the worker's thread."""
        was_cut_off = False
        try:
            if ticket.begin():
                run = Run(self._runner, self._offers, request, x, cut=ticket.cut, awake_cpu_s=awake_cpu_s)
                while run.advance(leg=True):
                    ticket.reach(self._answer(request, run.start, run.reached, None))
                ticket.finish(run.stopped_by)
                run.end()
                was_cut_off = run.was_cut_off
        except Exception as error:
            ticket.fail(error)
        if not ticket.cancelled():
            answer = ticket.best()
            self._tally.add(answer is not None and answer.deadline_met, was_cut_off)

    def _guard(self, request: Request) -> Guard | None:
        if request.deadline == math.inf:
            return None
        return Guard(self._watchdog, self._lags, request.deadline, self._clocks.wall)

    def _answer(self, request: Request, start: Stand, reached: Reached, stopped_by: Stop | None) -> Answer:
        classes, now = self.bundle.manifest.classes, self._clocks.wall()
        return make_answer(classes, request, start, self._median, reached, stopped_by, now)

    def _rehearse(self) -> None:
        """One request's first step: a policy that doesn't fit the bundle fails here, and a span is loaded."""
        zeros = np.zeros((1, *self.bundle.manifest.input.shape), np.float32)
        start = self._offers.menus(1).start
        stand = self._runner.begin(zeros, start, self._clocks.wall())
        (first,) = self._runner.ask(stand, math.inf, UNLIMITED, (NOTHING,))
        if isinstance(first, Step):  # nothing else is possible, which `ask` made sure of
            self._runner.engine.run(self._offers.ready(start, first, math.inf), zeros)
