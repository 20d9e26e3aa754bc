"""Parts of a supernet as ONNX fragments: nodes, and the names of the weights they are bound to."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..runtime.manifest import Arrays, Binding, Fragment
from .errors import ExportError
from .fold import Bound

INLINE_ELEMENTS = 64  # constants up to this size stay in the graph; nothing that a width narrows is shared there
BATCH_MAX = 1 << 16
STANDARD = ("", "ai.onnx")  # both mean ONNX's own operators


@dataclass(frozen=True, slots=True)
class Job:
    """A part to compile: `example`, (2, …) what it takes; names of the tensors that come in and go out; `prefix` makes
    all other names unique."""

    bound: Bound
    example: torch.Tensor
    source: str
    result: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Graph:
    """A compiled part.

    `raw`: a serialised model of nodes and initialisers only; `own`: numbers that no binding of the part gives.
    """

    raw: bytes
    bindings: dict[str, Binding]
    own: Arrays
    ir_version: int
    opset: int


@dataclass(frozen=True, slots=True)
class Parts:
    """A bundle's contents before accuracies are known. `unshared_bytes`: of weights that only one width uses."""

    fragments: tuple[Fragment, ...]
    graphs: dict[str, bytes]
    weights: Arrays
    ir_version: int
    opset: int
    unshared_bytes: int


def tensors_of(bindings: Iterable[Binding]) -> set[str]:
    """Keys in the weights that the bindings name."""
    bindings = list(bindings)
    return {b.tensor for b in bindings} | {b.scale for b in bindings if b.scale is not None}


def compile_parts(jobs: Sequence[Job]) -> list[Graph]:
    """Compile bound parts to ONNX and check every initialiser against its binding.

    All of them go through torch's exporter side by side as one module, and the graph that comes out falls apart again:
    a call costs 0.6 s before it has looked at the module (for a part alone 0.7 s; for 29 parts of a small ResNet 4.7 s
    of processor time against 20).

    Raises:
        ExportError: an operation has no ONNX form, or an initialiser isn't what its binding says; names the part.
    """
    try:
        model = _onnx_model(jobs)
    except ExportError:
        for job in jobs:  # which of them it was
            with _about(job):
                _onnx_model([job])
        raise
    graphs = []
    for number, job in enumerate(jobs):
        with _about(job):
            graphs.append(_graph(model, number, job))
    return graphs


class _SideBySide(nn.Module):
    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return tuple(part(x) for part, x in zip(self.parts, inputs, strict=True))


def _onnx_model(jobs: Sequence[Job]) -> Any:
    """One ONNX model whose inputs and outputs are the jobs', in their order; each with a batch size of its own."""
    module = _SideBySide([job.bound.module for job in jobs]).eval()
    inputs = tuple(job.example.clone() for job in jobs)  # one tensor twice would be one input
    sizes = tuple({0: torch.export.Dim(f"batch{n}", min=1, max=BATCH_MAX)} for n in range(len(jobs)))
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(module, (inputs,), dynamo=True, dynamic_shapes=(sizes,), verbose=False)
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ExportError(f"no ONNX form: {reason}") from error
    if program is None:
        raise ExportError("torch's ONNX exporter gave nothing back")
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what the exporter logs and warns of, such as operators of packages that aren't there and
    deprecations inside it: nothing that a user could act on. Errors are raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _about(job: Job) -> Iterator[None]:
    try:
        yield
    except ExportError as error:
        raise ExportError(f"{job.prefix}: {error}") from error


def _graph(model: Any, number: int, job: Job) -> Graph:
    """One job's piece of the model."""
    source, result = model.graph.input[number].name, model.graph.output[number].name
    nodes, read = _ancestors(model.graph, result)
    if read & {other.name for other in model.graph.input} - {source}:
        raise ExportError("the exporter made its graph depend on another part's input")
    constants = [tensor for tensor in model.graph.initializer if tensor.name in read]
    bindings, own = _bindings(constants, number, job)

    def name(old: str) -> str:
        return {source: job.source, result: job.result, "": ""}.get(old, f"{job.prefix}.{old}")

    raw = _serialised([_renamed(node, name) for node in nodes], constants, bindings, name)
    if source == result:
        raw += _serialised([_identity(job)], [], {}, name)
    opset = next(entry.version for entry in model.opset_import if entry.domain in STANDARD)
    return Graph(raw, bindings, own, model.ir_version, opset)


