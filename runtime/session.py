"""A bundle in a program: load it, then ask for answers under a budget, from any thread."""

import logging
import math
import os
from collections.abc import Iterator
from functools import lru_cache, partial
from time import monotonic
from typing import Any, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

from ..policies import make_policy
from ..policies.fixed import Fixed
from ..policies.situation import Budget, Evidence, OperatingPoint, Policy, Step, Stop
from .answer import Answer
from .bundle import Bundle
from .engines import Engine, make_engine
from .errors import InputError
from .inputs import UNLIMITED, Samples, budget_of, check_input
from .manifest import Manifest
from .measure import Stopwatch, warm_up_profile
from .memory import return_freed_memory
from .menu import Exit, Menu, make_menu
from .profile import Profile, cached_profile

log = logging.getLogger(__name__)
Reached = tuple[Evidence, ...]  # by one sample, oldest first
_NOTHING: Reached = ()


class _Request(NamedTuple):
    """`arrival`, `deadline`: seconds of `time.monotonic()`; `menu`: where it starts, for its number of samples."""

    arrival: float
    deadline: float
    budget: Budget
    menu: Menu


def load(
    path: str | os.PathLike[str],
    engine: str = "onnx",
    threads: int = 1,
    policy: str | Policy | OperatingPoint = "deadline",
    confidence: float | None = None,
    profile: str | os.PathLike[str] | Profile = "auto",
    checks: bool = True,
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

    Raises:
        BundleError: the file can't be used.
        ValueError: an option out of range, or a profile of another bundle.
    """
    bundle = Bundle.open(path)
    chosen = _chosen_policy(policy, confidence, bundle)
    runner = make_engine(engine, bundle, threads)
    try:
        session = Session(bundle, runner, chosen, _chosen_profile(profile, bundle, runner), checks)
    except BaseException:
        runner.close()
        raise
    return_freed_memory()
    return session


class _Group(NamedTuple):
    """Samples of a batch that go on together. `x`: what `step` takes, (samples, …); `menu`: where they stand."""

    samples: list[int]
    x: Samples
    menu: Menu
    step: Step


class Session:
    """Answers requests; `load` makes one. For use from any number of threads, not across a fork.

    `bundle`: what it runs; `profile`: the times it plans with, whose `source` says where they are from; `points`: the
    operating points it can answer at. Closing it closes the engine.
    """

    def __init__(self, bundle: Bundle, engine: Engine, policy: Policy, profile: Profile, checks: bool = True):
        profile.check(bundle)
        self.bundle, self.profile = bundle, profile
        self.points = tuple(
            OperatingPoint(record.width, record.depth, record.precision) for record in bundle.manifest.points
        )
        self._engine, self._policy, self._checks = engine, policy, checks
        self._pid, self._closed = os.getpid(), False
        self._menus = lru_cache(maxsize=64)(partial(_menu_for, bundle.manifest, profile))
        self._menu = self._menus(1)
        self._rehearse()

    def infer(
        self, x: Samples, budget_ms: float | None = None, *, deadline: float | None = None, budget: Budget | None = None
    ) -> Answer | list[Answer]:
        """The best answer that the policy expects in time. Missing the deadline is no error: the answer says so.

        Args:
            x: float32 as in the bundle's input specification; one sample, or a batch of any size for a list of
                answers, whose samples stop at exits of their own.
            budget_ms: milliseconds from this call, > 0.
            deadline: instead of it, a moment of `time.monotonic()`.
            budget: instead of both, a whole budget.

        Raises:
            InputError: `x` isn't what the bundle takes.
            ValueError, TypeError: the budget is out of range or no number, or there are several.
            RuntimeError: the session is closed or of another process, or its policy chose what isn't possible.
        """
        request, is_batch = self._accept(x, budget_ms, deadline, budget)
        return self._infer_batch(x, request) if is_batch else self._infer_one(x[None], request)

    def refine(
        self, x: Samples, budget_ms: float | None = None, *, deadline: float | None = None, budget: Budget | None = None
    ) -> Iterator[Answer]:
        """The best answer so far, at every exit along the width that the policy chose, until the policy stops.

        Each exit is computed when the next answer is asked for, and nothing twice, so who stops iterating stops the
        work. The last answer says why in `stopped_by`, unless the time ran out between two answers.

        Takes one sample; arguments and errors as for `infer`.
        """
        request, is_batch = self._accept(x, budget_ms, deadline, budget)
        if is_batch:
            raise InputError(
                f"refine takes one sample, {self.bundle.manifest.input.shape}, and got {x.shape}; use infer"
            )
        return self._refine(x[None], request)

    def prepare(self, pixels: NDArray[np.uint8]) -> Samples:
        """Pixels, one sample or a batch, as the numbers that `infer` takes."""
        return self.bundle.manifest.input.prepare(pixels)

    def close(self) -> None:
        """Frees the engine; the session can't be used any more."""
        if not self._closed and os.getpid() == self._pid:  # a fork has no engine threads to end
            self._engine.close()
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _accept(
        self, x: Any, budget_ms: float | None, deadline: float | None, budget: Budget | None
    ) -> tuple[_Request, bool]:
        arrival = monotonic()
        self._require_usable()
        allowed = budget_of(arrival, budget_ms, deadline, budget)
        is_batch = check_input(x, self.bundle.manifest.input, self._checks)
        menu = self._menus(len(x)) if is_batch else self._menu
        return _Request(arrival, arrival + allowed.latency_ms / 1e3, allowed, menu), is_batch

    def _require_usable(self) -> None:
        if self._closed:
            raise RuntimeError(f"the session of {self.bundle.path.name} is closed; load it again")
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"the session of {self.bundle.path.name} was loaded in process {self._pid}, not in its fork "
                f"{os.getpid()}; load it again there"
            )

    def _ask(self, menu: Menu, request: _Request, reached: Reached) -> Step | Stop:
        return menu.ask(self._policy, (request.deadline - monotonic()) * 1e3, request.budget, reached)

    def _begin(self, request: _Request) -> Step:
        return cast(Step, self._ask(request.menu, request, _NOTHING))  # `Menu.ask` refuses a Stop before the first exit

    def _infer_one(self, x: Samples, request: _Request) -> Answer:
        menu, reached = request.menu, _NOTHING
        choice: Step | Stop = self._begin(request)
        while isinstance(choice, Step):
            exit, seen, x = menu.take(self._engine, choice, x)
            menu, reached = exit.menu, (*reached, *seen)
            choice = self._ask(menu, request, reached)
        return self._answer(request, reached, choice, monotonic())

    def _refine(self, x: Samples, request: _Request) -> Iterator[Answer]:
        menu, reached = request.menu, _NOTHING
        choice: Step | Stop = self._begin(request)
        while isinstance(choice, Step):
            exit, seen, x = menu.take(self._engine, menu.leg(choice), x)
            menu, reached = exit.menu, (*reached, *seen)
            choice = self._ask(menu, request, reached)
            yield self._answer(request, reached, choice if isinstance(choice, Stop) else None, monotonic())
            self._require_usable()
            if isinstance(choice, Step):  # the caller took time with the answer: look again
                choice = self._ask(menu, request, reached)

    def _infer_batch(self, x: Samples, request: _Request) -> list[Answer]:
        reached = [_NOTHING] * len(x)
        stops: dict[int, Stop] = {}
        groups = [_Group(list(range(len(x))), x, request.menu, self._begin(request))]
        while groups:
            groups += self._advance(groups.pop(), request, reached, stops)
        now = monotonic()
        return [self._answer(request, seen, stops[sample], now) for sample, seen in enumerate(reached)]

    def _advance(
        self, group: _Group, request: _Request, reached: list[Reached], stops: dict[int, Stop]
    ) -> Iterator[_Group]:
        """Runs the group's step, notes what its samples saw and why some stop, and gives the groups that go on."""
        exit, evidence, x = group.menu.take(self._engine, group.step, group.x)
        slack_ms = (request.deadline - monotonic()) * 1e3  # the same for all, so that equal samples stay together
        rows_by_step: dict[Step, list[int]] = {}
        for row, (sample, seen) in enumerate(zip(group.samples, evidence, strict=True)):
            reached[sample] += (seen,)
            choice = exit.menu.ask(self._policy, slack_ms, request.budget, reached[sample])
            if isinstance(choice, Stop):
                stops[sample] = choice
            else:
                rows_by_step.setdefault(choice, []).append(row)
        for step, rows in rows_by_step.items():
            menu = _exit_at(self._menus(len(rows)), exit.point).menu
            kept = x if len(rows) == len(x) else x[rows]
            yield _Group([group.samples[row] for row in rows], kept, menu, step)

    def _answer(self, request: _Request, reached: Reached, stopped_by: Stop | None, now: float) -> Answer:
        best = reached[0] if len(reached) == 1 else max(reversed(reached), key=_accuracy)
        return Answer(
            scores=best.scores,
            label=self.bundle.manifest.classes[best.top],
            index=best.top,
            confidence=best.confidence,
            point=best.point,
            latency_ms=(now - request.arrival) * 1e3,
            deadline_met=now <= request.deadline,
            stopped_by=stopped_by,
            expected_ms=_exit_at(request.menu, best.point).expected_ms,
            expected_accuracy=best.accuracy,
            exits=tuple([seen.point.depth for seen in reached]),
        )

    def _rehearse(self) -> None:
        """One request's first step: a policy that doesn't fit the bundle fails here, and a span is loaded."""
        first = self._begin(_Request(monotonic(), math.inf, UNLIMITED, self._menu))
        self._engine.run(first, np.zeros((1, *self.bundle.manifest.input.shape), np.float32))


