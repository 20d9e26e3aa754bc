"""A traced network at one width, on the meta device: layers of that width's shapes, and sizes in the graph to match."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules import batchnorm, conv

from .channels import Channels, Ids, Layout, Width
from .function_rules import padded
from .graphs import argument, is_call
from .meta import meta_copy
from .trace import Traced, propagate

RESHAPES = ("view", "reshape", "expand", "unflatten", "broadcast_to")


def narrowed(traced: Traced, channels: Channels, width: Width) -> Traced:
    """The whole network at this width, or of these sizes, its stem too, without shapes. Nodes keep their names."""
    module = layers_of(traced.module)
    _narrow_layers(traced.module, module, channels, width)
    graph = fx.Graph()
    twins: dict[fx.Node, fx.Node] = {}
    for node in traced.graph.nodes:
        twins[node] = twin = graph.node_copy(node, lambda n: twins[n])
        if node.name in traced.shapes and node.op not in ("call_module", "placeholder", "get_attr"):
            _narrow_sizes(traced, channels, node, twin, width)
    return replace(traced, module=module, graph=graph, shapes={})


def with_shapes(narrow: Traced) -> Traced:
    """With the shapes that follow from those of the example and the layers.

    Raises:
        NodeError: an operation doesn't work at this width.
    """
    values = propagate(narrow.module, narrow.graph, narrow.example)
    shapes = {name: tuple(value.shape) for name, value in values.items() if isinstance(value, torch.Tensor)}
    return replace(narrow, shapes=shapes)


def layers_of(module: nn.Module) -> nn.Module:
    """A copy of a graph module's layers and parameters without its graph, on the meta device."""
    bare = nn.Module()
    bare._modules, bare._parameters, bare._buffers = module._modules, module._parameters, module._buffers
    copied: nn.Module = meta_copy(bare)
    return copied.train(module.training)


def _narrow_layers(full: nn.Module, narrow: nn.Module, channels: Channels, width: Width) -> None:
    """Give every layer of the copy the shapes and attributes that it has at this width."""
    names = {id(value): name for name, value in reversed(tensors_of(full))}
    for target, layer in full.named_modules(remove_duplicate=False):
        twin = narrow.get_submodule(target)
        for attribute, value in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
            axes = channels.parameters.get(names[id(value)], [None] * value.dim())
            shape = [_size(channels, ids, size, width) for ids, size in zip(axes, value.shape, strict=True)]
            if list(value.shape) != shape:
                empty = torch.empty(shape, dtype=value.dtype, device="meta")
                parameter = isinstance(value, nn.Parameter)
                setattr(twin, attribute, nn.Parameter(empty, value.requires_grad) if parameter else empty)
        if target:
            _set_attributes(twin, channels.groups_kept(target, width))


