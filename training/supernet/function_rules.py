"""How channels pass through functions and methods of tensors."""

from typing import Any

import numpy as np
from torch import fx

from .channels import Layout
from .graphs import argument, name_of
from .layer_rules import local_response_norm, passing
from .moving import MOVES, moving
from .walk import Rule, Walk, same_shape

ELEMENTWISE = tuple(
    """
    relu relu6 leaky_relu elu celu selu gelu silu mish sigmoid logsigmoid tanh hardtanh hardswish hardsigmoid
    softplus softsign threshold tanhshrink hardshrink dropout dropout1d dropout2d dropout3d alpha_dropout clamp clip
    exp log neg abs sqrt rsqrt square reciprocal sign floor ceil round contiguous clone detach to type float half
    double bfloat16 type_as expand_as add sub subtract mul multiply div divide truediv true_divide rsub pow maximum
    minimum addcmul where lerp zeros_like ones_like empty_like rand_like randn_like erf sin cos eq ne lt le gt ge
    nan_to_num
    """.split()  # noqa: SIM905
)
WHOLE = ("softmax", "log_softmax", "normalize")  # over channels, they are over those in use
SPATIAL = tuple(
    """
    max_pool avg_pool lp_pool adaptive_avg_pool adaptive_max_pool interpolate upsample upsample_nearest
    upsample_bilinear
    """.split()  # noqa: SIM905
)
REDUCTIONS = ("mean", "sum", "amax", "amin", "var", "std", "logsumexp", "norm", "prod", "any", "all")


def elementwise(walk: Walk, node: fx.Node) -> Layout | None:
    """Joins the operands' channel axes of equal size; an axis of size 1 doesn't join, other axes stay at full width."""
    shape, operands = walk.shapes[node.name], walk.inputs(node)
    found = [
        (layout.axis + len(shape) - len(walk.shapes[o.name]), layout, o)
        for o in operands
        if (layout := walk.layout(o)) is not None
    ]
    found = [(axis, layout, o) for axis, layout, o in found if shape[axis] == len(layout.ids)]
    if not found:
        return None
    axis, first, _ = max(found, key=lambda entry: not walk.partition.fixed(entry[1].ids))
    walk.fix(node, "operands with channels on different axes", *(o for other, _, o in found if other != axis))
    for other, layout, _ in found:
        if other == axis:
            walk.partition.join(first.ids, layout.ids)
    for operand in operands:
        place = axis - len(shape) + len(walk.shapes[operand.name])
        full = place >= 0 and walk.shapes[operand.name][place] == len(first.ids) > 1
        if full and not any(o is operand and other == axis for other, _, o in found):
            _join_full(walk, node, operand, place, first)
    return Layout(axis, first.ids)


def _join_full(walk: Walk, node: fx.Node, operand: fx.Node, place: int, layout: Layout) -> None:
    """A parameter used directly takes the channels; any other tensor without channels keeps them full."""
    if operand.op == "get_attr":
        walk.bind(walk.name_of(str(operand.target)), place, layout.ids)
        walk.layouts[operand.name] = walk.bound(operand, place)
    else:
        walk.fix(node, "joined with a tensor that stays at full width", *walk.inputs(node))


def created(walk: Walk, node: fx.Node) -> Layout | None:
    """A new tensor of the same type, which has nothing of the old one's channels."""
    return None


def extreme(walk: Walk, node: fx.Node) -> Layout | None:
    """`max(x, y)` of two tensors; of one tensor it is a number."""
    return elementwise(walk, node) if len(walk.inputs(node)) > 1 else None


def reduction(walk: Walk, node: fx.Node) -> Layout | None:
    """A mean, sum or maximum over some axes; over the channels, it is one of those in use."""
    source = walk.layout(node.all_input_nodes[0])
    if source is None:
        return None
    rank = len(walk.shapes[node.all_input_nodes[0].name])
    place = 2 if name_of(node) == "norm" else 1
    dims: Any = argument(node, place, "dim", None)
    dims = range(rank) if dims is None else dims if isinstance(dims, (tuple, list)) else (dims,)
    dims = {int(axis) % rank for axis in dims or range(rank)}
    if source.axis in dims:
        return None
    left = len(walk.shapes[node.name]) == rank
    return Layout(source.axis - (0 if left else sum(axis < source.axis for axis in dims)), source.ids)


def spatial(walk: Walk, node: fx.Node) -> Layout | None:
    """Pooling and resizing work on the last axes, as many as the name says or all but two."""
    source = walk.layout(node.all_input_nodes[0])
    if source is None:
        return None
    rank, name = len(walk.shapes[node.all_input_nodes[0].name]), name_of(node)
    axes = int(name[-2]) if name[-1] == "d" and name[-2].isdigit() else rank - 2
    if source.axis >= rank - axes:
        walk.fix(node, f"{name} works on axis {source.axis}, which has the channels", node.all_input_nodes[0])
        return None
    return same_shape(walk, node, source)


