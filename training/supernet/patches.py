"""Functions that torch doesn't offer to a tracer by itself, wrapped for the time of tracing."""

import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from ..errors import TraceError


def creating(tracer: fx.Tracer, function: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """A function such as `torch.zeros` that is recorded where a size is the batch's; torch doesn't offer that."""

    @functools.wraps(function)
    def create(*args: Any, **kwargs: Any) -> Any:
        if _symbolic(args, kwargs):
            return tracer.create_proxy("call_function", function, args, kwargs)
        return function(*args, **kwargs)

    return create


class Context:
    """What a custom autograd function's forward is handed; nothing of it is needed afterwards."""

    needs_input_grad = (False,) * 64

    def _ignore(self, *args: Any) -> None:
        """Kept for a backward that isn't used."""

    save_for_backward = mark_dirty = mark_non_differentiable = set_materialize_grads = _ignore


def running_forward(notes: list[str]) -> Any:
    """`torch.autograd.Function.apply` that lets a custom function's forward be traced, and notes that."""
    original = torch.autograd.Function.__dict__["apply"].__func__

    def apply(kind: Any, *args: Any, **kwargs: Any) -> Any:
        if not _symbolic(args, kwargs):
            return original(kind, *args, **kwargs)
        note = f"{kind.__name__}: gradients are those of its forward, its own backward isn't used"
        notes.extend([] if note in notes else [note])
        with_context = kind.setup_context is torch.autograd.Function.setup_context
        return kind.forward(*([Context()] if with_context else []), *args, **kwargs)

    return classmethod(apply)


def looking_into(tracer: fx.Tracer) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """How functions marked by `fx.wrap` are called: these ask to be left whole, but what they do with channels is
    wanted. One that can't be looked into is left whole, and its channels stay at full width."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not _symbolic(args, kwargs):
                return function(*args, **kwargs)
            if inspect.isfunction(function):
                with suppress(TraceError, RuntimeError, TypeError, ValueError):
                    return function(*args, **kwargs)
            return tracer.create_proxy("call_function", function, args, kwargs)

        return call

    return wrap


def _symbolic(args: Any, kwargs: Any) -> bool:
    return any(isinstance(leaf, fx.Proxy) for leaf in tree_leaves((args, kwargs)))