def _menu_for(manifest: Manifest, profile: Profile, samples: int) -> Menu:
    return make_menu(manifest, profile.levels, partial(profile.finish_ms, batch=samples))


def _exit_at(start: Menu, point: OperatingPoint) -> Exit:
    return start.after[Step(0, point.depth, point.width, point.precision)]


def _accuracy(seen: Evidence) -> float:
    return seen.accuracy


def _chosen_policy(policy: str | Policy | OperatingPoint, confidence: float | None, bundle: Bundle) -> Policy:
    if isinstance(policy, OperatingPoint):
        bundle.point(policy.width, policy.depth, policy.precision)
        return Fixed(policy, confidence)
    if isinstance(policy, str):
        return make_policy(policy, confidence=confidence)
    if not hasattr(policy, "next"):
        raise TypeError(
            f"policy is {policy!r}; give a policy's name, an OperatingPoint, or an object with next(situation)"
        )
    if confidence is not None:
        raise ValueError(f"confidence {confidence} given beside a policy of your own; give it to {policy!r} itself")
    return policy


def _chosen_profile(profile: str | os.PathLike[str] | Profile, bundle: Bundle, engine: Engine) -> Profile:
    """The profile to plan with; all legs are loaded, and were run once, afterwards."""
    if isinstance(profile, Profile):
        found: Profile | None = profile
    else:
        found = cached_profile(bundle, engine.name, engine.threads) if profile == "auto" else Profile.load(profile)
    if found is None:
        log.warning(
            "%s was never profiled here: planning with a few warm-up runs; measure it by: stretto profile %s",
            bundle.path.name,
            bundle.path,
        )
        return warm_up_profile(engine, bundle)
    Stopwatch(engine, bundle).load([1])
    return found