def expansion(walk: Walk, node: fx.Node) -> Layout | None:
    """One channel that is repeated without a copy: any number of them, as what it meets has."""
    source, shape = walk.layout(node.all_input_nodes[0]), walk.shapes[node.name]
    if source is not None and len(source.ids) > 1:
        return moving(walk, node)
    before = walk.shapes[node.all_input_nodes[0].name]
    before = (1,) * (len(shape) - len(before)) + before
    grown = [axis for axis in range(1, len(shape)) if before[axis] == 1 < shape[axis]]
    return Layout(grown[0], walk.partition.open(shape[grown[0]])) if grown else None


def pad(walk: Walk, node: fx.Node) -> Layout | None:
    """New channels, full of one number, before and after, where the channels' axis is padded."""
    source = walk.layout(node.all_input_nodes[0])
    if source is None:
        return None
    before, after = padded(node, source.axis, len(walk.shapes[node.name]))
    if before == after == 0:
        return same_shape(walk, node, source)
    if min(before, after) < 0 or argument(node, 2, "mode", "constant") != "constant":
        walk.fix(node, "channels are cut or reflected by a pad", node.all_input_nodes[0])
        return None
    new = walk.partition.open(before + after)
    return Layout(source.axis, np.concatenate([new[:before], source.ids, new[before:]]))


def padded(node: fx.Node, axis: int, rank: int) -> tuple[int, int]:
    """How much a `pad` adds before and after on this axis."""
    pads: Any = argument(node, 1, "pad", ())
    place = 2 * (rank - 1 - axis)
    return (int(pads[place]), int(pads[place + 1])) if len(pads) > place + 1 else (0, 0)


def product(walk: Walk, node: fx.Node) -> Layout | None:
    """A matrix product: what is summed over is joined, what is left is passed on."""
    a, b = walk.inputs(node)
    ranks = [len(walk.shapes[x.name]) for x in (a, b)]
    if min(ranks) < 2:
        walk.fix(node, "a product with a vector", a, b)
        return None
    first, second = walk.layout(a), walk.layout(b)
    left = first is not None and first.axis == ranks[0] - 1
    right = second is not None and second.axis == ranks[1] - 2
    if left != right:
        walk.fix(node, "a sum over channels of which one side stays at full width", *((a,) if left else (b,)))
    elif first is not None and second is not None and left:
        walk.partition.join(first.ids, second.ids)
    rank = len(walk.shapes[node.name])
    rest = [
        (layout.axis - own + rank, layout, x)
        for layout, own, x, summed in ((first, ranks[0], a, left), (second, ranks[1], b, right))
        if layout is not None and not summed
    ]
    if len(rest) == 2 and rest[0][0] == rest[1][0] < rank - 2:
        walk.partition.join(rest[0][1].ids, rest[1][1].ids)
    elif rest and (len(rest) == 2 or rest[0][0] < rank - 2):
        walk.fix(node, "a product with channels on several axes", *(x for _, _, x in rest))
    return Layout(rest[0][0], rest[0][1].ids) if rest else None


def attention(walk: Walk, node: fx.Node) -> Layout | None:
    """Scaled dot product of query, key and value: features of query and key are joined, the value's passed on."""
    query, key, value = walk.inputs(node)[:3]
    layouts = [walk.layout(x) for x in (query, key, value)]
    rank = len(walk.shapes[query.name])
    if any(x is None or x.axis != layouts[0].axis for x in layouts) or layouts[0] is None:  # type: ignore[union-attr]
        walk.fix(node, "attention with channels on several axes", query, key, value)
        return None
    first, second, third = (x for x in layouts if x is not None)
    heads = first.axis < rank - 2
    if first.axis == rank - 2:
        walk.fix(node, "attention with channels in the place of tokens", query, key, value)
        return None
    walk.partition.join(first.ids, second.ids)
    if heads:
        walk.partition.join(first.ids, third.ids)
    return third


FUNCTIONS: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(MOVES, moving),
    **dict.fromkeys(("expand", "broadcast_to"), expansion),
    **dict.fromkeys((*SPATIAL, *(f"{name}{n}d" for name in SPATIAL for n in (1, 2, 3))), spatial),
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(WHOLE, passing),
    **dict.fromkeys(("max", "min"), extreme),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty"), created),
    **dict.fromkeys(("pad", "_pad"), pad),
    **dict.fromkeys(("matmul", "bmm", "__matmul__"), product),
    "scaled_dot_product_attention": attention,
    "local_response_norm": local_response_norm,
}
