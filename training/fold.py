"""One part of a supernet with its norms folded away, every tensor of it bound to the shared weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.modules import batchnorm

from ..runtime.manifest import Arrays, Binding
from .errors import ExportError
from .supernet.skeleton import Part, Source
from .supernet.supernet import with_numbers

# Layers that take up the factor of a norm after them by output channel, with the forward that makes it true: a subclass
# with its own may do anything with its weight.
FOLDS_INTO: dict[type[nn.Module], Any] = {kind: kind.forward for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)}


class ScaleShift(nn.Module):
    """A batch norm in evaluation that no layer can take up: one factor and one summand per channel."""

    def __init__(self, scale: NDArray[np.float32], shift: NDArray[np.float32]) -> None:
        super().__init__()
        self.register_buffer("scale", torch.from_numpy(scale))
        self.register_buffer("shift", torch.from_numpy(shift))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (-1, *(1,) * (x.dim() - 2))
        return x * self.scale.reshape(shape) + self.shift.reshape(shape)  # type: ignore[operator]


@dataclass(frozen=True, slots=True)
class Bound:
    """A part whose norms are folded.

    `module` has the numbers that a bundle will have; `bindings` say where each of its floating-point tensors comes
    from; `vectors` are this width's own arrays that they name.
    """

    module: fx.GraphModule
    bindings: dict[str, Binding]
    vectors: Arrays


def shared_weights(module: nn.Module, dtype: str, coded: bool = False) -> Arrays:
    """The network's floating-point tensors as they are stored, by name, but for its batch norms, which are folded.

    `coded`: for few bytes, with vectors in 16 bits, and no zeros with a sign, which would be other values.

    Raises:
        ValueError: `dtype` isn't "float32" or "float16".
        ExportError: a number is too large for it, or isn't a number; names the tensor.
    """
    if dtype not in ("float32", "float16"):
        raise ValueError(f"weights '{dtype}': one of float32, float16")
    weights = {}
    for name, layer in module.named_modules():
        if not isinstance(layer, batchnorm._BatchNorm):
            for attribute, value in _own_tensors(layer):
                full = _full(name, attribute)
                with np.errstate(over="ignore"):
                    weights[full] = _numpy(value).astype(dtype)
                if coded:
                    weights[full] = _halved(weights[full] + 0)
                if not np.isfinite(weights[full]).all():
                    raise ExportError(f"{full} holds numbers that aren't finite as {dtype}")
    return weights


def bind(
    part: Part,
    tensors: Mapping[str, torch.Tensor],
    example: torch.Tensor,
    weights: Arrays,
    prefix: str,
    coded: bool = False,
) -> Bound:
    """Fold a part's batch norms and bind every floating-point tensor of it to the shared weights.

    Folding changes a layer's weight by one factor a channel, so that the stored weight still serves every width.

    Args:
        tensors: the part's numbers by name.
        example: (batch, …) what it takes.
        weights, coded: see `shared_weights`.
        prefix: the part's own, begins the names of its vectors: a norm may be folded into layers of several parts.
    """
    numbers = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    module: Any = with_numbers(part, numbers).cpu().eval()
    bindings = {s.name: Binding(_shared(s), s.slices or (None,) * numbers[s.name].dim()) for s in part.sources}
    bindings = {name: binding for name, binding in bindings.items() if binding.tensor in weights}
    ShapeProp(module).propagate(example)
    vectors: Arrays = {}
    for node in list(module.graph.nodes):
        if node.op == "call_module" and isinstance(module.get_submodule(node.target), batchnorm._BatchNorm):
            _fold(module, node, bindings, vectors, prefix)
    module.delete_all_unused_submodules()
    module.recompile()
    if coded:
        vectors = {name: _halved(vector + 0) for name, vector in vectors.items()}
    _settle(module, bindings, vectors, weights, prefix)
    return Bound(module, {name: bindings[name] for name in _names(module)}, vectors)


def _settle(module: nn.Module, bindings: dict[str, Binding], vectors: Arrays, weights: Arrays, prefix: str) -> None:
    """Bind what isn't bound yet to arrays of its own, and give the module exactly the numbers that bindings give."""
    for name in _names(module):
        if name not in bindings:
            vectors[f"{prefix}/{name}"] = _numpy(_get(module, name))
            bindings[name] = Binding(f"{prefix}/{name}", (None,) * _get(module, name).dim())
        _set(module, name, torch.from_numpy(bindings[name].array(weights | vectors).copy()))


