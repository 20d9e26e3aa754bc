"""`F.conv2d(x, self.weight)` and the like become the layers that they are."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from .graphs import is_call, name_of, replace_with_layer, value_of

CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
SIGNATURES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), CONV),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), TRANSPOSED),
    "linear": ("input", "weight", "bias"),
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
    "prelu": ("input", "weight"),
}
TENSORS = ("weight", "bias", "running_mean", "running_var")
Given = dict[str, Any]


def lower_functional_layers(module: fx.GraphModule) -> None:
    """Put a layer in the place of every functional one whose tensors are the network's own parameters and buffers.

    Anything else (a weight that is computed, a stride that depends on the input) stays as it is.
    """
    for node in list(module.graph.nodes):
        if is_call(node, *SIGNATURES) and node.op == "call_function":
            names = SIGNATURES[name_of(node)]
            given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
            tensors = {name: _own_tensor(module, given[name]) for name in TENSORS if given.get(name) is not None}
            settings = {k: v for k, v in given.items() if k not in (*TENSORS, "input")}
            fixed = all(not isinstance(value, fx.Node) for value in settings.values())
            if fixed and all(tensor is not None for tensor in tensors.values()) and not settings.pop("training", False):
                layer = _layer(name_of(node), value_of(given["input"]), tensors, settings)
                if layer is not None:
                    replace_with_layer(module, node, layer, given["input"])


def _own_tensor(module: fx.GraphModule, node: Any) -> torch.Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    owner, _, name = str(node.target).rpartition(".")
    value = getattr(module.get_submodule(owner), name)
    return value if isinstance(value, torch.Tensor) else None


def _layer(name: str, x: torch.Tensor, tensors: dict[str, Any], settings: Given) -> nn.Module | None:
    make: Callable[..., nn.Module | None] = MAKERS.get(name, _convolution)
    layer = make(name, x, tensors, settings)
    if layer is not None:
        for attribute in TENSORS:
            if attribute in (*layer._parameters, *layer._buffers):
                _put(layer, attribute, tensors.get(attribute))
    return layer


def _put(layer: nn.Module, attribute: str, value: torch.Tensor | None) -> None:
    """As a parameter or a buffer, whichever it was."""
    layer._parameters.pop(attribute, None), layer._buffers.pop(attribute, None)
    if isinstance(value, nn.Parameter) or value is None:
        layer.register_parameter(attribute, value)
    else:
        layer.register_buffer(attribute, value)


def _convolution(name: str, x: torch.Tensor, tensors: dict[str, Any], settings: Given) -> nn.Module:
    weight = tensors["weight"]
    groups, transposed = settings.get("groups", 1), "transpose" in name
    kind = getattr(nn, f"ConvTranspose{name[-2:]}" if transposed else f"Conv{name[-2:]}")
    ends = (weight.shape[0], weight.shape[1] * groups)
    channels = ends if transposed else ends[::-1]
    return kind(*channels, tuple(weight.shape[2:]), bias="bias" in tensors, device="meta", **settings)


def _linear(name: str, x: torch.Tensor, tensors: dict[str, Any], settings: Given) -> nn.Module | None:
    weight = tensors["weight"]
    return nn.Linear(weight.shape[1], weight.shape[0], "bias" in tensors, device="meta") if weight.dim() == 2 else None


def _batch_norm(name: str, x: torch.Tensor, tensors: dict[str, Any], settings: Given) -> nn.Module | None:
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    if "running_mean" not in tensors or "running_var" not in tensors:
        return None
    return kinds[x.dim()](x.shape[1], affine="weight" in tensors, device="meta", **settings)


def _layer_norm(name: str, x: torch.Tensor, tensors: dict[str, Any], settings: Given) -> nn.Module:
    return nn.LayerNorm(elementwise_affine="weight" in tensors, bias="bias" in tensors, device="meta", **settings)


def _group_norm(name: str, x: torch.Tensor, tensors: dict[str, Any], settings: Given) -> nn.Module:
    return nn.GroupNorm(settings.pop("num_groups"), x.shape[1], affine="weight" in tensors, device="meta", **settings)


def _prelu(name: str, x: torch.Tensor, tensors: dict[str, Any], settings: Given) -> nn.Module:
    return nn.PReLU(tensors["weight"].numel(), device="meta")


MAKERS: dict[str, Callable[..., nn.Module | None]] = {
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "prelu": _prelu,
}
