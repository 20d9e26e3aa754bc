"""Who answers in `bench.contention`: each a session of its own, asked in its own way."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

from ..policies import make_policy
from ..policies.situation import OperatingPoint, Policy, Situation, Step, Stop
from ..runtime.bundle import Bundle
from ..runtime.engines import make_engine
from ..runtime.measure import measure_profile
from ..runtime.profile import Profile
from ..runtime.session import Session, load
from .contention_rounds import Ask
from .contention_switched import SwitchedEngine, merge

OURS, ALERT, SWITCHED = "this runtime", "alert, scalar filter", "switched networks"
SMALLEST, AGAIN, FULL = "smallest network", "smallest network again", "full network"
SUBMITTED, PRIORITISED, ONWARD = "submitted", "submitted, high priority", "submitted, always on"
ANSWER_S = 60.0  # a ticket that isn't answered by then hangs
PROFILE_ROUNDS = 20
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Runtime:
    """How this runtime is set: names of its policy and its time model."""

    policy: str
    time_model: str


@dataclass(frozen=True, slots=True)
class Onward:
    """Never content before the final exit of its width and precision: so every deadline finds a graph running."""

    width: float
    precision: str

    def next(self, situation: Situation) -> Step | Stop:
        """The nearest exit ahead."""
        mine = [step for step in situation.steps if (step.width, step.precision) == (self.width, self.precision)]
        return min(mine, key=lambda step: step.depth) if mine else Stop.FINAL


def measured_profile(bundle: Bundle, rounds: int, progress: Progress) -> Profile:
    """The bundle's profile on this device as it is now, which should be idle."""
    engine = make_engine("onnx", bundle)
    try:
        return measure_profile(engine, bundle, rounds=rounds, progress=progress)
    finally:
        engine.close()


def idle_ms(profile: Profile, point: OperatingPoint, level: float = 0.99) -> float:
    """The whole way to a point."""
    return profile.finish_ms(point.whole_way)[profile.levels.index(level)]


def points_of(bundle: Bundle) -> list[OperatingPoint]:
    """All of the bundle's."""
    return [OperatingPoint(record.width, record.depth, record.precision) for record in bundle.manifest.points]


def smallest_point(bundle: Bundle, profile: Profile) -> OperatingPoint:
    """The fastest point of all, so the hardest to be as punctual as."""
    return min(points_of(bundle), key=lambda point: idle_ms(profile, point, 0.5))


def full_point(bundle: Bundle) -> OperatingPoint:
    """The final exit of the full width, in int8 where the bundle has that."""
    has = bundle.manifest
    return OperatingPoint(has.widths[-1], has.depths, "int8" if "int8" in has.precisions else has.precisions[0])


def enter(
    stack: ExitStack,
    bundle: Bundle,
    profile: Profile,
    runtime: Runtime,
    controls: Sequence[Bundle],
    profile_rounds: int,
    tell: Progress,
) -> dict[str, Ask]:
    """All contestants by name, whose sessions are closed with `stack`."""

    def opened(policy: str | Policy | OperatingPoint) -> Session:
        return stack.enter_context(load(bundle.path, profile=profile, policy=policy))

    small, full = smallest_point(bundle, profile), full_point(bundle)
    asks = {
        OURS: _inferring(opened(runtime.policy)),
        SMALLEST: _inferring(opened(small)),
        AGAIN: _inferring(opened(small)),
        FULL: _inferring(opened(full)),
    }
    if controls:
        asks[SWITCHED] = _inferring(stack.enter_context(_switching(controls, runtime, profile_rounds, tell)))
    return asks


def _switching(controls: Sequence[Bundle], runtime: Runtime, profile_rounds: int, tell: Progress) -> Session:
    bundle, by_width = merge(controls)
    engine = SwitchedEngine(by_width)
    profile = measure_profile(engine, bundle, rounds=profile_rounds, progress=tell)
    return Session(bundle, engine, make_policy(runtime.policy), profile)


def _inferring(session: Session) -> Ask:
    return cast(Ask, session.infer)
