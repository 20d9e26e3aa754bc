"""What `load` was given, as the objects that a session is made of."""

import logging
import os
from typing import Final, Literal

from ..policies import TIME_MODELS, make_policy, make_time_model
from ..policies.exits import Rule
from ..policies.fixed import Fixed
from ..policies.latency import TimeModel
from ..policies.profile_model import ProfileModel
from ..policies.situation import OperatingPoint, Policy
from .bundle import Bundle
from .certified import certified_rule
from .engines import Engine
from .measure import Stopwatch, warm_up_profile
from .profile import Profile, cached_profile

TIME_MODEL = "slices"  # unless told
CALIBRATED: Final = "calibrated"
Confidence = float | tuple[float, ...] | Rule | Literal["calibrated"] | None

log = logging.getLogger(__name__)


def chosen_policy(policy: str | Policy | OperatingPoint, confidence: Confidence, bundle: Bundle) -> Policy:
    """A policy by its name, a fixed one for a point, or the policy itself.

    Raises:
        ValueError: no such policy or point, a confidence beside a policy that is complete, or the calibrated one of a
            bundle that has none.
        TypeError: it's none of the three.
    """
    confidence = chosen_rule(confidence, bundle)
    if isinstance(policy, OperatingPoint):
        bundle.point(policy.width, policy.depth, policy.precision)
        return Fixed(policy, confidence)
    if policy == "route":
        return _routing(confidence, bundle)
    if policy == "escalate":
        return make_policy(policy, first=narrowest_way(bundle), confidence=confidence)
    if isinstance(policy, str):
        return make_policy(policy, confidence=confidence)
    if not hasattr(policy, "next"):
        raise TypeError(
            f"policy is {policy!r}; give a policy's name, an OperatingPoint, or an object with next(situation)"
        )
    if confidence is not None:
        raise ValueError(f"confidence {confidence} given beside a policy of your own; give it to {policy!r} itself")
    return policy


def _routing(enough: float | tuple[float, ...] | Rule | None, bundle: Bundle) -> Policy:
    if not bundle.routed:
        raise ValueError(
            f"policy 'route' needs a router, which {bundle.path.name} has none of; give it one: "
            f"stretto router {bundle.path} --data …"
        )
    if enough is None:
        return make_policy("route")
    if not isinstance(enough, int | float):
        raise ValueError(f"confidence is {enough!r}; with policy 'route' give how likely right is enough, in (0, 1]")
    return make_policy("route", enough=enough)


def narrowest_way(bundle: Bundle) -> OperatingPoint:
    """To the final exit of the least width, in int8 where the bundle has that."""
    has = bundle.manifest
    return OperatingPoint(has.widths[0], has.depths, "int8" if "int8" in has.precisions else has.precisions[0])


def chosen_rule(confidence: Confidence, bundle: Bundle) -> float | tuple[float, ...] | Rule | None:
    """The bundle's certified rule where that is asked for; everything else as it was given.

    Raises:
        ValueError: the bundle has none, or another word was given.
    """
    if not isinstance(confidence, str):
        return confidence
    if confidence != CALIBRATED:
        raise ValueError(f"confidence is {confidence!r}; give a number in (0, 1], a rule, or {CALIBRATED!r}")
    if bundle.manifest.certified is None:
        raise ValueError(
            f"confidence is {CALIBRATED!r}, but {bundle.path.name} has no certified thresholds; make one that has: "
            f"stretto calibrate {bundle.path} --data …"
        )
    return certified_rule(bundle.manifest.certified)


def chosen_profile(profile: str | os.PathLike[str] | Profile, bundle: Bundle, engine: Engine) -> Profile:
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
    Stopwatch(engine, bundle, legs_only=True).load([1])
    return found


def usual_model(policy: Policy) -> str:
    """The time model that a policy gets unless told: none that learns for a fixed point, where nothing is decided."""
    return "profile" if isinstance(policy, Fixed) else TIME_MODEL


def chosen_model(time_model: str | TimeModel, profile: Profile) -> TimeModel:
    """A time model by its name, or the model itself.

    Raises:
        ValueError: no such model.
        TypeError: it's neither.
    """
    if time_model == "profile":
        return ProfileModel(profile.levels)
    if isinstance(time_model, str):
        if time_model not in TIME_MODELS:
            names = ", ".join(["profile", *TIME_MODELS])
            raise ValueError(f"there is no time model {time_model!r}; name one of {names}, or give one")
        return make_time_model(time_model, median=profile.levels.index(0.5))
    if not hasattr(time_model, "finish_ms"):
        raise TypeError(f"time_model is {time_model!r}; give a model's name, or an object with finish_ms and observe")
    return time_model
