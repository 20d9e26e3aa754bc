"""Writes in place become new tensors: several widths read the same ones."""

import inspect
import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from ..errors import TraceError
from .graphs import is_call, name_of, value_of

VIEWS = tuple(
    """
    view ravel reshape flatten getitem transpose permute narrow select squeeze unsqueeze expand t swapaxes movedim
    detach contiguous to float dropout chunk split unbind getattr expand_as view_as
    """.split()  # noqa: SIM905
)
VIEW_LAYERS = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)


def with_item(x: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    """The tensor with a part of it replaced: `x[index] = value` on a copy."""
    x = x.clone()
    x[index] = value
    return x


OPERATORS: dict[Any, Any] = {
    getattr(operator, f"i{name}"): getattr(operator, name) for name in ("add", "sub", "mul", "truediv")
}
OPERATORS[operator.setitem] = with_item


def remove_in_place(module: fx.GraphModule) -> None:
    """Every operation gives a new tensor; whoever read the overwritten one afterwards reads that.

    Raises:
        TraceError: a tensor is overwritten whose parts or views are read afterwards.
    """
    nodes = list(module.graph.nodes)
    place = {node: i for i, node in enumerate(nodes)}
    origin = _origins(module, nodes)
    writing = [node for node in nodes if _writes(module, node)]
    for node in writing:
        written: Any = node.args[0] if node.args else node.kwargs["input"]
        later = [user for user in written.users if place[user] > place[node]]
        others = [n for n in nodes if n is not written and origin[n] is origin[written] and place[n] < place[node]]
        if any(place[user] > place[node] for other in others for user in other.users):
            raise TraceError(
                f"{name_of(node)} ({node.name}) writes in place into a tensor that is also read through a view of it; "
                "make it give a new tensor (inplace=False, x + y instead of x += y)"
            )
        for user in later:
            user.replace_input_with(written, node)
        _give_new_tensor(module, node)


def _origins(module: fx.GraphModule, nodes: list[fx.Node]) -> dict[fx.Node, fx.Node]:
    """The node whose memory each node's tensor may lie in."""
    origin: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        view = is_call(node, *VIEWS) or (
            node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), VIEW_LAYERS)
        )
        inputs = node.all_input_nodes
        origin[node] = origin[inputs[0]] if view and inputs else node
    return origin


def _writes(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node overwrites its first tensor."""
    target = node.args[0] if node.args else node.kwargs.get("input")
    if not isinstance(target, fx.Node) or not isinstance(value_of(target), torch.Tensor):
        return False
    if node.op == "call_module":
        return getattr(module.get_submodule(str(node.target)), "inplace", False) is True
    name = name_of(node)
    return node.target in OPERATORS or (name.endswith("_") and not name.startswith("_")) or _inplace(node) is True


def _inplace(node: fx.Node) -> Any:
    """What a function's argument `inplace` says."""
    place = _inplace_place(node)
    return node.args[place] if place is not None and len(node.args) > place else node.kwargs.get("inplace")


def _inplace_place(node: fx.Node) -> int | None:
    if node.op != "call_function" or not inspect.isfunction(node.target):
        return None
    names = list(inspect.signature(node.target).parameters)
    return names.index("inplace") if "inplace" in names else None


def _give_new_tensor(module: fx.GraphModule, node: fx.Node) -> None:
    if node.op == "call_module":
        module.get_submodule(str(node.target)).inplace = False  # type: ignore[assignment]
    elif node.target in OPERATORS:
        node.target = OPERATORS[node.target]
        node.meta["values"] = node.all_input_nodes[0].meta["values"]
    elif _inplace(node) is True:
        place = _inplace_place(node)
        node.args = tuple(False if i == place else arg for i, arg in enumerate(node.args))
        node.kwargs = {key: False if key == "inplace" else value for key, value in node.kwargs.items()}
    elif node.op == "call_method":
        node.target = name_of(node)[:-1]
    else:
        plain = name_of(node)[:-1]
        node.target = getattr(torch, plain, None) or getattr(F, plain)
