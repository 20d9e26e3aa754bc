"""Decisions: which step next, or stop. Pure functions of plain data, numpy only, told the time instead of asking.

A new policy is one file here and one line in `POLICIES`.
"""

from dataclasses import MISSING, fields
from importlib import import_module
from typing import Any

from .situation import Policy

# name → where it is, as text, so that listing the names imports nothing
POLICIES = {
    "alert": ".alert:Alert",
    "conformal": ".conformal:Conformal",
    "deadline": ".deadline:Deadline",
    "fixed": ".fixed:Fixed",
    "oracle": ".oracle:Oracle",
}


def make_policy(name: str, **parameters: Any) -> Policy:
    """The policy called `name` with these parameters; what is left out keeps its default.

    Raises:
        ValueError: no policy has that name, it has no such parameter or needs another, or a value is out of range.
    """
    if name not in POLICIES:
        raise ValueError(f"there is no policy {name!r}; name one of {', '.join(sorted(POLICIES))}")
    module, class_name = POLICIES[name].split(":")
    policy_class = getattr(import_module(module, __package__), class_name)
    parameters_of = [field for field in fields(policy_class) if field.init]
    allowed = [field.name for field in parameters_of]
    if unknown := sorted(set(parameters) - set(allowed)):
        raise ValueError(f"policy {name!r} has no parameter {unknown[0]!r}; it has {', '.join(allowed)}")
    if missing := [field.name for field in parameters_of if field.default is MISSING and field.name not in parameters]:
        raise ValueError(f"policy {name!r} needs {missing[0]!r}")
    policy: Policy = policy_class(**parameters)
    return policy
