"""Static parts of a supernet at one width: each stage's body and head, with no numbers of their own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import fx

from .channels import Channels, ranges
from .cuts import Cut
from .narrow import layers_of, tensors_of
from .trace import Traced

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Where one of a part's tensors comes from: `layer.attribute` of the shared network, these runs of each axis."""

    name: str
    layer: str
    attribute: str
    slices: tuple[Ranges | None, ...]
    path: tuple[str, ...]  # the layer's, name by name


@dataclass(frozen=True, slots=True)
class Part:
    """One body or head at one width. `module` has parameters on the meta device only: shapes, no numbers."""

    module: fx.GraphModule
    sources: tuple[Source, ...]
    _idle: list["_Worker"] = field(default_factory=list)

    def run(self, tensors: dict[str, torch.Tensor], x: torch.Tensor, training: bool) -> torch.Tensor:
        """The part on these numbers, one for each of its sources.

        Each call has a worker to itself, since it puts the numbers into layers for the time of the call, which two
        threads must not do to the same ones.
        """
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker(self.module, [source.name for source in self.sources])
        result = worker.run(tensors, x, training)
        self._idle.append(worker)
        return result


class _Worker:
    """A copy of a part's layers to lend numbers to: what `torch.func.functional_call` does, in a third of its time."""

    def __init__(self, module: fx.GraphModule, names: Sequence[str]) -> None:
        self._forward = type(module).forward
        self._layers = layers_of(module)
        self._slots: list[tuple[str, dict[str, Any], str, torch.Tensor]] = []
        for name in names:
            owner, _, attribute = name.rpartition(".")
            layer = self._layers.get_submodule(owner)
            slots: dict[str, Any] = layer._parameters if attribute in layer._parameters else layer._buffers
            self._slots.append((name, slots, attribute, slots[attribute]))

    def run(self, tensors: dict[str, torch.Tensor], x: torch.Tensor, training: bool) -> torch.Tensor:
        if self._layers.training != training:
            self._layers.train(training)
        try:
            for name, slots, attribute, _ in self._slots:
                slots[attribute] = tensors[name]
            result: torch.Tensor = self._forward(self._layers, x)
        finally:
            for _, slots, attribute, empty in self._slots:
                slots[attribute] = empty
        return result


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Bodies of stages 1 … D - 1 and heads of exits 1 … D, at one width; the last head is the network's own."""

    bodies: tuple[Part, ...]
    heads: tuple[Part, ...]


def build_stem(traced: Traced, bare: Traced, stem: Cut) -> Part:
    """The stem, full width; `bare`: the network at full width without numbers."""
    end = _by_name(bare)[stem.node]
    return _Builder(traced, bare, None, 1.0).part(None, end)


def build_skeleton(
    traced: Traced, narrow: Traced, channels: Channels, stem: Cut, exits: Sequence[Cut], width: float
) -> Skeleton:
    """Every stage at one width; the first one narrows the stem's tensor itself. `narrow`: the network at this width."""
    nodes, answers = _by_name(narrow), narrow.answers
    ends = [nodes[cut.node] for cut in (stem, *exits)]
    builder = _Builder(traced, narrow, channels, width)
    taken = _stem_ranges(channels, stem.node, width)
    bodies = [builder.part(a, b, taken if a is ends[0] else None) for a, b in pairwise(ends)]
    heads = [builder.part(node, answer) for node, answer in zip(ends[1:], answers, strict=False)]
    last = builder.part(ends[-1], answers[-1], taken if len(ends) == 1 else None)
    return Skeleton(tuple(bodies), (*heads, last))


def take(tensor: torch.Tensor, slices: tuple[Ranges | None, ...]) -> torch.Tensor:
    """A view of these runs of each axis; a copy only where an axis has several runs."""
    for axis, runs in enumerate(slices):
        if runs is not None:
            pieces = [narrowed_view(tensor, axis, start, stop - start) for start, stop in runs]
            tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces, axis)
    return tensor


def narrowed_view(x: torch.Tensor, axis: int, start: int, length: int) -> torch.Tensor:
    """`Tensor.narrow`, whose gradient lies in memory as `x` does: torch's own is never channels-last, and adding it to
    the other widths' gradients would then take several times as long."""
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1).narrow((0, 3, 1, 2)[axis], start, length).permute(0, 3, 1, 2)
    return x.narrow(axis, start, length)


def _stem_ranges(channels: Channels, stem: str, width: float) -> tuple[int, Ranges] | None:
    """The axis and the runs that a width uses of the stem's tensor, None for all of it."""
    layout = channels.layouts.get(stem)
    kept = channels.indices(layout.ids, width) if layout else None
    return (layout.axis, tuple(ranges(kept))) if layout and kept is not None else None


class _Builder:
    """Makes parts of one width. `channels` None: full width, nothing is sliced."""

    def __init__(self, traced: Traced, narrow: Traced, channels: Channels | None, width: float) -> None:
        self.narrow, self.channels, self.width = narrow, channels, width
        first = {id(value): name for name, value in reversed(tensors_of(traced.module))}
        self._shared = {name: first[id(value)] for name, value in tensors_of(traced.module)}

    def part(self, start: fx.Node | None, end: fx.Node, taken: tuple[int, Ranges] | None = None) -> Part:
        """What leads from one node's tensor to another's as a module of one tensor.

        `start` None: from the network's input. `taken`: what the part first takes of the tensor that comes in.
        """
        keep = ancestors(end) - (ancestors(start) if start else set())
        graph = fx.Graph()
        source = graph.placeholder("x")
        new = {} if start is None else {start: source if taken is None else _narrowed(graph, source, *taken)}
        for node in self.narrow.graph.nodes:
            used = any(user in keep for user in node.users)
            if node.op == "placeholder" and start is None and node in keep:
                new[node] = source
            elif node.name in self.narrow.batch_sizes and used:
                new[node] = graph.call_method("size", (source, 0))
            elif node in keep or (node.op == "get_attr" and used):
                new[node] = graph.node_copy(node, lambda n: new[n])
        graph.output(new[end])
        module = fx.GraphModule(self.narrow.module, graph)
        module.train(self.narrow.module.training)
        return Part(module, tuple(self._source(name) for name, _ in tensors_of(module)))

    def _source(self, name: str) -> Source:
        shared = self._shared[name]
        layer, _, attribute = shared.rpartition(".")
        axes = self.channels.parameters.get(shared, []) if self.channels else []
        kept = [self.channels.indices(ids, self.width) for ids in axes] if self.channels else []
        slices = tuple(None if k is None else tuple(ranges(k)) for k in kept)
        return Source(name, layer, attribute, slices, tuple(layer.split(".")) if layer else ())


def _narrowed(graph: fx.Graph, source: fx.Node, axis: int, runs: Ranges) -> fx.Node:
    pieces = [graph.call_function(narrowed_view, (source, axis, start, stop - start)) for start, stop in runs]
    return pieces[0] if len(pieces) == 1 else graph.call_function(torch.cat, (pieces, axis))


def plain(module: fx.GraphModule) -> fx.GraphModule:
    """The module with torch's own operations alone, which others' tools can trace."""
    for node in module.graph.nodes:
        if node.target is narrowed_view:
            node.op, node.target = "call_method", "narrow"
    module.recompile()
    return module


def _by_name(traced: Traced) -> dict[str, fx.Node]:
    return {node.name: node for node in traced.graph.nodes}


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
