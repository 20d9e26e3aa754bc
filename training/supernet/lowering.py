"""Rewriting a traced graph into fewer, plainer operations that mean the same."""

import math
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules import padding

from .attention import lower_attention
from .functional_layers import lower_functional_layers
from .graphs import argument, is_call, name_of, replace, value_of
from .in_place import remove_in_place

PIECES = ("chunk", "split", "split_with_sizes", "tensor_split", "unbind")
EXTREMES = {"max": torch.amax, "min": torch.amin}


def lower(module: fx.GraphModule) -> fx.GraphModule:
    """The same computation without asserts, writes in place, functional layers, tuples of pieces, or whole shapes.

    Raises:
        TraceError: it writes in place where that can't be told apart from a new tensor.
    """
    graph = module.graph
    for node in reversed(graph.nodes):
        if node.op == "call_function" and name_of(node).startswith("_assert") and not node.users:
            graph.erase_node(node)
    remove_in_place(module)
    graph.eliminate_dead_code()
    lower_functional_layers(module)
    for node in list(graph.nodes):
        if is_call(node, *PIECES):
            _pieces_to_parts(graph, node)
        elif is_call(node, *EXTREMES):
            _extreme_to_reduction(graph, node)
        elif node.op == "call_module" and isinstance(layer := _layer(module, node), padding._ConstantPadNd):
            replace(graph, node, "call_function", F.pad, (node.args[0], tuple(layer.padding), "constant", layer.value))
        elif node.op == "call_module" and type(_layer(module, node)) is nn.MultiheadAttention:
            lower_attention(module, node)
        elif is_call(node, "glu") or (node.op == "call_module" and type(_layer(module, node)) is nn.GLU):
            _glu_to_halves(module, node)
        elif is_call(node, "scaled_dot_product_attention") and argument(node, 6, "scale", None) is None:
            node.kwargs = {**node.kwargs, "scale": 1 / math.sqrt(value_of(node.all_input_nodes[0]).shape[-1])}
    _name_batch_sizes(graph)
    graph.eliminate_dead_code()
    return fx.GraphModule(module, graph)  # takes along only what the graph uses


def _pieces_to_parts(graph: fx.Graph, node: fx.Node) -> None:
    """Every piece of a chunk or split as a `narrow` (or `select`) of its own, unless that depends on the batch."""
    source: Any = node.args[0]
    single = name_of(node) == "unbind"
    dim = argument(node, 1 if single else 2, "dim", 0) % value_of(source).dim()
    if len({value.shape[dim] for value in source.meta["values"]}) > 1 or not _only_items(node):
        return
    sizes = [1 if single else piece.shape[dim] for piece in value_of(node)]
    for user in list(node.users):
        place: Any = user.args[1]
        place %= len(sizes)
        if single:
            replace(graph, user, "call_method", "select", (source, dim, place))
        else:
            replace(graph, user, "call_method", "narrow", (source, dim, sum(sizes[:place]), sizes[place]))


def _extreme_to_reduction(graph: fx.Graph, node: fx.Node) -> None:
    """`x.max(dim)` of which only the values are used, as a reduction."""
    if isinstance(value_of(node), torch.Tensor) or not _only_items(node, 0):
        return
    args = (node.args[0], argument(node, 1, "dim", None), argument(node, 2, "keepdim", False))
    for user in list(node.users):
        replace(graph, user, "call_function", EXTREMES[name_of(node)], args)


def _only_items(node: fx.Node, *places: int) -> bool:
    """All that is done with a tuple is to take single items out of it."""
    items = [user.args[1] if is_call(user, "getitem") else None for user in node.users]
    return all(isinstance(item, int) and (item in places or not places) for item in items)


def _layer(module: fx.GraphModule, node: fx.Node) -> Any:
    return module.get_submodule(str(node.target))


def _glu_to_halves(module: fx.GraphModule, node: fx.Node) -> None:
    """A gated linear unit as what it is: one half of the channels times the sigmoid of the other."""
    source: Any = node.args[0]
    layer = _layer(module, node) if node.op == "call_module" else None
    dim = (layer.dim if layer is not None else argument(node, 1, "dim", -1)) % value_of(source).dim()
    half = value_of(source).shape[dim] // 2
    with module.graph.inserting_before(node):
        first, second = (module.graph.call_method("narrow", (source, dim, start, half)) for start in (0, half))
        gate = module.graph.call_function(torch.sigmoid, (second,))
    for new in (first, second, gate):
        new.meta.update(node.meta)
    replace(module.graph, node, "call_function", torch.mul, (first, gate))


def _name_batch_sizes(graph: fx.Graph) -> None:
    """Ask for one dimension as `x.size(0)` wherever it was taken out of a whole shape, so that no shape stays alive."""
    for node in list(graph.nodes):
        source: Any = node.args[0] if node.args else None
        if is_call(node, "getitem") and isinstance(node.args[1], int) and _is_whole_shape(source):
            replace(graph, node, "call_method", "size", (source.args[0], node.args[1]))


def _is_whole_shape(node: Any) -> bool:
    if is_call(node, "size"):
        return len(node.args) == 1 and not node.kwargs
    return is_call(node, "getattr") and node.args[1] == "shape"