def tensors_of(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """All parameters and buffers by name, tied ones under each name."""
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def _size(channels: Channels, ids: Ids | None, full: int, width: Width) -> int:
    count = channels.count(ids, width)
    return full if count is None else count


def _set_attributes(layer: Any, groups: int | None) -> None:
    """Counts that torch's layers keep beside their weights. `groups`: how many a layer with groups keeps."""
    weight: Any = getattr(layer, "weight", None)
    if isinstance(layer, conv._ConvNd):
        layer.groups = layer.groups if groups is None else groups
        second = weight.shape[1] * layer.groups
        transposed = isinstance(layer, conv._ConvTransposeNd)
        ends = (weight.shape[0], second) if transposed else (second, weight.shape[0])
        layer.in_channels, layer.out_channels = ends
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    elif isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        layer.embedding_dim = weight.shape[1]
    elif isinstance(layer, batchnorm._NormBase) and groups is not None:
        layer.num_features = groups  # each channel is a group of its own
    elif isinstance(layer, nn.GroupNorm) and groups is not None:
        layer.num_groups = groups
        layer.num_channels = layer.num_channels if weight is None else len(weight)
    elif isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        whole = layer.normalized_shape if groups is None else (groups,)
        layer.normalized_shape = whole if weight is None else tuple(weight.shape)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(weight)


def _narrow_sizes(traced: Traced, channels: Channels, node: fx.Node, twin: fx.Node, width: Width) -> None:
    """Write this width's numbers where the graph names sizes or places of channels."""
    source = channels.layouts.get(node.all_input_nodes[0].name) if node.all_input_nodes else None
    result = channels.layouts.get(node.name)
    if is_call(node, *RESHAPES) and result is not None:
        twin.args = _resized(traced, node, twin.args, result, channels.count(result.ids, width) or 0)
    elif source is None:
        return
    elif is_call(node, "narrow") and _axis(traced, node, node.args[1]) == source.axis:
        start, length = node.args[2:4]
        places = _kept_before(channels, source, (int(start), int(start) + int(length)), width)  # type: ignore[arg-type]
        twin.args = (*twin.args[:2], places[0], places[1] - places[0])
    elif is_call(node, "getitem"):
        twin.args = (twin.args[0], _resliced(channels, source, twin.args[1], width))
    elif is_call(node, "pad", "_pad"):
        _repad(traced, channels, node, twin, source, width)


def _resized(traced: Traced, node: fx.Node, args: tuple[Any, ...], result: Layout, count: int) -> tuple[Any, ...]:
    """The sizes of a view with the one on the channels' axis replaced."""
    listed = len(args) == 2 and isinstance(args[1], (tuple, list))
    sizes: list[Any] = list(args[1] if listed else args[1:])
    if is_call(node, "unflatten") or len(sizes) != len(traced.shapes[node.name]):
        return args
    if isinstance(sizes[result.axis], int) and sizes[result.axis] != -1:
        sizes[result.axis] = count
    return (args[0], tuple(sizes)) if listed else (args[0], *sizes)


def _resliced(channels: Channels, source: Layout, index: Any, width: Width) -> Any:
    """An index with the slice on the channels' axis moved to where those channels are now."""
    items = list(index) if isinstance(index, tuple) else [index]
    if source.axis >= len(items) or any(not isinstance(item, slice) for item in items[: source.axis + 1]):
        return index
    taken: slice = items[source.axis]
    if taken == slice(None) or any(isinstance(end, fx.Node) for end in (taken.start, taken.stop, taken.step)):
        return index
    start, stop, step = taken.indices(len(source.ids))
    first, last = _kept_before(channels, source, (start, max(start, stop)), width)
    items[source.axis] = slice(first, last, step)
    return tuple(items) if isinstance(index, tuple) else items[0]


def _kept_before(channels: Channels, layout: Layout, places: Sequence[int], width: Width) -> tuple[int, ...]:
    """How many of the channels before each of these places are used."""
    used = channels.indices(layout.ids, width)
    return tuple(place if used is None else int((used < place).sum()) for place in places)


def _repad(traced: Traced, channels: Channels, node: fx.Node, twin: fx.Node, source: Layout, width: Width) -> None:
    """A pad of the channels adds as many as are used of those that it added."""
    rank = len(traced.shapes[node.name])
    before, after = padded(node, source.axis, rank)
    result = channels.layouts.get(node.name)
    if result is None or before == after == 0:
        return
    pads: list[Any] = list(argument(node, 1, "pad", ()))
    count = len(result.ids)
    ends = _kept_before(channels, result, (before, count - after, count), width)
    place = 2 * (rank - 1 - source.axis)
    pads[place], pads[place + 1] = ends[0], ends[2] - ends[1]
    if len(twin.args) > 1:
        twin.args = (twin.args[0], tuple(pads), *twin.args[2:])
    else:
        twin.kwargs = {**twin.kwargs, "pad": tuple(pads)}


def _axis(traced: Traced, node: fx.Node, axis: Any) -> int:
    return int(axis) % len(traced.shapes[node.name])
