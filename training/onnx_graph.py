"""One part of a supernet as an ONNX fragment: nodes, and the names of the weights it is bound to."""

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch.nn.modules import batchnorm, conv

from ..runtime.manifest import Arrays, Binding
from .errors import ExportError
from .supernet.skeleton import Part, Source

INLINE_ELEMENTS = 64  # constants up to this size stay in the graph; nothing that a width narrows is shared there
FOLDS_INTO: dict[type[nn.Module], Any] = {
    nn.Conv1d: nn.Conv1d.forward,
    nn.Conv2d: nn.Conv2d.forward,
    nn.Conv3d: nn.Conv3d.forward,
    nn.Linear: nn.Linear.forward,
}


class ScaleShift(nn.Module):
    """A batch norm in evaluation that no layer can take up: one factor and one summand per channel."""

    def __init__(self, scale: torch.Tensor, shift: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (-1, *(1,) * (x.dim() - 2))
        return x * self.scale.reshape(shape) + self.shift.reshape(shape)  # type: ignore[operator]


@dataclass(frozen=True, slots=True)
class Bound:
    """A part whose norms are folded: `module` has real numbers, `bindings` say where each one comes from,
    `vectors` are this width's own arrays that they name."""

    module: fx.GraphModule
    bindings: dict[str, Binding]
    vectors: Arrays


@dataclass(frozen=True, slots=True)
class Graph:
    """A fragment: `raw`, a serialised model of nodes and initialisers only; `own`: numbers that no shared tensor has."""

    raw: bytes
    bindings: dict[str, Binding]
    own: Arrays
    ir_version: int
    opset: int


def bind(part: Part, tensors: Mapping[str, torch.Tensor], weights: Mapping[str, NDArray[Any]], prefix: str) -> Bound:
    """Fold a part's batch norms and bind every tensor of it to the shared weights.

    `tensors`: the part's numbers by name; `weights`: the shared ones as they will be stored, by `layer.attribute`;
    `prefix`: begins the names of this width's own vectors. Folding changes a layer's weight by one factor a channel,
    so that the stored weight still serves every width.
    """
    module: Any = _copy_with_numbers(part, tensors)
    bindings = {
        source.name: _binding(source, tensors[source.name].dim())
        for source in part.sources
        if f"{source.layer}.{source.attribute}" in weights
    }
    vectors: Arrays = {}
    for node in list(module.graph.nodes):
        if node.op == "call_module" and isinstance(module.get_submodule(node.target), batchnorm._BatchNorm):
            _fold(module, node, bindings, vectors, prefix)
    module.delete_all_unused_submodules()
    module.recompile()
    names = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    bindings = {name: binding for name, binding in bindings.items() if name in names}
    for name in sorted(names - bindings.keys()):
        vectors.setdefault(f"{prefix}/{name}", _numpy(_get(module, name)))
        bindings[name] = Binding(f"{prefix}/{name}", (None,) * _get(module, name).dim())
    everything = {**weights, **vectors}
    for name, binding in bindings.items():
        _set(module, name, torch.from_numpy(binding.array(everything).copy()))
    return Bound(module, bindings, vectors)


def to_fragment(
    bound: Bound, weights: Mapping[str, NDArray[Any]], example: torch.Tensor, ends: tuple[str, str], prefix: str
) -> Graph:
    """Compile a bound part to ONNX and check every initialiser against its binding.

    `ends`: names of the tensor that comes in and the one that goes out; `prefix` makes all other names unique.

    Raises:
        ExportError: an initialiser isn't what its binding says; or an operation has no ONNX form.
    """
    import onnx

    model = _onnx_model(bound.module, example)
    everything = {**weights, **bound.vectors}
    bindings, own, inline = {}, {}, []
    for initializer in model.graph.initializer:
        value = onnx.numpy_helper.to_array(initializer)
        name = f"{prefix}.{initializer.name}"
        binding = bound.bindings.get(initializer.name) or _find(value, bound.bindings, everything)
        if binding is None and (value.size <= INLINE_ELEMENTS or value.dtype != np.float32):
            inline.append(initializer)
            continue
        if binding is None:
            own[name] = value
            binding = Binding(name, (None,) * value.ndim)
        elif not np.array_equal(binding.array(everything), value):
            raise ExportError(f"{name}: the exporter changed {initializer.name}, which is bound to {binding.tensor}")
        bindings[name] = binding
    raw, ir_version, opset = _fragment(model, prefix, ends, {i.name for i in inline})
    return Graph(raw, bindings, own, ir_version, opset)


def _onnx_model(module: nn.Module, example: torch.Tensor) -> Any:
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    quiet = logging.getLogger("torch.onnx")
    level, silence = quiet.level, io.StringIO()
    try:
        quiet.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(silence), torch.no_grad():
            warnings.simplefilter("ignore")  # deprecations inside the exporter, nothing a user could act on
            program = torch.onnx.export(
                module.eval(), (example,), dynamo=True, input_names=["x"], output_names=["y"],
                dynamic_shapes=({0: batch},), verbose=False, optimize=True,
            )  # fmt: skip
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"no ONNX form: {str(error).splitlines()[0]}") from error
    finally:
        quiet.setLevel(level)
    if program is None:
        raise ExportError("the exporter gave nothing back")
    return program.model_proto


