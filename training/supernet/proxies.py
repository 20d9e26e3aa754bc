"""Symbolic tracing that knows sizes: every size but the batch's is an ordinary number while a network is traced.

Each value is computed beside the trace for two batch sizes on the meta device. What comes out the same for both and is
plain data (a channel count, a number of axes, a comparison of sizes) is handed to the network as it is, so that it may
decide by it. What differs (the batch size, and tensors) stays symbolic.
"""

import operator
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import fx, nn

from ..errors import TraceError
from .meta import BATCHES, CREATING, apply, batch_of, has_own_forward, is_layer, meta_copy, on_meta
from .patches import creating, looking_into, running_forward

PLAIN = (int, float, bool, str, type(None))


class SizedTracer(fx.Tracer):
    """Looks into every module but torch's own layers and subclasses that are used like these.

    `notes`: what the graph leaves out.
    """

    def __init__(self, model: nn.Module, example: torch.Tensor) -> None:
        super().__init__()
        self._meta_model = meta_copy(model)
        self._examples = tuple(batch_of(example, size) for size in BATCHES)
        self._computing = False
        self._looked_into: set[nn.Module] = set()
        self.notes: list[str] = []

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """The graph of a network's forward; see `fx.Tracer.trace`."""
        with ExitStack() as stack:
            for name in CREATING:
                stack.enter_context(patch.object(torch, name, creating(self, getattr(torch, name))))
            stack.enter_context(patch.object(torch.autograd.Function, "apply", running_forward(self.notes)))
            stack.enter_context(patch.object(fx._symbolic_trace, "_create_wrapped_func", looking_into(self)))
            return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_layer(m) and m not in self._looked_into

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._computing:
            return forward(*args, **kwargs)
        if is_layer(m) and has_own_forward(m) and not self._gives_one_tensor(m, args, kwargs):
            self._looked_into.add(m)
        return super().call_module(m, forward, args, kwargs)

    def _gives_one_tensor(self, m: nn.Module, args: Any, kwargs: Any) -> bool:
        layer = self._meta_model.get_submodule(self.path_of_module(m))
        args, kwargs = self.create_arg(args), self.create_arg(kwargs)
        args, kwargs = fx.node.map_arg((args, kwargs), lambda n: self.values(n)[0])
        return isinstance(self._compute_freely(lambda: layer(*args, **kwargs)), torch.Tensor)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._computing else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> "SizedProxy":
        return SizedProxy(node, self)

    def create_proxy(self, *args: Any, **kwargs: Any) -> Any:
        proxy = super().create_proxy(*args, **kwargs)
        return self._handed(proxy, *self.values(proxy.node))

    def to_bool(self, obj: fx.Proxy) -> bool:
        raise TraceError(f"a decision depends on {self._described(obj)}")

    def iter(self, obj: fx.Proxy) -> Any:
        raise TraceError(f"a loop runs over {self._described(obj)}")

    def _described(self, proxy: fx.Proxy) -> str:
        value = self.values(proxy.node)[0]
        return "the values in a tensor" if isinstance(value, torch.Tensor) else "the batch size"

    def values(self, node: fx.Node) -> tuple[Any, Any]:
        """The node's value for each of the two batch sizes; tensors on the meta device."""
        if "values" not in node.meta:
            node.meta["values"] = self._compute_freely(lambda: (self._value(node, 0), self._value(node, 1)))
        values: tuple[Any, Any] = node.meta["values"]
        return values

    def _compute_freely(self, compute: Callable[[], Any]) -> Any:
        """Without recording what is called meanwhile."""
        computing, self._computing = self._computing, True
        try:
            with torch.no_grad():
                return compute()
        finally:
            self._computing = computing

    def _value(self, node: fx.Node, batch: int) -> Any:
        if node.op == "placeholder":
            return node.args[0] if node.args else self._examples[batch]
        if node.op == "get_attr":
            return self._attribute(str(node.target))
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self.values(n)[batch])
        return apply(self._meta_model, node, args, kwargs)

    def _attribute(self, target: str) -> Any:
        value: Any = self.root
        for name in target.split("."):
            value = getattr(value, name)
        return on_meta(value) if isinstance(value, torch.Tensor) else value

    def _handed(self, proxy: fx.Proxy, first: Any, second: Any) -> Any:
        """What the network gets to see of a value."""
        if isinstance(first, PLAIN) and isinstance(second, PLAIN) and first == second:
            return first
        if isinstance(first, (tuple, list)) and len(first) == len(second):
            parts: list[Any] = [
                self.create_proxy("call_function", operator.getitem, (proxy, i), {}) for i in range(len(first))
            ]
            named = isinstance(first, tuple) and hasattr(first, "n_sequence_fields")  # torch.max's answer and its like
            return type(first)(parts) if named else parts if isinstance(first, list) else tuple(parts)
        return proxy


class SizedProxy(fx.Proxy):
    """Stands for a value while tracing; plain attributes of it (shape, dtype, …) are looked up at once."""

    tracer: SizedTracer

    def _in_place(self, operation: Callable[..., Any], other: Any) -> Any:
        """`x += y` writes into a tensor, which whoever else holds it sees; of a number it is but another number."""
        if not isinstance(self.tracer.values(self.node)[0], torch.Tensor):
            return NotImplemented
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def __iadd__(self, other: Any) -> Any:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place(operator.itruediv, other)

    def __getattr__(self, k: str) -> Any:
        if not k.startswith("__"):
            value = self.tracer.values(self.node)[0]
            if not callable(getattr(value, k)):
                return self.tracer.create_proxy("call_function", getattr, (self, k), {})
        return super().__getattr__(k)
