"""Who answers in `bench.contention`: each a session of its own, asked in its own way."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, cast

from ...policies.situation import OperatingPoint, Policy, Situation, Step, Stop
from ...runtime.bundle import Bundle
from ...runtime.engines import Engine, make_engine, runnable
from ...runtime.measure import measure_profile
from ...runtime.options import chosen_model, chosen_policy, chosen_profile
from ...runtime.priority import raise_priority
from ...runtime.profile import Profile
from ...runtime.runner import Sensing
from ...runtime.sensors import Sensors
from ...runtime.session import Session
from ...runtime.ticket import OnLate
from .rounds import Ask
from .switched import SwitchedEngine, merge

OURS, PROFILE = "this runtime", "this runtime, profile"
BOTH = {OURS: "", PROFILE: ", profile"}  # how this runtime takes part, and what a figure of each is called after
ALERT, SWITCHED = "alert, scalar filter", "switched networks"
SMALLEST, AGAIN, FULL = "smallest network", "smallest network again", "full network"
FULL_FP32, BY_EXIT = "full network, fp32", "this runtime, exit by exit"
SUBMITTED, PRIORITISED, ONWARD = "submitted", "submitted, high priority", "submitted, always on"
ANSWER_S = 60.0  # a ticket that isn't answered by then hangs
PROFILE_ROUNDS = 20
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Runtime:
    """How this runtime is set: names of its policy and its time model."""

    policy: str
    time_model: str

    @property
    def with_profile(self) -> "Runtime":
        """What plans by the profile whatever happens; it takes part beside whatever is set, to show what that gains."""
        return Runtime("deadline", "profile")


@dataclass(frozen=True, slots=True)
class Onward:
    """Exit by exit to the most accurate point, whatever the time: so deadlines find a graph running."""

    def next(self, situation: Situation) -> Step | Stop:
        """The nearest exit on the way there."""
        if not situation.steps:
            return Stop.FINAL
        target = situation.steps[int(situation.accuracy.argmax())]
        return min(filter(partial(_same_way, target), situation.steps), key=attrgetter("depth"))


def _same_way(one: Step, other: Step) -> bool:
    return one._replace(depth=other.depth) == other


def points_of(bundle: Bundle) -> list[OperatingPoint]:
    """All of the bundle's."""
    return [record.point for record in bundle.manifest.points]


def smallest_point(bundle: Bundle, profile: Profile) -> OperatingPoint:
    """The fastest point of all, so the hardest to be as punctual as."""
    return min(points_of(bundle), key=lambda point: profile.whole_way_ms(point, 0.5))


def full_point(bundle: Bundle) -> OperatingPoint:
    """The final exit of the full width, in int8 where the bundle has that."""
    has = bundle.manifest
    return OperatingPoint(has.widths[-1], has.depths, "int8" if "int8" in has.precisions else has.precisions[0])


def enter(stack: ExitStack, bundle: Bundle, profile: Profile, runtime: Runtime, sensors: Sensors) -> dict[str, Ask]:
    """The bundle's contestants by name, whose sessions are closed with `stack`."""
    fixed = Runtime("fixed", "profile")

    def opened(runtime: Runtime, policy: Policy | OperatingPoint | None = None, **options: Any) -> Session:
        engine = make_engine("onnx", bundle)
        return stack.enter_context(open_session(bundle, engine, profile, runtime, sensors, policy, **options))

    small, full = smallest_point(bundle, profile), full_point(bundle)
    in_fp32 = full._replace(precision="fp32")
    more = {FULL_FP32: _inferring(opened(fixed, in_fp32))} if in_fp32 != full else {}
    return more | {
        OURS: _inferring(opened(runtime)),
        BY_EXIT: _inferring(opened(runtime, exit_by_exit=True)),
        PROFILE: _inferring(opened(runtime.with_profile)),
        SMALLEST: _inferring(opened(fixed, small)),
        AGAIN: _inferring(opened(fixed, small)),
        FULL: _inferring(opened(fixed, full)),
        ALERT: _inferring(opened(Runtime("alert", "scalar"))),
        SUBMITTED: _submitting(opened(runtime)),
        PRIORITISED: _submitting(opened(runtime, priority="high")),
        ONWARD: _submitting(opened(runtime, Onward()), OnLate.DROP),
    }


def enter_switched(
    stack: ExitStack, controls: Mapping[float, Bundle], runtime: Runtime, sensors: Sensors, rounds: int, tell: Progress
) -> dict[str, Ask]:
    """The controls as one contestant, if there are any, closed with `stack`; `rounds`: of their profile."""
    if not controls:
        return {}
    engine = SwitchedEngine(controls)
    merged = runnable(engine, merge(controls))
    profile = measure_profile(engine, merged, rounds=rounds, progress=tell)
    session = open_session(merged, engine, profile, runtime, sensors)
    return {SWITCHED: _inferring(stack.enter_context(session))}


def open_session(
    bundle: Bundle,
    engine: Engine,
    profile: Profile,
    runtime: Runtime,
    sensors: Sensing,
    policy: Policy | OperatingPoint | None = None,
    **options: Any,
) -> Session:
    """What `load` does, for bundles that are in no file too.

    `policy`: instead of the runtime's; `options`: as the session takes them; `sensors`: everybody's, for a time model
    that looks at the load, as `load` would have ones of its own.
    """
    chosen = chosen_policy(runtime.policy if policy is None else policy, None, bundle)
    times = chosen_profile(profile, bundle, engine)
    model = chosen_model(runtime.time_model, times)
    watched = sensors if model.looks_at_load else False
    return Session(bundle, engine, chosen, times, model=model, sensors=watched, **options)


def granted_priority() -> str:
    """What the system grants to a thread that asks for high priority, in a sentence."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(raise_priority, "high").result().says


def _inferring(session: Session) -> Ask:
    return cast(Ask, session.infer)


def _submitting(session: Session, on_late: OnLate = OnLate.WAIT) -> Ask:
    return lambda x, budget_ms: session.submit(x, budget_ms, on_late=on_late).result(ANSWER_S)