def _fold(module: fx.GraphModule, node: fx.Node, bindings: dict[str, Binding], vectors: Arrays, prefix: str) -> None:
    """Into the layer before it where that can take it up, else as factor and summand of its own."""
    scale, shift = _scale_shift(module.get_submodule(str(node.target)), str(node.target))
    before = node.all_input_nodes[0]
    if _takes_up(module, before, bindings):
        target = str(before.target)
        layer: Any = module.get_submodule(target)
        if layer.bias is not None:
            shift = _numpy(layer.bias) * scale + shift
        layer.bias = nn.Parameter(torch.from_numpy(shift))
        weight = bindings[f"{target}.weight"]
        bindings[f"{target}.weight"] = Binding(weight.tensor, weight.slices, scale=f"{prefix}/{target}.scale")
        bindings[f"{target}.bias"] = Binding(f"{prefix}/{target}.shift", (None,))
        node.replace_all_uses_with(before)
        module.graph.erase_node(node)
    else:
        node.target = target = f"{node.name}_scale_shift"
        module.add_submodule(target, ScaleShift(scale, shift))
        for name in ("scale", "shift"):
            bindings[f"{target}.{name}"] = Binding(f"{prefix}/{target}.{name}", (None,))
    vectors[f"{prefix}/{target}.scale"], vectors[f"{prefix}/{target}.shift"] = scale, shift


def _scale_shift(norm: Any, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a batch norm does in evaluation, (channels,) each."""
    if norm.running_mean is None:
        raise ExportError(
            f"{name} has no running statistics, so what it answers depends on the batch; let it track them"
        )
    mean, var = (_numpy(value).astype(np.float64) for value in (norm.running_mean, norm.running_var))
    gamma = 1.0 if norm.weight is None else _numpy(norm.weight)
    beta = 0.0 if norm.bias is None else _numpy(norm.bias)
    scale = gamma / np.sqrt(var + norm.eps)
    return scale.astype(np.float32), (beta - mean * scale).astype(np.float32)


def _halved(numbers: NDArray[Any]) -> NDArray[Any]:
    """A vector in 16 bits, unless its largest number is too large for those, or so small that little is left of it."""
    largest, half = np.abs(numbers).max(initial=0), np.finfo(np.float16)
    return numbers.astype(np.float16) if numbers.ndim == 1 and half.tiny <= largest <= half.max else numbers


def _takes_up(module: fx.GraphModule, before: fx.Node, bindings: Mapping[str, Binding]) -> bool:
    """A plain convolution or linear layer, called once, whose output nothing else reads, with its channels on axis 1,
    which is where batch norms have them, and with a stored weight, not one that is computed, as weight norm does."""
    if before.op != "call_module" or len(before.users) > 1 or f"{before.target}.weight" not in bindings:
        return False
    layer = module.get_submodule(str(before.target))
    plain = any(isinstance(layer, kind) and type(layer).forward is forward for kind, forward in FOLDS_INTO.items())
    once = sum(node.op == "call_module" and node.target == before.target for node in module.graph.nodes) == 1
    return plain and once and not (isinstance(layer, nn.Linear) and len(before.meta["tensor_meta"].shape) != 2)


def _own_tensors(layer: nn.Module) -> list[tuple[str, torch.Tensor]]:
    tensors = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
    return [(name, value) for name, value in tensors if value.is_floating_point()]


def _names(module: nn.Module) -> list[str]:
    """Floating-point tensors; whole numbers, such as indices, stay in the graph."""
    return [_full(name, attribute) for name, layer in module.named_modules() for attribute, _ in _own_tensors(layer)]


def _shared(source: Source) -> str:
    return _full(source.layer, source.attribute)


def _full(layer: str, attribute: str) -> str:
    return f"{layer}.{attribute}" if layer else attribute


def _numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    return tensor.detach().cpu().float().contiguous().numpy()


def _get(module: nn.Module, name: str) -> torch.Tensor:
    owner, _, attribute = name.rpartition(".")
    return getattr(module.get_submodule(owner), attribute)


def _set(module: nn.Module, name: str, value: torch.Tensor) -> None:
    owner, _, attribute = name.rpartition(".")
    layer = module.get_submodule(owner)
    setattr(layer, attribute, nn.Parameter(value) if attribute in layer._parameters else value)