def _ancestors(graph: Any, result: str) -> tuple[list[Any], set[str]]:
    """The nodes that make a tensor, in order, and the names of all that they read and of the tensor itself."""
    nodes, needed = [], {result}
    for node in reversed(graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(node.input)
    return nodes[::-1], needed


def _bindings(constants: Sequence[Any], number: int, job: Job) -> tuple[dict[str, Binding], Arrays]:
    """Where each initialiser comes from, by its name in the fragment; what no binding gives is the part's own, and
    what isn't named here stays inside the graph."""
    module = job.bound.module
    tensors = {k: v.detach().numpy() for k, v in [*module.named_parameters(), *module.named_buffers()]}
    bindings, own = {}, {}
    for tensor in constants:
        name, value = f"{job.prefix}.{tensor.name}", _array(tensor)
        known = tensor.name.removeprefix(f"parts.{number}.")
        if known in job.bound.bindings:
            if not np.array_equal(tensors[known], value):
                raise ExportError(f"the exporter changed {known}, which is bound")
            bindings[name] = job.bound.bindings[known]
        elif value.dtype == np.float32 and (found := _find(value, job.bound.bindings, tensors)):
            bindings[name] = found
        elif value.dtype == np.float32 and value.size > INLINE_ELEMENTS:
            own[name], bindings[name] = value, Binding(name, (None,) * value.ndim)
    return bindings, own


def _find(value: NDArray[Any], bindings: dict[str, Binding], tensors: Arrays) -> Binding | None:
    """The binding that an initialiser under another name equals, as it is or transposed."""
    for name, binding in bindings.items():
        if np.array_equal(tensors[name], value):
            return binding
        if value.ndim == 2 and binding.perm is None and np.array_equal(tensors[name].T, value):
            return replace(binding, perm=(1, 0))
    return None


def _renamed(node: Any, name: Callable[[str], str]) -> Any:
    """A copy without metadata, which holds paths of this machine."""
    import onnx

    if node.domain not in STANDARD or any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        raise ExportError(f"{node.domain}.{node.op_type}: only ONNX's own operators without nested graphs can be used")
    return onnx.NodeProto(
        op_type=node.op_type,
        name=name(node.name),
        input=map(name, node.input),
        output=map(name, node.output),
        attribute=node.attribute,
    )


def _identity(job: Job) -> Any:
    import onnx

    return onnx.NodeProto(op_type="Identity", name=f"{job.prefix}.identity", input=[job.source], output=[job.result])


def _serialised(
    nodes: Sequence[Any], constants: Sequence[Any], bindings: dict[str, Binding], name: Callable[[str], str]
) -> bytes:
    """Only nodes and initialisers, those that are bound without their numbers."""
    import onnx

    graph = onnx.GraphProto(node=nodes)
    for old in constants:
        if name(old.name) in bindings:
            graph.initializer.append(external(name(old.name), old.data_type, old.dims))
        else:
            graph.initializer.add(
                name=name(old.name), data_type=old.data_type, dims=old.dims, raw_data=_array(old).tobytes()
            )
    return onnx.ModelProto(graph=graph).SerializeToString(deterministic=True)


def external(name: str, data_type: int, dims: Sequence[int]) -> Any:
    """Declares an initialiser whose numbers are bound when the graph is loaded; `data_type` is ONNX's number."""
    import onnx

    tensor = onnx.TensorProto(name=name, data_type=data_type, dims=dims, data_location=onnx.TensorProto.EXTERNAL)
    size = onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize * int(np.prod(dims))
    for key, value in (("location", "bound"), ("offset", "0"), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def numbers_of(
    name: str, bindings: Mapping[str, Binding], constants: Mapping[str, Any], weights: Arrays
) -> NDArray[Any] | None:
    """An initialiser's numbers, bound or inside the graph; None of what is computed."""
    if name in bindings:
        return bindings[name].array(weights)
    return _array(constants[name]) if name in constants else None


def _array(tensor: Any) -> NDArray[Any]:
    import onnx

    return onnx.numpy_helper.to_array(tensor)