def _fragment(model: Any, prefix: str, ends: tuple[str, str], inline: set[str]) -> tuple[bytes, int, int]:
    """Only nodes and initialisers, the large ones without data, names made unique, metadata (it holds paths) gone."""
    import onnx

    if model.functions or any(
        attribute.g.node or attribute.graphs for n in model.graph.node for attribute in n.attribute
    ):
        raise ExportError(f"{prefix}: local functions and nested graphs can't be put into a bundle")
    renamed = {model.graph.input[0].name: ends[0], model.graph.output[0].name: ends[1], "": ""}

    def name(old: str) -> str:
        return renamed.get(old, f"{prefix}.{old}")

    graph = onnx.GraphProto()
    for node in model.graph.node:
        new = graph.node.add(op_type=node.op_type, domain=node.domain, name=name(node.name))
        new.input.extend(map(name, node.input))
        new.output.extend(map(name, node.output))
        new.attribute.extend(node.attribute)
    for old in model.graph.initializer:
        tensor = graph.initializer.add(name=name(old.name), data_type=old.data_type, dims=old.dims)
        if old.name in inline:
            tensor.raw_data = onnx.numpy_helper.to_array(old).tobytes()
        else:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            size = int(np.prod(old.dims)) * 4
            for key, value in (("location", "bound"), ("offset", "0"), ("length", str(size))):
                tensor.external_data.add(key=key, value=value)
    if model.graph.output[0].name == model.graph.input[0].name:
        graph.node.add(op_type="Identity", name=f"{prefix}.identity", input=[ends[0]], output=[ends[1]])
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return onnx.ModelProto(graph=graph).SerializeToString(), model.ir_version, opset


def _fold(module: fx.GraphModule, node: fx.Node, bindings: dict[str, Binding], vectors: Arrays, prefix: str) -> None:
    """Into the layer before it where that is all the layer feeds, else as factor and summand of its own."""
    norm: Any = module.get_submodule(str(node.target))
    if norm.running_mean is None:
        raise ExportError(f"{node.target}: a batch norm without running statistics depends on the batch; use them")
    mean, var = _numpy(norm.running_mean), _numpy(norm.running_var)
    gamma = np.ones_like(mean) if norm.weight is None else _numpy(norm.weight)
    beta = np.zeros_like(mean) if norm.bias is None else _numpy(norm.bias)
    scale = (gamma.astype(np.float64) / np.sqrt(var.astype(np.float64) + norm.eps)).astype(np.float32)
    shift = (beta - mean * scale).astype(np.float32)
    before = node.all_input_nodes[0]
    layer: Any = module.get_submodule(str(before.target)) if before.op == "call_module" else None
    key = f"{prefix}/{node.target}"
    if layer is not None and _takes_up(layer) and len(before.users) == 1 and _uses(module, before) == 1:
        vectors[f"{key}.scale"] = scale
        bias = shift if layer.bias is None else (_numpy(layer.bias) * scale + shift).astype(np.float32)
        vectors[f"{key}.shift"] = bias
        weight = bindings[f"{before.target}.weight"]
        bindings[f"{before.target}.weight"] = Binding(weight.tensor, weight.slices, scale=f"{key}.scale")
        layer.bias = nn.Parameter(torch.from_numpy(bias))
        bindings[f"{before.target}.bias"] = Binding(f"{key}.shift", (None,))
        node.replace_all_uses_with(before)
        module.graph.erase_node(node)
    else:
        vectors[f"{key}.scale"], vectors[f"{key}.shift"] = scale, shift
        plain = f"{node.name}_scale_shift"
        module.add_submodule(plain, ScaleShift(torch.from_numpy(scale), torch.from_numpy(shift)))
        bindings[f"{plain}.scale"], bindings[f"{plain}.shift"] = (
            Binding(f"{key}.scale", (None,)),
            Binding(f"{key}.shift", (None,)),
        )
        node.target = plain


def _takes_up(layer: nn.Module) -> bool:
    """A convolution or linear layer that does nothing but that: a subclass may scale its weight itself."""
    plain = any(isinstance(layer, kind) and type(layer).forward is forward for kind, forward in FOLDS_INTO.items())
    return plain and not isinstance(layer, conv._ConvTransposeNd)


def _uses(module: fx.GraphModule, node: fx.Node) -> int:
    return sum(other.op == "call_module" and other.target == node.target for other in module.graph.nodes)


def _binding(source: Source, rank: int) -> Binding:
    return Binding(f"{source.layer}.{source.attribute}", source.slices or (None,) * rank)


def _find(value: NDArray[Any], bindings: Mapping[str, Binding], weights: Mapping[str, NDArray[Any]]) -> Binding | None:
    """The binding that an initialiser under another name equals, as it is or transposed."""
    for binding in bindings.values():
        bound = binding.array(dict(weights))
        if bound.shape == value.shape and np.array_equal(bound, value):
            return binding
        if value.ndim == 2 and bound.shape == value.shape[::-1] and np.array_equal(bound.T, value):
            return Binding(binding.tensor, binding.slices, (1, 0), binding.scale, binding.scale_axis)
    return None


def _copy_with_numbers(part: Part, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    from .supernet.supernet import with_numbers

    return with_numbers(part, {name: value.detach().float() for name, value in tensors.items()}).cpu().eval()


def _numpy(tensor: torch.Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().contiguous().numpy()


def _get(module: nn.Module, name: str) -> torch.Tensor:
    owner, _, attribute = name.rpartition(".")
    return getattr(module.get_submodule(owner), attribute)


def _set(module: nn.Module, name: str, value: torch.Tensor) -> None:
    owner, _, attribute = name.rpartition(".")
    layer = module.get_submodule(owner)
    setattr(layer, attribute, nn.Parameter(value) if attribute in layer._parameters else value)
