"""How channels pass through each operation: the walk over a traced graph that joins, opens and fixes them."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import fx, nn
from torch.nn.modules import activation, batchnorm, conv, dropout, instancenorm, padding, pooling, upsampling

from .channels import FULL, Channels, Ids, Kept, Layout, Partition
from .trace import Traced

PASSING_MODULES = (activation, dropout, padding, pooling, upsampling)
MIXING_LAYERS = (nn.MultiheadAttention, nn.GLU, nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d)
NORMS = (batchnorm._BatchNorm, instancenorm._InstanceNorm)
ELEMENTWISE = set(
    ["relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "sigmoid", "logsigmoid", "tanh", "hardtanh", "hardswish", "hardsigmoid", "softplus", "softsign", "threshold", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "clamp", "clip", "exp", "log", "neg", "abs", "sqrt", "rsqrt", "square", "reciprocal", "sign", "floor", "ceil", "round", "contiguous", "clone", "detach", "to", "type", "float", "half", "double", "type_as", "add", "sub", "mul", "div", "truediv", "rsub", "pow", "maximum", "minimum", "addcmul", "expand_as", "where", "lerp", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "lp_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "interpolate", "upsample"]
)


class Walk:
    """One pass over the graph. `forced`: node name → reason, for nodes whose tensors a check found wrong."""

    def __init__(self, traced: Traced, forced: dict[str, str]) -> None:
        self.traced, self.forced = traced, forced
        self.module, self.shapes = traced.module, traced.shapes
        self.partition = Partition()
        self.opened: dict[str, Ids] = {}
        self.layouts: dict[str, Layout | None] = {}
        self.parameters: dict[str, list[Ids | None]] = {}
        self.kept: list[Kept] = []
        self._names = {id(value): name for name, value in reversed(list(self.module.named_parameters()))}

    def run(self) -> Channels:
        for node in self.module.graph.nodes:
            layout = self._visit(node)
            if node.name in self.forced:
                self.fix(node, self.forced[node.name], *self.inputs(node))
                layout = self._fixed(layout)
            self.layouts[node.name] = layout
        return Channels(self.partition, self.opened, self.layouts, self.parameters, self.kept)

    def _visit(self, node: fx.Node) -> Layout | None:
        if node.op == "output":
            for answer in self.inputs(node):
                self._fixed(self.layouts[answer.name])
        if node.op in ("placeholder", "get_attr", "output"):
            return None
        rule = self._layer_rule(node) if node.op == "call_module" else FUNCTIONS.get(_name(node))
        if node.name not in self.shapes and (rule is None or not any(self.inputs(node))):
            if any(self.layouts[source.name] for source in self.inputs(node)) and _name(node) not in PLAIN:
                self.fix(node, f"{_name(node)} isn't understood", *self.inputs(node))
            return None
        if rule is None:
            self.fix(node, f"{_name(node)} isn't understood", *self.inputs(node))
            return None
        return rule(self, node)

    def _layer_rule(self, node: fx.Node) -> "Rule | None":
        layer = self.module.get_submodule(str(node.target))
        for kinds, rule in LAYERS:
            if isinstance(layer, kinds):
                return rule
        return passing if _is_passing(layer) else None

    def inputs(self, node: fx.Node) -> list[fx.Node]:
        """The nodes of tensors that a node reads, in order."""
        return [source for source in node.all_input_nodes if source.name in self.shapes]

    def layout(self, node: Any) -> Layout | None:
        return self.layouts.get(node.name) if isinstance(node, fx.Node) else None

    def fix(self, node: fx.Node, reason: str, *sources: fx.Node) -> None:
        """Keep the channels of these tensors at full width; say why where that changes anything."""
        ids = [layout.ids for layout in map(self.layout, sources) if layout is not None]
        if any(self.partition.root(int(i)) != FULL for array in ids for i in array):
            self.kept.append(Kept(str(node.target) if node.op == "call_module" else node.name, reason))
        for array in ids:
            self.partition.merge(np.concatenate([[FULL], array]))

    def _fixed(self, layout: Layout | None) -> Layout | None:
        if layout is not None:
            self.partition.merge(np.concatenate([[FULL], layout.ids]))
        return layout

    def bind(self, name: str, axis: int, ids: Ids) -> None:
        """This axis of a parameter or buffer carries these channels; a second use joins the first."""
        value = self._tensor(name)
        axes = self.parameters.setdefault(name, [None] * value.dim())
        known = axes[axis]
        if known is None:
            axes[axis] = ids
        else:
            self.partition.join(known, ids)

    def _tensor(self, name: str) -> Any:
        owner, _, last = name.rpartition(".")
        return getattr(self.module.get_submodule(owner), last)

    def own(self, node: fx.Node) -> Iterator[tuple[str, Any]]:
        """The layer's parameters and buffers under the name of their first use (tied ones have one name)."""
        layer = self.module.get_submodule(str(node.target))
        for name, value in [*layer.named_parameters(), *layer.named_buffers()]:
            yield self._names.get(id(value), f"{node.target}.{name}"), value

    def first_name(self, node: fx.Node, name: str) -> str | None:
        """The name under which the layer's parameter `name` is known, None where it has none."""
        value = getattr(self.module.get_submodule(str(node.target)), name, None)
        return None if value is None else self._names.get(id(value), f"{node.target}.{name}")

    def open(self, node: fx.Node, count: int) -> Ids:
        """Channels for a layer's output; the same ones at every call of the layer."""
        key = self.first_name(node, "weight") or str(node.target)
        if key not in self.opened:
            self.opened[key] = self.partition.open(count)
        return self.opened[key]


