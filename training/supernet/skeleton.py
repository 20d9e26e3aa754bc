"""Static parts of a supernet at one width: each stage's body and head, with no numbers of their own."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.func import functional_call
from torch.nn.modules import batchnorm, conv

from .channels import Channels, Ids, ranges
from .cuts import Cut
from .trace import Traced, propagate

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Where one of a part's tensors comes from: `layer.attribute` of the shared network, these runs of each axis."""

    name: str
    layer: str
    attribute: str
    slices: tuple[Ranges | None, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One body or head at one width. `module` has parameters on the meta device only: shapes, no numbers."""

    module: fx.GraphModule
    sources: tuple[Source, ...]
    _idle: list[fx.GraphModule] = field(default_factory=list)

    def run(self, tensors: dict[str, torch.Tensor], x: torch.Tensor, training: bool) -> torch.Tensor:
        """The part on these numbers. Each call has a module to itself, since `functional_call` swaps them in for the
        time of the call, which two threads must not do to one module."""
        try:
            module = self._idle.pop()
        except IndexError:
            module = copy.deepcopy(self.module)
        if module.training != training:
            module.train(training)
        result = functional_call(module, tensors, (x,), strict=True)
        self._idle.append(module)
        return result


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Bodies of stages 1 … D - 1 and heads of exits 1 … D, at one width; the last head is the network's own."""

    bodies: tuple[Part, ...]
    heads: tuple[Part, ...]


def narrowed(traced: Traced, channels: Channels, width: float) -> Traced:
    """The whole graph at this width, on the meta device; its stem is narrowed too.

    Raises:
        NodeError: an operation doesn't work at this width.
    """
    module = copy.deepcopy(traced.module).to("meta")
    narrow_layers(module, channels, width)
    values = propagate(module, traced.example)
    shapes = {name: tuple(value.shape) for name, value in values.items() if isinstance(value, torch.Tensor)}
    return Traced(module, traced.example, shapes, traced.batch_sizes, traced.notes)


def build_stem(traced: Traced, stem: Cut) -> Part:
    """The stem, full width."""
    nodes = _by_name(traced)
    keep = ancestors(nodes[stem.node])
    full = copy.deepcopy(traced.module).to("meta")
    return _part(traced, full, keep, None, nodes[stem.node], lambda name: ())


def build_skeleton(traced: Traced, channels: Channels, stem: Cut, exits: Sequence[Cut], width: float) -> Skeleton:
    """Every stage at one width; the first one narrows the stem's tensor itself."""
    nodes = _by_name(traced)
    narrow = copy.deepcopy(traced.module).to("meta")
    narrow_layers(narrow, channels, width)
    answers = next(node for node in reversed(traced.module.graph.nodes) if node.op == "output").args[0]
    ends = [nodes[cut.node] for cut in (stem, *exits)]

    def slices(name: str) -> tuple[Ranges | None, ...]:
        axes = channels.parameters.get(name, [])
        kept = [channels.indices(ids, width) for ids in axes]
        return tuple(None if k is None else tuple(ranges(k)) for k in kept)

    def part(start: fx.Node, end: fx.Node, first: bool) -> Part:
        keep = ancestors(end) - ancestors(start)
        taken = _stem_ranges(channels, start, width) if first else None
        return _part(traced, narrow, keep, start, end, slices, taken)

    bodies = [part(a, b, a is ends[0]) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    heads = [part(node, answer, False) for node, answer in zip(ends[1:], answers, strict=False)]
    return Skeleton(tuple(bodies), (*heads, part(ends[-1], answers[-1], len(ends) == 1)))


def narrow_layers(module: fx.GraphModule, channels: Channels, width: float) -> None:
    """Give every layer of a copy on the meta device the shapes and attributes it has at this width."""
    names = {id(value): name for name, value in reversed(list(_tensors(module)))}
    for target, layer in module.named_modules():
        for attribute, value in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
            axes = channels.parameters.get(names[id(value)], [None] * value.dim())
            shape = [_size(channels, ids, full, width) for ids, full in zip(axes, value.shape, strict=True)]
            _set_shape(layer, attribute, shape)
        if target:
            _set_attributes(layer)


def take(tensor: torch.Tensor, slices: tuple[Ranges | None, ...]) -> torch.Tensor:
    """A view of these runs of each axis; a copy only where an axis has several runs."""
    for axis, runs in enumerate(slices):
        if runs is not None:
            pieces = [tensor.narrow(axis, start, stop - start) for start, stop in runs]
            tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces, axis)
    return tensor


def _size(channels: Channels, ids: Ids | None, full: int, width: float) -> int:
    count = channels.count(ids, width)
    return full if count is None else count


def _set_shape(layer: nn.Module, attribute: str, shape: list[int]) -> None:
    value = getattr(layer, attribute)
    if list(value.shape) != shape:
        empty = torch.empty(shape, dtype=value.dtype, device="meta")
        setattr(
            layer, attribute, nn.Parameter(empty, value.requires_grad) if isinstance(value, nn.Parameter) else empty
        )


def _set_attributes(layer: Any) -> None:
    """Counts that torch's layers keep beside their weights."""
    weight = getattr(layer, "weight", None)
    if isinstance(layer, conv._ConvNd):
        transposed = isinstance(layer, conv._ConvTransposeNd)
        full_in, full_out = layer.in_channels, layer.out_channels
        if layer.groups > 1:
            now, before = weight.shape[0], full_in if transposed else full_out
            layer.groups = layer.groups * now // before
        per_group = weight.shape[1] * layer.groups
        layer.in_channels, layer.out_channels = (
            (weight.shape[0], per_group) if transposed else (per_group, weight.shape[0])
        )
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    elif isinstance(layer, batchnorm._NormBase) and weight is not None:
        layer.num_features = len(weight)
    elif isinstance(layer, nn.GroupNorm) and weight is not None:
        layer.num_groups = layer.num_groups * len(weight) // layer.num_channels
        layer.num_channels = len(weight)
    elif isinstance(layer, nn.LayerNorm) and weight is not None:
        layer.normalized_shape = tuple(weight.shape)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(weight)


def _stem_ranges(channels: Channels, stem: fx.Node, width: float) -> tuple[int, Ranges] | None:
    """The axis and the runs that a width uses of the stem's tensor, None for all of it."""
    layout = channels.layouts.get(stem.name)
    kept = channels.indices(layout.ids, width) if layout else None
    return (layout.axis, tuple(ranges(kept))) if layout and kept is not None else None


def _part(
    traced: Traced,
    layers: fx.GraphModule,
    keep: set[fx.Node],
    start: fx.Node | None,
    end: fx.Node,
    slices: Any,
    taken: tuple[int, Ranges] | None = None,
) -> Part:
    """The nodes in `keep` as a module of one tensor, from `start`'s to `end`'s."""
    graph = fx.Graph()
    source = graph.placeholder("x")
    entry = source if taken is None else _narrowed(graph, source, *taken)
    new: dict[fx.Node, fx.Node] = {} if start is None else {start: entry}
    for node in traced.module.graph.nodes:
        if node.op == "placeholder" and start is None and node in keep:
            new[node] = source
        elif node in keep and node is not start:
            new[node] = graph.node_copy(node, lambda n: new[n])
        elif node.name in traced.batch_sizes and any(user in keep for user in node.users):
            new[node] = graph.call_method("size", (source, 0))
        elif node.op == "get_attr" and any(user in keep for user in node.users):
            new[node] = graph.node_copy(node)
    graph.output(new[end])
    module = fx.GraphModule(layers, graph)
    first = {id(value): name for name, value in reversed(list(_tensors(layers)))}
    shared = {name: first[id(value)] for name, value in _tensors(layers)}
    sources = []
    for name, _ in _tensors(module):
        layer, _, attribute = shared[name].rpartition(".")
        sources.append(Source(name, layer, attribute, slices(shared[name])))
    return Part(module, tuple(sources))


def _narrowed(graph: fx.Graph, source: fx.Node, axis: int, runs: Ranges) -> fx.Node:
    pieces = [graph.call_method("narrow", (source, axis, start, stop - start)) for start, stop in runs]
    return pieces[0] if len(pieces) == 1 else graph.call_function(torch.cat, (pieces, axis))


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """All parameters and buffers by name, tied ones under each name."""
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def _by_name(traced: Traced) -> dict[str, fx.Node]:
    return {node.name: node for node in traced.module.graph.nodes}


def ancestors(node: fx.Node) -> set[fx.Node]:
    """The node itself and everything it is computed from."""
    seen: set[fx.Node] = set()
    stack = [node]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(node.all_input_nodes)
    return seen
