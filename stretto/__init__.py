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
    from .runtime.manifest import InputSpec
    from .runtime.profile import Profile
    from .runtime.session import Session, load
    from .training.export import export
    from .training.fit import fit
    from .training.losses import supernet_loss
    from .training.requantize import with_precisions
    from .training.supernet import make_supernet

# name → module, as text: a name is imported when it is first used, so that `import stretto` costs nothing, and torch is
# imported by the training names alone
_PLACES = {
    "Answer": ".runtime.answer",
    "Budget": ".policies.situation",
    "BundleError": ".runtime.errors",
    "InputError": ".runtime.errors",
    "InputSpec": ".runtime.manifest",
    "OperatingPoint": ".policies.situation",
    "Profile": ".runtime.profile",
    "Session": ".runtime.session",
    "Step": ".policies.situation",
    "Stop": ".policies.situation",
    "StrettoError": ".runtime.errors",
    "export": ".training.export",
    "fit": ".training.fit",
    "load": ".runtime.session",
    "make_supernet": ".training.supernet",
    "supernet_loss": ".training.losses",
    "with_precisions": ".training.requantize",
}

__all__ = [
    "Answer", "Budget", "BundleError", "InputError", "InputSpec", "OperatingPoint", "Profile", "Session", "Step",
    "Stop", "StrettoError", "export", "fit", "load", "make_supernet", "supernet_loss",
    "with_precisions",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_PLACES[name], __name__), name)
    globals()[name] = value  # the next use doesn't come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
