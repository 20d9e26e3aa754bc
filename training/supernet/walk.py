"""The walk over a traced graph that joins, opens and fixes channels; what each operation does is told by rules."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from .channels import FULL, Channels, Findings, Ids, Kept, Layout
from .graphs import name_of
from .trace import Traced

Rule = Callable[["Walk", fx.Node], Layout | None]


class Walk(Findings):
    """One pass over the graph.

    `forced`: node name → reason, for nodes whose tensors a check found wrong: they stay at full width.
    `within`: layers with groups that narrow inside of every group instead of losing whole ones.
    """

    def __init__(
        self, traced: Traced, forced: Mapping[str, str] | None = None, within: frozenset[str] = frozenset()
    ) -> None:
        super().__init__()
        self.traced, self.forced, self.within = traced, forced or {}, within
        self.shapes = traced.shapes
        named = [*traced.module.named_parameters(), *traced.module.named_buffers()]
        self._names = {id(value): name for name, value in reversed(named)}

    def run(self, layers: "Rules", functions: Mapping[str, Rule]) -> Channels:
        """The channels of the whole network, by the rules for its layers and functions."""
        for node in self.traced.graph.nodes:
            layout = self._visit(node, layers, functions)
            self.layouts[node.name] = layout
            if node.name in self.forced:
                self.fix(node, self.forced[node.name], node, *self.inputs(node))
                if node.op == "get_attr":
                    self.fix_parameter(self.name_of(str(node.target)))
        return Channels(self)

    def _visit(self, node: fx.Node, layers: "Rules", functions: Mapping[str, Rule]) -> Layout | None:
        if node.op == "output":
            for answer in self.inputs(node):
                self.fixed(self.layouts[answer.name])
        if node.op == "get_attr" and node.name in self.shapes:
            return self._parameter(node)
        if node.op in ("placeholder", "get_attr", "output"):
            return None
        inputs = self.inputs(node)
        rule = layers(self.traced.layer(node)) if node.op == "call_module" else functions.get(name_of(node))
        if node.name in self.shapes and rule is not None:
            return rule(self, node) if inputs else None
        if node.name in self.shapes or name_of(node) not in SIZES:
            self.fix(node, f"{_spoken(self.traced, node)} isn't understood", *inputs)
        return None

    def _parameter(self, node: fx.Node) -> Layout | None:
        """A parameter used directly: channels of its own on the one axis that it has, joined with what it meets."""
        name, shape = self.name_of(str(node.target)), self.shapes[node.name]
        known = self.parameters.get(name, [None] * len(shape))
        axes = [axis for axis, ids in enumerate(known) if ids is not None]
        axes = axes or [axis for axis, size in enumerate(shape) if size > 1]
        if len(axes) > 1 and name in self.parameters:
            self.fix_parameter(name)
        if len(axes) != 1:
            return None
        self.bind(name, axes[0], self.partition.open(shape[axes[0]]))
        return self.bound(node, axes[0])

    def bound(self, node: fx.Node, axis: int) -> Layout | None:
        """The layout of a parameter used directly, whose axis carries channels."""
        ids = self.parameters[self.name_of(str(node.target))][axis]
        return None if ids is None else Layout(axis, ids)

    def fix_parameter(self, name: str) -> None:
        """Keep all of a parameter's axes at full width."""
        for ids in self.parameters.get(name, []):
            if ids is not None:
                self.partition.fix(ids)

    def inputs(self, node: fx.Node) -> list[fx.Node]:
        """The nodes of tensors that a node reads, in order."""
        return [source for source in node.all_input_nodes if source.name in self.shapes]

    def layout(self, node: Any) -> Layout | None:
        return self.layouts.get(node.name) if isinstance(node, fx.Node) else None

    def fix(self, node: fx.Node, reason: str, *sources: fx.Node) -> None:
        """Keep the channels of these tensors at full width; say why where that changes anything."""
        news = [self.partition.fix(layout.ids) for layout in map(self.layout, sources) if layout is not None]
        if any(news):
            self.keep(node, reason)

    def keep(self, node: fx.Node, reason: str) -> None:
        """Say that something stays at full width here."""
        self.kept.append(Kept(str(node.target) if node.op == "call_module" else node.name, reason))

    def fixed(self, layout: Layout | None) -> Layout | None:
        if layout is not None:
            self.partition.fix(layout.ids)
        return layout

    def bind(self, name: str, axis: int, ids: Ids) -> None:
        """This axis of a parameter or buffer carries these channels; a second use joins the first."""
        axes = self.parameters.setdefault(name, [None] * self.tensor(name).dim())
        known = axes[axis]
        if known is None:
            axes[axis] = ids
        else:
            self.partition.join(known, ids)

    def tensor(self, name: str) -> torch.Tensor:
        owner, _, last = name.rpartition(".")
        value: torch.Tensor = getattr(self.traced.module.get_submodule(owner), last)
        return value

    def name_of(self, name: str) -> str:
        """The name under which a parameter is known: that of its first use, where it is tied."""
        return self._names.get(id(self.tensor(name)), name)

    def own(self, node: fx.Node) -> Iterator[tuple[str, torch.Tensor]]:
        """The layer's parameters and buffers under the names by which they are known."""
        layer: nn.Module = self.traced.layer(node)
        for name, value in [*layer.named_parameters(), *layer.named_buffers()]:
            yield self.name_of(f"{node.target}.{name}"), value

    def own_name(self, node: fx.Node, name: str) -> str | None:
        """The name by which the layer's parameter `name` is known, None where it has none."""
        value = getattr(self.traced.layer(node), name, None)
        return None if value is None else self.name_of(f"{node.target}.{name}")

    def bind_own(self, node: fx.Node, name: str, axis: int, ids: Ids) -> None:
        known = self.own_name(node, name)
        if known is not None:
            self.bind(known, axis, ids)

    def open(self, node: fx.Node, count: int) -> Ids:
        """Channels for a layer's output; the same ones at every call of the layer."""
        key = self.own_name(node, "weight") or str(node.target)
        if key not in self.opened:
            self.opened[key] = self.partition.open(count)
        return self.opened[key]

    def tie(self, node: fx.Node, groups: int, ids: Ids) -> Ids:
        """Channels of a layer with groups: whole groups, or the same places of every group. Returns (groups, …) ids."""
        rows = ids.reshape(groups, -1)
        for together in rows.T if str(node.target) in self.within else rows:
            self.partition.merge(together)
        return rows


Rules = Callable[[nn.Module], Rule | None]
SIZES = ("size", "dim", "ndim", "getattr", "numel", "len", "stride", "is_contiguous")  # these leave channels alone


def same_shape(walk: Walk, node: fx.Node, source: Layout) -> Layout | None:
    """The input's layout where the output still has as many channels there."""
    shape = walk.shapes[node.name]
    if len(shape) > source.axis and shape[source.axis] == len(source.ids):
        return source
    walk.fix(node, f"{name_of(node)} changes the number of channels", *walk.inputs(node)[:1])
    return None


def channels_at(walk: Walk, node: fx.Node, axis: int) -> Layout | None:
    """The input's layout if it lies on this axis; on another one its channels are fixed."""
    source = walk.layout(node.all_input_nodes[0])
    if source is None or source.axis == axis:
        return source
    walk.fix(node, f"channels on axis {source.axis}, the layer works on axis {axis}", node.all_input_nodes[0])
    return None


def full_ids(count: int) -> Ids:
    """Ids of channels that all stay."""
    return np.full(count, FULL)


def _spoken(traced: Traced, node: fx.Node) -> str:
    return type(traced.layer(node)).__name__ if node.op == "call_module" else name_of(node)
