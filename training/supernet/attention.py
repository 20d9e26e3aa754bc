"""Torch's attention layer as the linear layers and the product that it is, so that widths reach its features."""

import math
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from .graphs import is_call, value_of


def lower_attention(module: fx.GraphModule, node: fx.Node) -> None:
    """Self-attention without masks or asked-for weights becomes two linear layers and the product between them.

    Any other use stays as it is.
    """
    layer: Any = module.get_submodule(str(node.target))
    if not _is_plain(layer, node):
        return
    graph, source = module.graph, node.all_input_nodes[0]
    width, heads = layer.embed_dim, layer.num_heads
    before = (value_of(source).shape[1 if layer.batch_first else 0], 3, heads, width // heads)
    with graph.inserting_before(node):
        x = source if layer.batch_first else graph.call_method("transpose", (source, 0, 1))
        size = graph.call_method("size", (x, 0))
        x = graph.call_module(_linear(module, node, "in", layer.in_proj_weight, layer.in_proj_bias), (x,))
        x = graph.call_method("reshape", (x, size, *before))
        x = graph.call_method("permute", (x, 2, 0, 3, 1, 4))
        parts = tuple(graph.call_method("select", (x, 0, i)) for i in range(3))
        x = _product(module, node, layer, *parts)
        x = graph.call_method("transpose", (x, 1, 2))
        x = graph.call_method("reshape", (x, size, before[0], width))
        x = graph.call_module(_linear(module, node, "out", layer.out_proj.weight, layer.out_proj.bias), (x,))
        x = x if layer.batch_first else graph.call_method("transpose", (x, 0, 1))
    for user in list(node.users):
        user.replace_all_uses_with(x)
        graph.erase_node(user)
    graph.erase_node(node)


def _product(
    module: fx.GraphModule, node: fx.Node, layer: Any, query: fx.Node, key: fx.Node, value: fx.Node
) -> fx.Node:
    """(batch, heads, tokens, features) each; by hand where a dropout must follow the network's mode."""
    graph, scale = module.graph, 1 / math.sqrt(layer.head_dim)
    if not layer.dropout:
        return graph.call_function(F.scaled_dot_product_attention, (query, key, value), {"scale": scale})
    module.add_module(f"{node.name}_dropout", nn.Dropout(layer.dropout))
    similar = graph.call_function(torch.matmul, (query, graph.call_method("transpose", (key, -2, -1))))
    weights = graph.call_function(torch.softmax, (graph.call_function(torch.mul, (similar, scale)), -1))
    weights = graph.call_module(f"{node.name}_dropout", (weights,))
    return graph.call_function(torch.matmul, (weights, value))


def _is_plain(layer: Any, node: fx.Node) -> bool:
    args = [*node.args, *node.kwargs.values()]
    masks = [arg for arg in args if isinstance(arg, fx.Node) and arg is not args[0]]
    causal = node.kwargs.get("is_causal", False)
    simple = layer.in_proj_weight is not None and layer.bias_k is None and not layer.add_zero_attn
    items = all(is_call(user, "getitem") and user.args[1] == 0 for user in node.users)
    batched = value_of(node.all_input_nodes[0]).dim() == 3
    return simple and items and batched and not masks and not causal


def _linear(module: fx.GraphModule, node: fx.Node, name: str, weight: nn.Parameter, bias: nn.Parameter | None) -> str:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = weight
    layer.register_parameter("bias", bias)
    module.add_module(f"{node.name}_{name}", layer)
    return f"{node.name}_{name}"
