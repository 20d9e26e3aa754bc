"""Small questions to, and changes of, nodes of a traced graph."""

from typing import Any

from torch import fx, nn


def name_of(node: fx.Node) -> str:
    """What a function or method is called; a layer's place in the network."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def is_call(node: Any, *names: str) -> bool:
    """A call of a function or method of one of these names."""
    return isinstance(node, fx.Node) and node.op in ("call_function", "call_method") and name_of(node) in names


def argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    """An argument given by place or by name."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def value_of(node: fx.Node) -> Any:
    """What tracing found the node to be, at the first of the two batch sizes; None where it isn't known."""
    return node.meta["values"][0] if "values" in node.meta else None


def replace(graph: fx.Graph, node: fx.Node, op: str, target: Any, args: Any, kwargs: Any = None) -> fx.Node:
    """Another call takes the node's place."""
    with graph.inserting_before(node):
        new = graph.create_node(op, target, args, kwargs)
    new.meta.update(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    return new


def replace_with_layer(module: fx.GraphModule, node: fx.Node, layer: nn.Module, *args: Any) -> fx.Node:
    """A layer of its own takes the node's place."""
    name = f"{node.name}_layer"
    module.add_module(name, layer)
    return replace(module.graph, node, "call_module", name, args)
