"""A bundle in a program: load it, then ask for answers under a budget, from any thread."""

import os
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..policies.escalate import first_of
from ..policies.exits import rule_of
from ..policies.fixed import Fixed
from ..policies.latency import TimeModel
from ..policies.profile_model import ProfileModel
from ..policies.route import routes
from ..policies.situation import Budget, OperatingPoint, Policy
from .answer import Answer, make_answer
from .bundle import Bundle
from .certified import coverage_of
from .course import Request
from .desk import Desk
from .direct import Direct
from .engines import Engine, make_engine, runnable
from .handover import SOON
from .inputs import Samples
from .lifetime import Lifetime
from .memory import return_freed_memory
from .offers import Offers
from .options import Confidence, chosen_model, chosen_policy, chosen_profile, usual_model
from .plans import Plans
from .profile import Profile
from .reception import Reception
from .run import Run, SoFar, rehearse
from .runner import BLIND, Runner, Sensing
from .sensors import Sensors
from .shadow import SHARE, own_rules, shadow_for
from .stand import Clocks
from .stats import Stats, Tally
from .student import Student
from .ticket import Ticket, on_late_of
from .watchdog import Guards, Watchdog
from .worker import Worker

_STARTING_S = 5.0  # at most, for the worker to have asked for its priority


def load(
    path: str | os.PathLike[str],
    engine: str = "onnx",
    threads: int = 1,
    policy: str | Policy | OperatingPoint = "alert",
    confidence: Confidence = None,
    profile: str | os.PathLike[str] | Profile = "auto",
    checks: bool = True,
    time_model: str | TimeModel | None = None,
    sensors: bool | Sensing | None = None,
    priority: str = "normal",
    exit_by_exit: bool = False,
    shadow: float = SHARE,
) -> "Session":
    """Opens a bundle and gets it ready to answer: `stretto.load("model.stretto").infer(image, budget_ms=8)`.

    During its requests, the process's other Python threads are asked to hand the interpreter over within 0.1 ms instead
    of 5 (`sys.setswitchinterval`), so that a busy one doesn't hold up answers.

    Args:
        path: a `.stretto` file.
        engine: what runs the graphs, one of `ENGINES`.
        threads: processor threads for one step.
        policy: the name of a policy, a policy of one's own, or an operating point to answer at always.
        confidence: with policy "route", how likely right is enough, by what the router says of an input, in (0, 1].
            Otherwise: stop at an exit that is at least this sure, in (0, 1], or a number for each depth, or a rule of
            `EXIT_RULES`. "calibrated": by the thresholds that `stretto calibrate` certified; `Answer.covered` says
            whether their promise is about an answer.
        profile: "auto" takes the one that `stretto profile` measured on this device, or else makes do with a few runs
            while loading; otherwise a `Profile`, or the file of one.
        checks: look for NaN and infinity in every input; dtype and shape are looked at in any case.
        time_model: how long steps take now: the name of a time model, or one of one's own. "profile" has them take as
            long as on the idle device, whatever happens, and is what a fixed point gets unless told, since nothing is
            decided there; everything else gets "slices", which learns from every step and looks at the load.
        sensors: watch the device's load; or who does, and is closed by whoever made it. None: where the time model
            looks at it.
        priority: "high" asks the system to run the thread of `submit` before others; the session's `priority` says
            what it granted.
        exit_by_exit: let `infer` look at the clock at every exit. By default it goes to its first target in one graph,
            which is quicker, but can't stop on the way: better where stages take no longer than what may delay them,
            a few milliseconds. Those graphs hold their weights once more. A confidence makes it stop wherever it may
            be sure, in any case.
        shadow: share of samples, in [0, 1], whose answer by certified thresholds is compared with the full network's in
            the background, when the machine is idle; also the sensors are then read. Once inputs aren't like those of
            the calibration any more, that is logged, nothing stops early from then on, and `Session.stats` says why.

    Raises:
        BundleError: the file can't be used.
        ValueError: an option out of range, or a profile of another bundle.
    """
    bundle = Bundle.open(path)
    runner = make_engine(engine, bundle, threads)
    try:
        bundle = runnable(runner, bundle)
        chosen = chosen_policy(policy, confidence, bundle)
        times = chosen_profile(profile, bundle, runner)
        model = chosen_model(time_model or usual_model(chosen), times)
        is_shadowed = shadow > 0 and own_rules(chosen, bundle.manifest)[1] is not None
        watched = model.looks_at_load or is_shadowed if sensors is None else sensors
        session = Session(
            bundle, runner, chosen, times, checks, model, watched, priority, exit_by_exit=exit_by_exit, shadow=shadow
        )
    except BaseException:
        runner.close()
        raise
    return_freed_memory()
    return session


