"""How channels pass through torch's layers."""

from typing import Any

import numpy as np
from torch import fx, nn
from torch.nn.modules import (
    activation,
    batchnorm,
    channelshuffle,
    conv,
    dropout,
    flatten,
    instancenorm,
    padding,
    pixelshuffle,
    pooling,
    sparse,
    upsampling,
)

from .channels import Ids, Layout
from .moving import moving
from .walk import Rule, Walk, channels_at, full_ids, same_shape

PASSING = (activation, dropout)
SPATIAL = (pooling, padding, upsampling)
MOVING = (flatten, pixelshuffle, channelshuffle)
NORMS = (batchnorm._BatchNorm, instancenorm._InstanceNorm)


def rule_of(layer: nn.Module) -> Rule | None:
    """The rule for a layer or a subclass of it; None where there is none."""
    for kinds, rule in RULES:
        if isinstance(layer, kinds):
            return rule
    homes = {kind.__module__ for kind in type(layer).__mro__}
    if list(layer.parameters()) or isinstance(layer, (nn.MultiheadAttention, nn.GLU)):
        return None
    for modules, rule in HOMES:
        if any(module.__name__ in homes for module in modules):
            return rule
    return None


def convolution(walk: Walk, node: fx.Node) -> Layout | None:
    """A convolution opens channels; one with groups ties them, and its weight holds one group's on its second axis."""
    layer: Any = walk.traced.layer(node)
    source = channels_at(walk, node, axis=1)
    ids = _opened(walk, node, layer.out_channels)
    if ids is None:
        return None
    ins: Ids | None = None if source is None else source.ids
    outs: Ids | None = ids
    transposed = isinstance(layer, conv._ConvTransposeNd)
    if layer.groups > 1:
        first_ins, first_outs = _tie(walk, node, layer.groups, ins, ids)
        ins, outs = (ins, first_outs) if transposed else (first_ins, outs)
    _bind_weights(walk, node, (ins, outs) if transposed else (outs, ins))
    walk.bind_own(node, "bias", 0, ids)
    return Layout(1, ids)


def _bind_weights(walk: Walk, node: fx.Node, sides: tuple[Ids | None, Ids | None]) -> None:
    """The weight, and whatever has its shape, carries these channels on its first two axes."""
    layer: nn.Module = walk.traced.layer(node)
    for name, value in [*layer.named_parameters(), *layer.named_buffers()]:
        for axis, side in enumerate(sides):
            if side is not None and value.dim() > 1:
                walk.bind_own(node, name, axis, side)


def _tie(walk: Walk, node: fx.Node, groups: int, ins: Ids | None, outs: Ids) -> tuple[Ids | None, Ids | None]:
    """Tie a grouped layer's channels. Returns those of one group, in and out, where they can be narrowed within it."""
    rows = walk.rows[str(node.target)] = walk.tie(node, groups, outs)
    before = full_ids(groups).reshape(groups, 1) if ins is None else walk.tie(node, groups, ins)
    if str(node.target) in walk.within:
        return (None if ins is None else before[0]), rows[0]
    for row, row_before in zip(rows, before, strict=True):
        walk.partition.merge(np.concatenate([row, row_before]))
    if ins is None:
        walk.keep(node, "a convolution with groups on a tensor that stays at full width")
    return None, None


def linear(walk: Walk, node: fx.Node) -> Layout | None:
    """A linear layer opens features on the last axis."""
    layer: Any = walk.traced.layer(node)
    last = len(walk.shapes[node.name]) - 1
    source = channels_at(walk, node, axis=last)
    ids = _opened(walk, node, layer.out_features)
    if ids is None:
        return None
    _bind_weights(walk, node, (ids, None if source is None else source.ids))
    walk.bind_own(node, "bias", 0, ids)
    return Layout(last, ids)


def _opened(walk: Walk, node: fx.Node, count: int) -> Ids | None:
    """Channels for the output; None where the layer has tensors whose use isn't known: others than weight and bias,
    and what has the weight's shape (a mask)."""
    layer: Any = walk.traced.layer(node)
    own = {name: value.shape for name, value in [*layer.named_parameters(), *layer.named_buffers()]}
    if "weight" in own and all(name == "bias" or shape == own["weight"] for name, shape in own.items()):
        return walk.open(node, count)
    walk.fix(node, f"{type(layer).__name__} has tensors of its own kind", *walk.inputs(node))
    return None


def embedding(walk: Walk, node: fx.Node) -> Layout | None:
    """An embedding opens features on the last axis."""
    layer: Any = walk.traced.layer(node)
    ids = walk.open(node, layer.embedding_dim)
    walk.bind_own(node, "weight", 1, ids)
    return Layout(len(walk.shapes[node.name]) - 1, ids)


