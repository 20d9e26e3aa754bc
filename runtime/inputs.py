"""Is this what the bundle takes? Checked where it enters, so that nothing later has to wonder."""

from math import isfinite
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..policies import looks_at_energy, names_looking_at_energy
from ..policies.situation import Budget, Policy
from .errors import BudgetError, InputError
from .manifest import InputSpec

Samples = NDArray[np.float32]
UNLIMITED = Budget()
_ONE_THREAD = 10_000  # numbers up to which OpenBLAS, which comes with NumPy, multiplies by the caller's thread alone
_FLOAT32 = np.dtype(np.float32)  # made once: comparing with the type makes it anew


def check_input(x: Any, spec: InputSpec, every_number: bool = True) -> bool:
    """Whether `x` is a batch, (samples, *spec.shape), rather than one sample, spec.shape.

    `every_number`: also look for NaN and infinity, which costs a pass over the input.

    Raises:
        InputError: not a float32 array of that shape, no samples, or a number that isn't finite.
    """
    if not isinstance(x, np.ndarray):
        raise InputError(f"input is a {type(x).__name__}; give a NumPy array of float32, {_shapes(spec)}")
    if x.dtype != _FLOAT32:
        raise InputError(f"input is {x.dtype}; {_advice(x)}")
    is_batch = x.ndim == len(spec.shape) + 1
    if x.shape[is_batch:] != spec.shape:
        raise InputError(f"input has shape {x.shape}; give {_shapes(spec)}")
    if is_batch and not len(x):
        raise InputError(f"input has no samples, shape {x.shape}; give {_shapes(spec)}, samples >= 1")
    if every_number and not _all_finite(x):
        bad = np.argwhere(~np.isfinite(x))
        at = tuple(bad[0].tolist())
        raise InputError(f"input has {x[at]} at {at} ({len(bad)} of {x.size} numbers aren't finite); all must be")
    return is_batch


def is_usual(x: Any, spec: InputSpec, every_number: bool = True) -> bool:
    """Whether `x` is one sample as `check_input` wants it, and nothing out of the ordinary; that says what is wrong."""
    is_sample = type(x) is np.ndarray and x.shape == spec.shape and x.dtype == _FLOAT32
    return is_sample and (not every_number or _all_finite(x))


def _all_finite(x: Samples) -> bool:
    """Small arrays by one product, 33 µs after a pause instead of 61; large ones not, as it would take threads."""
    if x.size <= _ONE_THREAD and isfinite(np.vdot(x, x)):  # else the squares may just be too large
        return True
    return bool(np.isfinite(x).all())


def _shapes(spec: InputSpec) -> str:
    return f"{spec.shape} for one sample or (samples, {str(spec.shape)[1:]} for a batch"


def _advice(x: NDArray[Any]) -> str:
    if x.dtype == np.uint8:
        return "for pixels of 0 to 255 use session.prepare(pixels), for ready numbers x.astype(numpy.float32)"
    return "give float32: x.astype(numpy.float32)"


def budget_of(
    now: float, budget_ms: float | None, deadline: float | None, budget: Budget | None, policy: Policy
) -> Budget:
    """What a request that arrives `now` allows, from the one of three ways to say it, or no deadline from none.

    Args:
        now, deadline: seconds of `time.monotonic()`; a deadline may be past.
        policy: what is to keep within it.

    Raises:
        BudgetError: energy is limited, and the policy doesn't look at it.
        ValueError: two ways at once, or a value out of range.
        TypeError: not a number.
    """
    if budget is not None:
        if budget_ms is not None or deadline is not None:
            raise ValueError("budget given together with budget_ms or deadline; give one of them")
        return _checked(budget, policy)
    if budget_ms is not None:
        if deadline is not None:
            raise ValueError("budget_ms and deadline both given; give one of them")
        return Budget(_positive_ms(budget_ms, "budget_ms"))
    if deadline is not None:
        if _number(deadline, "deadline") != deadline:
            raise ValueError(f"deadline is {deadline}; give seconds of time.monotonic()")
        return Budget((deadline - now) * 1e3)
    return UNLIMITED


def _checked(budget: Budget, policy: Policy) -> Budget:
    if not isinstance(budget, Budget):
        raise TypeError(f"budget is {budget!r}; give a stretto.Budget, or milliseconds as budget_ms")
    _positive_ms(budget.latency_ms, "budget.latency_ms")
    if budget.energy_mj is not None:
        _check_energy(budget.energy_mj, policy)
    if budget.min_accuracy is not None and not 0 <= _number(budget.min_accuracy, "budget.min_accuracy") <= 1:
        raise ValueError(f"budget.min_accuracy is {budget.min_accuracy}; give a share in [0, 1]")
    return budget


def _check_energy(energy_mj: float, policy: Policy) -> None:
    if not _number(energy_mj, "budget.energy_mj") > 0:
        raise ValueError(f"budget.energy_mj is {energy_mj}; give millijoules > 0, or None for no limit")
    if not looks_at_energy(policy):
        raise BudgetError(
            f"budget.energy_mj is {energy_mj}, but policy {policy!r} doesn't look at energy; leave it None, or load "
            f"the bundle with a policy that does: {', '.join(names_looking_at_energy())}"
        )


def _positive_ms(value: float, name: str) -> float:
    if not _number(value, name) > 0:
        raise ValueError(f"{name} is {value}; give milliseconds > 0, infinity for no deadline")
    return float(value)


def _number(value: Any, name: str) -> Any:
    if type(value) is not float and not isinstance(value, Real):  # the latter takes long
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}; give a number")
    return value
