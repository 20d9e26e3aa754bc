"""stretto: one trained network, answered at any width and any depth, in time.

import stretto
session = stretto.load("model.stretto")
answer = session.infer(image, budget_ms=8)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .policies.situation import Budget, OperatingPoint, Step, Stop
    from .runtime.answer import Answer
    from .runtime.errors import BundleError, InputError, StrettoError
    from .runtime.profile import Profile
    from .runtime.session import Session, load

# name → module, as text: a name is imported when it is first used, so that `import stretto` costs nothing
_PLACES = {
    "Answer": ".runtime.answer",
    "Budget": ".policies.situation",
    "BundleError": ".runtime.errors",
    "InputError": ".runtime.errors",
    "OperatingPoint": ".policies.situation",
    "Profile": ".runtime.profile",
    "Session": ".runtime.session",
    "Step": ".policies.situation",
    "Stop": ".policies.situation",
    "StrettoError": ".runtime.errors",
    "load": ".runtime.session",
}

__all__ = [
    "Answer", "Budget", "BundleError", "InputError", "OperatingPoint", "Profile", "Session", "Step", "Stop",
    "StrettoError", "load",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_PLACES[name], __name__), name)
    globals()[name] = value  # the next use doesn't come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