def batch_norm(walk: Walk, node: fx.Node) -> Layout | None:
    """Batch and instance norms pass channels on; all their vectors carry them."""
    source = channels_at(walk, node, axis=1)
    if source is None:
        return None
    walk.rows[str(node.target)] = source.ids.reshape(-1, 1)
    for name, value in walk.own(node):
        if value.dim() == 1 and len(value) == len(source.ids):
            walk.bind(name, 0, source.ids)
    return source


def group_norm(walk: Walk, node: fx.Node) -> Layout | None:
    """A group norm loses whole groups, or channels in every group."""
    layer: Any = walk.traced.layer(node)
    source = channels_at(walk, node, axis=1)
    if source is None:
        return None
    walk.rows[str(node.target)] = walk.tie(node, layer.num_groups, source.ids)
    for name in ("weight", "bias"):
        walk.bind_own(node, name, 0, source.ids)
    return source


def layer_norm(walk: Walk, node: fx.Node) -> Layout | None:
    """A layer norm over the channels narrows with them; one over other axes leaves them alone.

    A subclass that norms axis 1 of an image (with its own forward) has one vector as long as the channels.
    """
    layer: Any = walk.traced.layer(node)
    source = walk.layout(node.all_input_nodes[0])
    if source is None:
        return None
    rank, normed = len(walk.shapes[node.name]), len(layer.normalized_shape)
    place = source.axis - (rank - normed) if type(layer).forward in KNOWN_FORWARDS else 0
    if place >= 0 and layer.normalized_shape[place] != len(source.ids):
        walk.fix(node, "a layer norm over other sizes", node.all_input_nodes[0])
    elif place >= 0:
        for name in ("weight", "bias"):
            walk.bind_own(node, name, place, source.ids)
        if normed == 1:
            walk.rows[str(node.target)] = source.ids.reshape(-1, 1)
    return same_shape(walk, node, source)


def prelu(walk: Walk, node: fx.Node) -> Layout | None:
    """A PReLU may have a slope for each channel."""
    source = channels_at(walk, node, axis=1)
    if source is not None and walk.traced.layer(node).num_parameters > 1:
        walk.bind_own(node, "weight", 0, source.ids)
    return source


def passing(walk: Walk, node: fx.Node) -> Layout | None:
    """One tensor in, its channels out where the shape still has them."""
    source = walk.layout(node.all_input_nodes[0])
    return None if source is None else same_shape(walk, node, source)


def spatial(walk: Walk, node: fx.Node) -> Layout | None:
    """Pooling, padding and resizing leave the channels alone if they work on other axes: those from the third on."""
    source = walk.layout(node.all_input_nodes[0])
    if source is not None and source.axis > len(walk.shapes[node.name]) - 1 - _spatial_axes(walk, node):
        walk.fix(node, f"works on axis {source.axis}, which has the channels", node.all_input_nodes[0])
        return None
    return None if source is None else same_shape(walk, node, source)


def _spatial_axes(walk: Walk, node: fx.Node) -> int:
    """How many of the last axes a pooling works on: MaxPool2d on 2; where the name doesn't say, on all but two."""
    named = [
        c for kind in type(walk.traced.layer(node)).__mro__ for c in kind.__name__[-2:-1] if kind.__name__[-1] == "d"
    ]
    digits = [int(c) for c in named if c.isdigit()]
    return digits[0] if digits else len(walk.shapes[node.name]) - 2


def local_response_norm(walk: Walk, node: fx.Node) -> Layout | None:
    """Each channel is scaled by its neighbours: a width may leave out the last ones, but none may change places."""
    source = channels_at(walk, node, axis=1)
    if source is not None:
        walk.ordered[node.name] = source.ids
    return source


KNOWN_FORWARDS = (nn.LayerNorm.forward, nn.RMSNorm.forward)
RULES: list[tuple[tuple[type, ...], Rule]] = [
    ((conv._ConvNd,), convolution),
    ((nn.Linear,), linear),
    ((sparse.Embedding, sparse.EmbeddingBag), embedding),
    (NORMS, batch_norm),
    ((nn.GroupNorm,), group_norm),
    ((nn.LayerNorm, nn.RMSNorm), layer_norm),
    ((nn.PReLU,), prelu),
    ((nn.LocalResponseNorm,), local_response_norm),
    ((nn.Identity,), passing),
]
HOMES = [(PASSING, passing), (SPATIAL, spatial), (MOVING, moving)]