Rule = Callable[[Walk, fx.Node], Layout | None]


def convolution(walk: Walk, node: fx.Node) -> Layout | None:
    """A convolution opens channels; grouped, it ties whole groups of its input to whole groups of its output."""
    layer: Any = walk.module.get_submodule(str(node.target))
    source = _channels_at(walk, node, axis=1)
    if not _only_weight_and_bias(layer):
        walk.fix(node, f"{type(layer).__name__} has parameters of its own kind", node.all_input_nodes[0])
        return None
    ids = walk.open(node, layer.out_channels)
    transposed = isinstance(layer, conv._ConvTransposeNd)
    if layer.groups > 1:
        _tie_groups(walk, node, layer.groups, source, ids)
    weight = str(walk.first_name(node, "weight"))
    if transposed and layer.groups > 1:
        _bind(walk, weight, 0, source)
    else:
        walk.bind(weight, 1 if transposed else 0, ids)
        if layer.groups == 1:
            _bind(walk, weight, 0 if transposed else 1, source)
    _bind_name(walk, node, "bias", ids)
    return Layout(1, ids)


def _tie_groups(walk: Walk, node: fx.Node, groups: int, source: Layout | None, ids: Ids) -> None:
    if source is None:
        walk.partition.merge(np.concatenate([[FULL], ids]))
        walk.kept.append(Kept(str(node.target), "a grouped convolution on a tensor that stays at full width"))
        return
    for ins, outs in zip(np.split(source.ids, groups), np.split(ids, groups), strict=True):
        walk.partition.merge(np.concatenate([ins, outs]))


def linear(walk: Walk, node: fx.Node) -> Layout | None:
    """A linear layer opens features on the last axis."""
    layer: Any = walk.module.get_submodule(str(node.target))
    rank = len(walk.shapes[node.name])
    source = _channels_at(walk, node, axis=rank - 1)
    if not _only_weight_and_bias(layer):
        walk.fix(node, f"{type(layer).__name__} has parameters of its own kind", node.all_input_nodes[0])
        return None
    ids = walk.open(node, layer.out_features)
    weight = str(walk.first_name(node, "weight"))
    walk.bind(weight, 0, ids)
    _bind(walk, weight, 1, source)
    _bind_name(walk, node, "bias", ids)
    return Layout(rank - 1, ids)


def batch_norm(walk: Walk, node: fx.Node) -> Layout | None:
    """Batch and instance norms pass channels on; all their vectors carry them."""
    source = _channels_at(walk, node, axis=1)
    for name, value in walk.own(node):
        if source is not None and value.dim() == 1 and len(value) == len(source.ids):
            walk.bind(name, 0, source.ids)
    return source


def group_norm(walk: Walk, node: fx.Node) -> Layout | None:
    """A group norm narrows by whole groups."""
    layer: Any = walk.module.get_submodule(str(node.target))
    source = _channels_at(walk, node, axis=1)
    if source is None:
        return None
    for ids in np.split(source.ids, layer.num_groups):
        walk.partition.merge(ids)
    for name in ("weight", "bias"):
        _bind_name(walk, node, name, source.ids)
    return source


def layer_norm(walk: Walk, node: fx.Node) -> Layout | None:
    """A layer norm over the channels narrows with them; one over other axes leaves them alone.

    A subclass that norms axis 1 of an image (with its own forward) has one vector as long as the channels.
    """
    layer: Any = walk.module.get_submodule(str(node.target))
    source = walk.layout(node.all_input_nodes[0])
    if source is None:
        return None
    rank, normed = len(walk.shapes[node.name]), len(layer.normalized_shape)
    place = source.axis - (rank - normed) if type(layer).forward is nn.LayerNorm.forward else 0
    if place >= 0 and layer.normalized_shape[place] != len(source.ids):
        walk.fix(node, "a layer norm over other sizes", node.all_input_nodes[0])
    elif place >= 0:
        for name in ("weight", "bias"):
            known = walk.first_name(node, name)
            if known is not None:
                walk.bind(known, place, source.ids)
    return _same_shape(walk, node, source)


