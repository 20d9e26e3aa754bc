"""What early exits and escalation take in the sessions that users run: along each route, on real inputs, in batches."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...policies import make_exit_rule
from ...policies.alert import Alert
from ...policies.escalate import Escalate
from ...policies.exits import Rule
from ...policies.fixed import Fixed
from ...policies.route import Route
from ...policies.situation import Evidence, OperatingPoint, Policy
from ...runtime.answer import Answer
from ...runtime.bundle import Bundle
from ...runtime.engines import Engine, make_engine
from ...runtime.measure import measure_profile
from ...runtime.profile import Profile
from ...runtime.session import Session
from ..report import FloatArray, interleaved
from .curves import ESCALATION, Curve, Pick, Times
from .curves import Route as Exits
from .router import ROUTER, Through

BATCH = 32
PROFILE_ROUNDS = 3
ROUTE_ROUNDS, ROUTE_CALLS = 30, 4
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class StopAt:
    """Looks at every exit, and is sure from a depth on."""

    depth: int

    def is_sure(self, evidence: tuple[Evidence, ...]) -> bool:
        """As in `Rule`."""
        return bool(evidence) and evidence[-1].point.depth >= self.depth


class Taken(NamedTuple):
    """Of the same inputs, milliseconds each by the pick and by the full network; and what the pick answered."""

    pick_ms: FloatArray
    full_ms: FloatArray
    answers: list[Answer]


class Bench:
    """Sessions on one engine, for a bundle of one precision; to be used in a `with`."""

    def __init__(self, bundle: Bundle, tell: Tell):
        self._bundle, self._tell, self._stack = bundle, tell, ExitStack()
        has = bundle.manifest
        self._full = OperatingPoint(has.widths[-1], has.depths, has.precisions[0])

    def __enter__(self) -> "Bench":
        self._engine: Engine = self._stack.enter_context(closing(make_engine("onnx", self._bundle)))
        progress = partial(self._tell, "profile")
        self._profile: Profile = measure_profile(
            self._engine, self._bundle, (1, BATCH), rounds=PROFILE_ROUNDS, progress=progress
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def times(self, curves: Iterable[Curve], points: Iterable[OperatingPoint], x: NDArray[np.float32]) -> Times:
        """Of one sample, `x`: along the routes of the curves, and to the points."""
        routes = {route: curve for curve in curves for route in curve.routes}
        adaptive = {("adaptive", route): self._along(route, curve) for route, curve in routes.items()}
        policies: dict[tuple[str, Exits], Policy] = {("fixed", (point,)): Fixed(point) for point in points}
        tasks = {name: partial(self._open(policy).infer, x) for name, policy in (policies | adaptive).items()}
        times = interleaved(tasks, ROUTE_ROUNDS, ROUTE_CALLS, tell=partial(self._tell, "times"))
        median = {name: float(np.median(each)) for name, each in times.items()}
        return Times(
            {route: ms for (kind, route), ms in median.items() if kind == "adaptive"},
            {route[0]: ms for (kind, route), ms in median.items() if kind == "fixed"},
        )

    def beside_full(self, pick: Pick, chunks: Sequence[NDArray[np.float32]]) -> Taken:
        """Every chunk, a sample or a batch, by both in turns; each is asked once beforehand, untimed."""
        sessions = self._open(policy_of(pick)), self._open(Fixed(self._full))
        for session in sessions:
            session.infer(chunks[0])
        times, answers = np.zeros((len(chunks), 2)), list[Answer]()
        for at, x in enumerate(chunks):
            for which in ((0, 1), (1, 0))[at % 2]:
                begun = time.perf_counter()
                found = sessions[which].infer(x)
                times[at, which] = (time.perf_counter() - begun) * 1e3
                if which == 0:
                    answers += found if isinstance(found, list) else [found]
            self._tell("inputs", at + 1, len(chunks))
        return Taken(times[:, 0], times[:, 1], answers)

    def _open(self, policy: Policy) -> Session:
        return self._stack.enter_context(Session(self._bundle, self._engine, policy, self._profile))

    def _along(self, route: Exits, curve: Curve) -> Policy:
        """Ends where the route does, whatever the input; looks where a rule of the curve would."""
        if curve.family == ROUTER:
            return Through(route[-1])
        if curve.family.startswith(ESCALATION):
            return Escalate(curve.routes[0][0], StopAt(0 if len(route) == 1 else route[0].depth + 1))
        return Fixed(route[0]._replace(depth=self._full.depth), StopAt(route[0].depth))


def in_batches(inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Of `BATCH` each; what is left over is left out."""
    return [inputs[start : start + BATCH] for start in range(0, len(inputs) - BATCH + 1, BATCH)]


def policy_of(pick: Pick) -> Policy:
    """What goes as a pick did."""
    curve = pick.curve
    if curve.family == ROUTER:
        return Route(pick.threshold)
    rule: Rule = make_exit_rule(curve.family.removeprefix(ESCALATION), threshold=pick.threshold)
    if curve.family.startswith(ESCALATION):
        return Escalate(curve.routes[0][0], rule, Alert())
    return Fixed(curve.routes[-1][-1], rule)
