"""Exit heads: small classifiers grafted onto the traced graph at its cuts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from torch import fx, nn

from .channels import Layout
from .cuts import Cut, macs
from .meta import meta_copy
from .trace import Traced, propagate

# of `conv_head`: sides that are small enough, strided convolutions at most, the last convolution's factor
SMALL, MOST_STRIDES, WIDEN = 4, 2, 4
DEAR = 0.05  # of the network's MACs: what no convolution of a head may take


@dataclass(frozen=True, slots=True)
class Place:
    """Where a head goes: after `node`, of `shape` with its channels on `axis`, to be called `name` in the module.

    dear: MACs a sample that none of its convolutions may take.
    """

    module: fx.GraphModule
    name: str
    node: fx.Node
    shape: tuple[int, ...]
    axis: int
    classes: int
    dear: float


Graft = Callable[[Place], fx.Node]


def graft_exits(traced: Traced, cuts: Sequence[Cut], layouts: dict[str, Layout | None], head: str) -> None:
    """Add a head at every cut; the graph then answers all exits' logits, the network's own last.

    Raises:
        ValueError: no such head.
    """
    if head not in HEADS:
        raise ValueError(f"head '{head}' isn't known; one of {', '.join(HEADS)}")
    graph, module = traced.graph, cast(fx.GraphModule, traced.module)
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    (final,) = traced.answers
    classes, dear = traced.shapes[final.name][1], DEAR * sum(macs(traced).values())
    nodes = {node.name: node for node in graph.nodes}
    answers = []
    module.add_module("exits", nn.Module())
    for depth, cut in enumerate(cuts, start=1):
        layout, name = layouts[cut.node], f"exits.{depth}"
        module.add_submodule(name, nn.Module())
        shape, axis = traced.shapes[cut.node], layout.axis if layout else 1
        answers.append(HEADS[head](Place(module, name, nodes[cut.node], shape, axis, classes, dear)))
    output.args = ((*answers, final),)
    module.recompile()
    module.eval()
    values = propagate(meta_copy(module), graph, traced.example)
    traced.shapes.update({name: tuple(value.shape) for name, value in values.items() if hasattr(value, "shape")})


def linear_head(at: Place) -> fx.Node:
    """Mean over everything but the channels, then one linear layer (BranchyNet, Teerapittayanon et al. 2016)."""
    node, others = at.node, [i for i in range(1, len(at.shape)) if i != at.axis]
    if others:
        with at.module.graph.inserting_after(node):
            node = at.module.graph.call_method("mean", (node, tuple(others)))
    return _append(at.module, f"{at.name}.linear", nn.Linear(at.shape[at.axis], at.classes), node)


def conv_head(at: Place) -> fx.Node:
    """Convolutions of its own before the linear layer, since features in the middle of a network aren't made to be
    classified: 3×3 of stride 2, at most two, until the sides are at most `SMALL`, then 1×1 to four times the channels.

    Where the maps are wide for the network, a 3×3 would cost more than the stages after it: means take its place, and
    the 1×1 widens by less. On tensors that aren't images it is the same as `linear_head`. Strides as in the classifiers
    of MSDNet (Huang et al., Multi-Scale Dense Networks, ICLR 2018), the widening as in the last layers of MobileNets.
    """
    if len(at.shape) != 4 or at.axis != 1:
        return linear_head(at)
    for number in range(1, MOST_STRIDES + 1):
        if max(at.shape[2:]) > SMALL:
            at = _halve(at, f"{at.name}.{number}")
    channels, area = at.shape[1], at.shape[2] * at.shape[3]
    widen = next((factor for factor in (WIDEN, 2) if factor * channels**2 * area <= at.dear), 1)
    return linear_head(_convolve(at, f"{at.name}.wide", nn.Conv2d(channels, widen * channels, 1, bias=False)))


def _halve(at: Place, name: str) -> Place:
    """Half the sides, by a 3×3 convolution that keeps the number of channels or, where that is dear, by means."""
    channels, *sides = at.shape[1:]
    if 9 * channels**2 * math.prod((side + 1) // 2 for side in sides) <= at.dear:
        return _convolve(at, name, nn.Conv2d(channels, channels, 3, 2, 1, bias=False))
    by = (min(2, sides[0]), min(2, sides[1]))  # a side of one pixel stays
    node = _append(at.module, name, nn.AvgPool2d(by), at.node)
    return replace(at, node=node, shape=(*at.shape[:2], *(side // k for side, k in zip(sides, by, strict=True))))


def _convolve(at: Place, name: str, conv: nn.Conv2d) -> Place:
    """A convolution with its norm and activation; the place after it."""
    node, (batch, _, *sides) = at.node, at.shape
    at.module.add_submodule(name, nn.Module())
    for part, layer in (("conv", conv), ("norm", nn.BatchNorm2d(conv.out_channels)), ("act", nn.ReLU())):
        node = _append(at.module, f"{name}.{part}", layer, node)
    stride = conv.stride[0]
    return replace(at, node=node, shape=(batch, conv.out_channels, *(-(-side // stride) for side in sides)))


def _append(module: fx.GraphModule, name: str, layer: nn.Module, node: fx.Node) -> fx.Node:
    like = next((p for p in module.parameters() if p.is_floating_point()), None)
    module.add_submodule(name, layer if like is None else layer.to(like.device, like.dtype))
    with module.graph.inserting_after(node):
        return module.graph.call_module(name, (node,))


HEADS: dict[str, Graft] = {"linear": linear_head, "conv": conv_head}
