"""Decisions: which step next, or stop. Pure functions of plain data, numpy only, told the time instead of asking.

A new policy is one file here and one line in `POLICIES`; a new time model is one in `TIME_MODELS`, a new exit rule one
in `EXIT_RULES`.
"""

from collections.abc import Mapping
from importlib import import_module
from inspect import signature
from typing import Any

from .exits import Rule
from .latency import TimeModel
from .situation import Policy

# name → where it is, as text, so that listing the names imports nothing
POLICIES = {
    "alert": ".alert:Alert",
    "conformal": ".conformal:Conformal",
    "deadline": ".deadline:Deadline",
    "escalate": ".escalate:Escalate",
    "fixed": ".fixed:Fixed",
    "oracle": ".oracle:Oracle",
    "route": ".route:Route",
}
EXIT_RULES = {
    "entropy": ".exits:EntropyRule",
    "margin": ".exits:MarginRule",
    "patience": ".exits:PatienceRule",
    "probability": ".exits:ExitRule",
}
TIME_MODELS = {
    "scalar": ".scalar:ScalarFilter",
    "slices": ".slices:SliceModel",
}


def make_policy(name: str, **parameters: Any) -> Policy:
    """The policy called `name` with these parameters; what is left out keeps its default.

    Raises:
        ValueError: no policy has that name, it has no such parameter or needs another, or a value is out of range.
    """
    policy: Policy = _make("policy", POLICIES, name, parameters)
    return policy


def make_time_model(name: str, **parameters: Any) -> TimeModel:
    """A new time model of that name, which has seen nothing yet; what is left out keeps its default.

    Raises:
        ValueError: no time model has that name, it has no such parameter or needs another, or a value is out of range.
    """
    model: TimeModel = _make("time model", TIME_MODELS, name, parameters)
    return model


def make_exit_rule(name: str, **parameters: Any) -> Rule:
    """The exit rule called `name` with these parameters.

    Raises:
        ValueError: no exit rule has that name, it has no such parameter or needs another, or a value is out of range.
    """
    rule: Rule = _make("exit rule", EXIT_RULES, name, parameters)
    return rule


def looks_at_energy(policy: Any) -> bool:
    """Whether a policy, or the class of one, says that it does; else it is told of none, and no budget may limit it."""
    return getattr(policy, "looks_at_energy", False)


def looks_at_load(policy: Any) -> bool:
    """Whether what a policy decides may depend on the load itself; True unless it says that it doesn't."""
    return getattr(policy, "looks_at_load", True)


def looks_at_answers(policy: Any) -> bool:
    """Whether what a policy decides may depend on what exits said of the input; True unless it says that it doesn't."""
    return getattr(policy, "looks_at_answers", True)


def names_looking_at_energy() -> list[str]:
    """Of the policies that do."""
    return [name for name, place in POLICIES.items() if looks_at_energy(_class_at(place))]


def _make(kind: str, table: Mapping[str, str], name: str, parameters: Mapping[str, Any]) -> Any:
    if name not in table:
        raise ValueError(f"there is no {kind} {name!r}; name one of {', '.join(sorted(table))}")
    made_of = _class_at(table[name])
    allowed = signature(made_of).parameters
    if unknown := sorted(set(parameters) - set(allowed)):
        raise ValueError(f"{kind} {name!r} has no parameter {unknown[0]!r}; it has {', '.join(allowed)}")
    if missing := [key for key, known in allowed.items() if known.default is known.empty and key not in parameters]:
        raise ValueError(f"{kind} {name!r} needs {missing[0]!r}")
    return made_of(**parameters)


def _class_at(place: str) -> Any:
    module, class_name = place.split(":")
    return getattr(import_module(module, __package__), class_name)