class Session:
    """Answers requests; `load` makes one. For use from any number of threads, not across a fork.

    `bundle`: what it runs; `profile`: the times on the idle device, and the power there, each with a `source` that says
    where it is from; `points`: the operating points it can answer at. Closing it closes the engine.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        policy: Policy,
        profile: Profile,
        checks: bool = True,
        model: TimeModel | None = None,
        sensors: bool | Sensing = False,
        priority: str = "normal",
        clocks: Clocks = Clocks(),
        exit_by_exit: bool = False,
        shadow: float = SHARE,
    ):
        profile.check(bundle)
        policy, rules = own_rules(policy, bundle.manifest)
        self.bundle, self.profile = bundle, profile
        self.points = tuple(record.point for record in bundle.manifest.points)
        self._clocks = clocks
        self._runner = runner = Runner(engine, policy, model or ProfileModel(profile.levels), clocks)
        fixed, first = isinstance(policy, Fixed), first_of(policy)
        routed = bundle.routed if routes(policy) else ()
        self._offers = Offers(bundle.path.name, bundle.manifest, profile, engine, fixed, first, routed)
        plans = Plans(runner, self._offers)
        self._student = Student(bundle.path.name, runner, plans.renew) if runner.learns else None
        self._tally = Tally(self._student.request_ended) if self._student else Tally()
        self._watchdog = Watchdog(f"stretto-watchdog-{bundle.path.stem}", clocks.wall)
        self._guards = Guards(self._watchdog, clocks.wall)
        self._shadow = runner.shadow = shadow_for(bundle.path.name, runner, bundle.manifest, rules, shadow)
        worker = Worker(f"stretto-worker-{bundle.path.stem}", priority)
        self._desk = Desk(worker, self._watchdog, self._tally)
        median = self._runner.model.levels.index(0.5)
        self._rule = rule_of(policy)
        is_covered = coverage_of(self._rule, bundle.manifest.depths)
        self._make_answer = partial(make_answer, bundle.manifest.classes, median, is_covered=is_covered)
        rehearse(self._runner, self._offers, bundle.manifest.input.shape, exit_by_exit)
        self._sensors: Sensors | None = None
        if sensors is True:
            self._sensors = sensors = Sensors(own_running=self._runner.own_running).start()
        self._runner.sensors = sensors or BLIND
        if priority != "normal":
            worker.start(_STARTING_S)
        self._life = Lifetime(
            bundle.path.name,
            {"worker": worker, "watchdog": self._watchdog, "sensors": self._sensors, "student": self._student,
             "shadow": self._shadow},
        )  # fmt: skip
        self._reception = Reception(runner, self._offers, self._life, bundle.manifest.input, checks)
        self._direct = Direct(
            runner, self._offers, self._reception, plans, self._guards, self._tally, bundle.manifest.classes, is_covered
        )
        # for whoever forgets to close it: idle threads would outlive it, and keep what they know of
        weakref.finalize(self, self._life.let_go).atexit = False

    @property
    def stats(self) -> Stats:
        """What it did so far."""
        failures = {point: failed.times for point, failed in self._offers.failures.items()}
        found = () if self._shadow is None else self._shadow.found
        return Stats(self._tally.requests, self._tally.deadlines_met, self._tally.cut_offs, failures, *found)

    @property
    def priority(self) -> str:
        """What priority the thread of `submit` runs at, in a sentence."""
        granted = self._desk.worker.granted
        return "normal priority, until it starts" if granted is None else granted.says

    def infer(
        self, x: Samples, budget_ms: float | None = None, *, deadline: float | None = None, budget: Budget | None = None
    ) -> Answer | list[Answer]:
        """The best answer that the policy expects in time. Missing the deadline is no error: the answer says so.

        Once an exit was reached, what would end too late is cut off; before, the first exit is waited for.

        Args:
            x: float32 as in the bundle's input specification; one sample, or a batch of any size for a list of
                answers, whose samples stop at exits of their own.
            budget_ms: milliseconds from this call, > 0.
            deadline: instead of it, a moment of `time.monotonic()`.
            budget: instead of both, a whole budget; with `energy_mj`, for policies that look at energy: "alert".

        Raises:
            InputError: `x` isn't what the bundle takes.
            ValueError, TypeError: the budget is out of range or no number, or there are several.
            EngineError: the engine failed at so many points that none is left.
            ClosedError: the session is closed or of another process.
            RuntimeError: its policy chose what isn't possible.
        """
        with SOON:
            return self._direct.infer(x, budget_ms, deadline, budget)

    def refine(
        self, x: Samples, budget_ms: float | None = None, *, deadline: float | None = None, budget: Budget | None = None
    ) -> Iterator[Answer]:
        """The best answer so far, at every exit along the width that the policy chose, until the policy stops.

        Each exit is computed when the next answer is asked for, and nothing twice, so who stops iterating stops the
        work. The last answer says why in `stopped_by`, unless the time ran out after it.

        Takes one sample; arguments and errors as for `infer`.
        """
        request = self._reception.accept_one("refine", x, budget_ms, deadline, budget)
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
        request = self._reception.accept_one("submit", x, budget_ms, deadline, budget)
        ticket = Ticket(request.arrival, request.deadline, late, self._clocks.wall)
        begin = partial(Run, self._runner, self._offers, request, x[None].copy(), None)
        # what a rule ended is answered by the exit that it looked at last, which none knows before
        conclude = None if self._rule is None else partial(self._answer, request)
        self._desk.take(ticket, begin, partial(self._answer_then, request), conclude)
        return ticket

    def prepare(self, pixels: NDArray[np.uint8]) -> Samples:
        """Pixels, one sample or a batch, as the numbers that `infer` takes."""
        return self.bundle.manifest.input.prepare(pixels)

    def close(self) -> None:
        """Ends its threads and frees the engine; tickets that aren't done fail with `ClosedError`."""
        if self._life.end():
            self._desk.fail(self._life.error)
            self._life.end_threads()
            self._runner.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _refine(self, x: Samples, request: Request) -> Iterator[Answer]:
        with SOON:
            run = Run(self._runner, self._offers, request, x, self._guards)
        answer = None
        try:
            while self._to_next_exit(run):
                yield (answer := self._answer(request, run))
                self._life.require()
        except GeneratorExit:  # whoever asked has enough
            pass
        finally:
            run.end()
        self._tally.add(answer is not None and answer.deadline_met, run.was_cut_off)

    @staticmethod
    def _to_next_exit(run: Run) -> bool:
        with SOON:
            if run.reached:
                run.look_again()
            return run.advance(leg=True)

    def _answer(self, request: Request, run: Run) -> Answer:
        at_s = self._clocks.wall()
        return self._make_answer(at_s, request, run.start, run.reached, run.exits, run.stopped_by, run.spent_mj)

    def _answer_then(self, request: Request, then: SoFar) -> Answer:
        return self._make_answer(then.at_s, request, then.start, then.reached, then.exits, None, then.spent_mj)