def prelu(walk: Walk, node: fx.Node) -> Layout | None:
    layer: Any = walk.module.get_submodule(str(node.target))
    source = _channels_at(walk, node, axis=1)
    if source is not None and layer.num_parameters > 1:
        _bind_name(walk, node, "weight", source.ids)
    return source


def passing(walk: Walk, node: fx.Node) -> Layout | None:
    """One tensor in, its channels out where the shape still has them."""
    source = walk.layout(node.all_input_nodes[0])
    return None if source is None else _same_shape(walk, node, source)


def elementwise(walk: Walk, node: fx.Node) -> Layout | None:
    """Joins the operands' channel axes of equal size; an axis of size 1 doesn't join."""
    shape = walk.shapes[node.name]
    operands = walk.inputs(node)
    layouts = [(len(shape) - len(walk.shapes[o.name]) + x.axis, x, o) for o in operands if (x := walk.layout(o))]
    layouts = [(axis, x, o) for axis, x, o in layouts if not (len(x.ids) == 1 and shape[axis] != 1)]
    if not layouts:
        return None
    axis, first, _ = layouts[0]
    if any(other != axis or len(x.ids) != len(first.ids) for other, x, _ in layouts) or len(first.ids) != shape[axis]:
        walk.fix(node, "operands with channels on different axes", *operands)
        return None
    for _, other, _ in layouts[1:]:
        walk.partition.join(first.ids, other.ids)
    for operand in operands:
        place = axis - len(shape) + len(walk.shapes[operand.name])
        if walk.layout(operand) is None and place >= 0 and walk.shapes[operand.name][place] == len(first.ids) > 1:
            _join_plain(walk, node, operand, place, first)
    return Layout(axis, first.ids)


def _join_plain(walk: Walk, node: fx.Node, operand: fx.Node, place: int, layout: Layout) -> None:
    """A parameter used directly takes the channels; any other tensor without channels keeps them full."""
    if operand.op == "get_attr":
        value = walk._tensor(str(operand.target))
        walk.bind(walk._names.get(id(value), str(operand.target)), place, layout.ids)
    else:
        walk.fix(node, "joined with a tensor that stays at full width", node, *walk.inputs(node))


def concatenation(walk: Walk, node: fx.Node) -> Layout | None:
    """Along the channels a list of layouts, along another axis a join."""
    sources: Any = node.args[0] if node.args else node.kwargs["tensors"]
    rank = len(walk.shapes[node.name])
    dim = _argument(node, 1, "dim", 0) % rank
    layouts = [walk.layout(source) for source in sources]
    if not any(layouts):
        return None
    if all(x is None or x.axis == dim for x in layouts):
        parts = [
            x.ids if x else np.full(walk.shapes[source.name][dim], FULL)
            for x, source in zip(layouts, sources, strict=True)
        ]
        return Layout(dim, np.concatenate(parts))
    first = layouts[0]
    if any(x is None or first is None or x.axis != first.axis or len(x.ids) != len(first.ids) for x in layouts):
        walk.fix(node, "a concatenation of tensors with channels on different axes", *sources)
        return None
    for other in layouts[1:]:
        walk.partition.join(first.ids, other.ids)
    return first


def reshape(walk: Walk, node: fx.Node) -> Layout | None:
    """Flattening multiplies channels; dropping or adding axes of size 1 moves them; literal sizes fix them."""
    source = walk.layout(node.all_input_nodes[0])
    if source is None:
        return None
    old, new = walk.shapes[node.all_input_nodes[0].name], walk.shapes[node.name]
    before, channels = math.prod(old[: source.axis]), len(source.ids)
    for axis, size in enumerate(new):
        if math.prod(new[:axis]) == before and size % channels == 0 and (size > 1 or channels == 1):
            repeats = size // channels
            inner = math.prod(old[source.axis + 1 :])
            literal = node.op != "call_module" and size in _literals(node) and _name(node) in ("view", "reshape")
            if repeats in (1, inner) and not literal:
                return Layout(axis, np.repeat(source.ids, repeats))
    walk.fix(node, f"{_name(node)} with sizes that a width can't change", node.all_input_nodes[0])
    return None


def permutation(walk: Walk, node: fx.Node) -> Layout | None:
    source = walk.layout(node.all_input_nodes[0])
    if source is None:
        return None
    rank = len(walk.shapes[node.name])
    order = list(range(rank))
    given: Any = node.args[1] if len(node.args) == 2 and isinstance(node.args[1], (tuple, list)) else node.args[1:]
    given = given or node.kwargs.get("dims") or (node.kwargs.get("dim0"), node.kwargs.get("dim1"))
    if _name(node) == "permute":
        order = [axis % rank for axis in given]
    else:
        a, b = (axis % rank for axis in given)
        order[a], order[b] = order[b], order[a]
    return Layout(order.index(source.axis), source.ids)


