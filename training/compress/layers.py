"""The layers that passes work on, by name, in the order in which the network runs them."""

from collections.abc import Collection
from typing import cast

from torch import Tensor, nn
from torch.nn.modules import conv

from ..supernet import Supernet


def weighted_layers(net: Supernet, skip: Collection[str] = ()) -> dict[str, nn.Module]:
    """Every convolution and linear layer, each once, but for those to skip and all inside of them.

    Raises:
        ValueError: what is to be skipped isn't there; names what is.
    """
    found: dict[str, nn.Module] = {}
    for node in net.plan.traced.graph.nodes:
        layer = net.plan.traced.layer(node) if node.op == "call_module" else None
        if isinstance(layer, (conv._ConvNd, nn.Linear)) and isinstance(layer.weight, nn.Parameter):
            found.setdefault(str(node.target), layer)
    for name in skip:
        if not any(inside(layer, name) for layer in found):
            raise ValueError(f"layer '{name}' isn't there; there are {', '.join(found)}")
    return {name: layer for name, layer in found.items() if not any(inside(name, skipped) for skipped in skip)}


def inside(layer: str, name: str) -> bool:
    """Whether a layer is called so, or is in a module that is."""
    return layer == name or layer.startswith(f"{name}.")


def end_layers(net: Supernet) -> tuple[str, ...]:
    """The first layer, and those that give logits."""
    layers = list(weighted_layers(net))
    answers = [node for node in net.plan.traced.answers if node.op == "call_module"]
    return tuple(dict.fromkeys([layers[0], *(str(node.target) for node in answers if str(node.target) in layers)]))


def weight_name(layer: str) -> str:
    """Of a layer's weight in `Supernet.shared`."""
    return f"{layer}.weight"


def weights_in(layer: nn.Module) -> int:
    """How many numbers its weight has."""
    return cast(Tensor, layer.weight).numel()
