"""The layers that passes work on, by name, in the order in which the network runs them."""

from collections import Counter
from collections.abc import Collection
from typing import Any, TypeGuard, cast

from torch import Tensor, fx, nn
from torch.nn.modules import conv

from ..supernet import Supernet
from .factors import is_dense


def weighted_layers(net: Supernet, skip: Collection[str] = ()) -> dict[str, nn.Module]:
    """Every convolution and linear layer, each once, of those with one weight the first, but for those to skip and all
    inside of them.

    Raises:
        ValueError: what is to be skipped isn't there; names what is.
    """
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    for node in net.plan.traced.graph.nodes:
        layer = net.plan.traced.layer(node) if node.op == "call_module" else None
        if _has_weight(layer) and id(layer.weight) not in seen:
            seen.add(id(layer.weight))
            found[str(node.target)] = layer
    for name in skip:
        if not any(inside(layer, name) for layer in found):
            raise ValueError(f"layer '{name}' isn't there; there are {', '.join(found)}")
    return {name: layer for name, layer in found.items() if not any(inside(name, skipped) for skipped in skip)}


def inside(layer: str, name: str) -> bool:
    """Whether a layer is called so, or is in a module that is."""
    return layer == name or layer.startswith(f"{name}.")


def end_layers(net: Supernet) -> tuple[str, ...]:
    """The first layer, and the last on the way to each exit's logits."""
    first = next(iter(weighted_layers(net)), None)
    ends = [_last_before(net, answer) for answer in net.plan.traced.answers]
    return tuple(dict.fromkeys(name for name in (first, *ends) if name is not None))


def _last_before(net: Supernet, node: fx.Node) -> str | None:
    """The layer with a weight that is nearest before a node, or is it."""
    waiting = [node]
    for place in waiting:
        if place.op == "call_module" and _has_weight(net.plan.traced.layer(place)):
            return str(place.target)
        waiting.extend(place.all_input_nodes)
    return None


def splittable_layers(net: Supernet, only: Collection[str], skip: Collection[str]) -> dict[str, nn.Module]:
    """Linear layers, and convolutions without groups, called once, between the first layer and those that give logits;
    `only` these or those in these modules, where any are named."""
    chosen, ends = weighted_layers(net, skip), end_layers(net)
    if only:
        others = weighted_layers(net, only)
        chosen = {name: layer for name, layer in chosen.items() if name not in others}
    calls = Counter(str(node.target) for node in net.plan.traced.graph.nodes if node.op == "call_module")
    return {name: layer for name, layer in chosen.items() if name not in ends and calls[name] == 1 and is_dense(layer)}


def _has_weight(layer: Any) -> TypeGuard[conv._ConvNd | nn.Linear]:
    return isinstance(layer, (conv._ConvNd, nn.Linear)) and isinstance(layer.weight, nn.Parameter)


def weight_name(layer: str) -> str:
    """Of a layer's weight in `Supernet.shared`."""
    return f"{layer}.weight"


def weights_in(layer: nn.Module) -> int:
    """How many numbers its weight has."""
    return cast(Tensor, layer.weight).numel()