def reduction(walk: Walk, node: fx.Node) -> Layout | None:
    """A mean, sum or maximum over other axes than the channels."""
    source = walk.layout(node.all_input_nodes[0])
    if source is None:
        return None
    rank = len(walk.shapes[node.all_input_nodes[0].name])
    dims: Any = _argument(node, 1, "dim", None)
    dims = range(rank) if dims is None else dims if isinstance(dims, (tuple, list)) else (dims,)
    dims = {axis % rank for axis in dims}
    if source.axis in dims:
        walk.fix(node, f"{_name(node)} over the channels", node.all_input_nodes[0])
        return None
    keep = _argument(node, 2, "keepdim", False)
    return Layout(source.axis - (0 if keep else sum(axis < source.axis for axis in dims)), source.ids)


def softmax(walk: Walk, node: fx.Node) -> Layout | None:
    source = walk.layout(node.all_input_nodes[0])
    dim = _argument(node, 1, "dim", None)
    if source is None or (dim is not None and dim % len(walk.shapes[node.name]) != source.axis):
        return source
    walk.fix(node, "a softmax over the channels", node.all_input_nodes[0])
    return None


def item(walk: Walk, node: fx.Node) -> Layout | None:
    """Indexing that leaves the channel axis whole."""
    source = walk.layout(node.args[0])
    if source is None:
        return None
    index: Any = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    plain = all(isinstance(i, slice) for i in index)
    whole = len(index) <= source.axis or index[source.axis] == slice(None)
    if plain and whole:
        return _same_shape(walk, node, source)
    walk.fix(node, "a part of the channels is taken", *walk.inputs(node))
    return None


def _same_shape(walk: Walk, node: fx.Node, source: Layout) -> Layout | None:
    shape = walk.shapes[node.name]
    if len(shape) > source.axis and shape[source.axis] == len(source.ids):
        return source
    walk.fix(node, f"{_name(node)} changes the number of channels", node.all_input_nodes[0])
    return None


def _channels_at(walk: Walk, node: fx.Node, axis: int) -> Layout | None:
    """The input's layout if it lies on this axis; on another one its channels are fixed."""
    source = walk.layout(node.all_input_nodes[0])
    if source is None or source.axis == axis:
        return source
    walk.fix(node, f"channels on axis {source.axis}, the layer works on axis {axis}", node.all_input_nodes[0])
    return None


def _bind(walk: Walk, name: str, axis: int, source: Layout | None) -> None:
    if source is not None:
        walk.bind(name, axis, source.ids)


def _bind_name(walk: Walk, node: fx.Node, name: str, ids: Ids) -> None:
    known = walk.first_name(node, name)
    if known is not None:
        walk.bind(known, 0, ids)


def _only_weight_and_bias(layer: nn.Module) -> bool:
    return {name for name, _ in layer.named_parameters()} <= {"weight", "bias"} and not list(layer.buffers())


def _is_passing(layer: nn.Module) -> bool:
    kinds = (nn.Identity, nn.LocalResponseNorm)
    homes = {kind.__module__ for kind in type(layer).__mro__}
    passes = isinstance(layer, kinds) or any(module.__name__ in homes for module in PASSING_MODULES)
    return passes and not isinstance(layer, MIXING_LAYERS) and not list(layer.parameters())


def _literals(node: fx.Node) -> list[int]:
    given = node.args[1] if len(node.args) == 2 and isinstance(node.args[1], (tuple, list)) else node.args[1:]
    return [size for size in given if isinstance(size, int) and size > 1]


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


LAYERS: list[tuple[tuple[type, ...], Rule]] = [
    ((conv._ConvNd,), convolution),
    ((nn.Linear,), linear),
    (NORMS, batch_norm),
    ((nn.GroupNorm,), group_norm),
    ((nn.LayerNorm,), layer_norm),
    ((nn.PReLU,), prelu),
    ((nn.Flatten,), reshape),
]
PLAIN = {"size", "dim", "ndim", "getattr", "getitem", "numel", "len"}  # asking for sizes leaves channels alone
FUNCTIONS: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(("cat", "concat", "concatenate"), concatenation),
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze", "unsqueeze"), reshape),
    **dict.fromkeys(("permute", "transpose", "swapaxes"), permutation),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), reduction),
    **dict.fromkeys(("softmax", "log_softmax"), softmax),
    "pad": passing,
    "_pad": passing,
    "getitem": item,
}
