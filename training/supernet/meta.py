"""Networks without numbers: shapes are found by running on torch's meta device."""

import copy
import inspect
from typing import Any

import torch
from torch import fx, nn

CONTAINERS = (
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict,
    nn.Transformer, nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
)  # fmt: skip
LAYERS = tuple(
    kind
    for kind in vars(nn).values()
    if inspect.isclass(kind) and issubclass(kind, nn.Module) and kind is not nn.Module and kind not in CONTAINERS
)
CREATING = ("zeros", "ones", "empty", "full", "rand", "randn", "arange", "eye", "linspace")
CREATORS = tuple(getattr(torch, name) for name in CREATING)
BATCHES = (2, 3)  # the two batch sizes by which what depends on the batch is told apart
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.Sigmoid, nn.GELU, nn.Identity)


def is_layer(module: nn.Module) -> bool:
    """One of torch's own layers or of a subclass of them."""
    return isinstance(module, LAYERS) and not isinstance(module, CONTAINERS)


def has_own_forward(layer: nn.Module) -> bool:
    """A subclass of a layer that does something else than this."""
    return all(getattr(kind, "forward", None) is not type(layer).forward for kind in LAYERS)


def meta_copy(module: nn.Module) -> Any:
    """A copy of a module with its tensors on the meta device; no number is copied."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): on_meta(tensor) for tensor in tensors})


def on_meta(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, or parameter, of the same shape without numbers."""
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def batch_of(example: torch.Tensor, size: int) -> torch.Tensor:
    """(size, …) like the example, on the meta device."""
    return torch.empty(size, *example.shape[1:], dtype=example.dtype, device="meta")


def apply(module: nn.Module, node: fx.Node, args: Any, kwargs: Any) -> Any:
    """What a node of a graph over `module` computes from these arguments; new tensors come on the meta device."""
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        return torch.empty_like(args[0]) if _keeps_shape(layer, args) else layer(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    if node.target in CREATORS:
        kwargs = {**kwargs, "device": "meta"}
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _keeps_shape(layer: nn.Module, args: Any) -> bool:
    """A plain batch norm or activation on the meta device, for which torch would take milliseconds."""
    x = args[0] if len(args) == 1 else None
    if not isinstance(x, torch.Tensor) or not x.is_meta:
        return False
    if type(layer) in NORMS:
        vectors = [*layer.parameters(), *layer.buffers()]
        return x.dim() > 2 and all(len(vector) == x.shape[1] for vector in vectors if vector.dim())
    return type(layer) in ACTIVATIONS
