"""Exit heads: small classifiers grafted onto the traced graph at its cuts."""

from collections.abc import Callable, Sequence
from typing import cast

from torch import fx, nn

from .channels import Layout
from .cuts import Cut
from .meta import meta_copy
from .trace import Traced, propagate

Graft = Callable[[fx.GraphModule, str, fx.Node, Sequence[int], int, int], fx.Node]
# of `conv_head`: sides that are small enough, strided convolutions at most, the last convolution's factor
SMALL, MOST_STRIDES, WIDEN = 4, 2, 4


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
    classes = traced.shapes[final.name][1]
    nodes = {node.name: node for node in graph.nodes}
    answers = []
    module.add_module("exits", nn.Module())
    for depth, cut in enumerate(cuts, start=1):
        node, shape, layout = nodes[cut.node], traced.shapes[cut.node], layouts[cut.node]
        axis = layout.axis if layout else 1
        answers.append(HEADS[head](module, f"exits.{depth}", node, shape, axis, classes))
    output.args = ((*answers, final),)
    module.recompile()
    module.eval()
    values = propagate(meta_copy(module), graph, traced.example)
    traced.shapes.update({name: tuple(value.shape) for name, value in values.items() if hasattr(value, "shape")})


def linear_head(
    module: fx.GraphModule, name: str, node: fx.Node, shape: Sequence[int], axis: int, classes: int
) -> fx.Node:
    """Mean over everything but the channels, then one linear layer (BranchyNet, Teerapittayanon et al. 2016)."""
    module.add_submodule(name, nn.Module())
    return _classify(module, name, node, shape, axis, classes)


def conv_head(
    module: fx.GraphModule, name: str, node: fx.Node, shape: Sequence[int], axis: int, classes: int
) -> fx.Node:
    """Convolutions of its own before the linear layer, since features in the middle of a network aren't made to be
    classified: 3×3 of stride 2, at most two, until the sides are at most `SMALL`, then 1×1 to four times the channels.

    On tensors that aren't images it is the same as `linear_head`. Strides as in the classifiers of MSDNet (Huang et
    al., Multi-Scale Dense Networks, ICLR 2018), the widening as in the last layers of MobileNets.
    """
    module.add_submodule(name, nn.Module())
    if len(shape) != 4 or axis != 1:
        return _classify(module, name, node, shape, axis, classes)
    batch, channels, *sides = shape
    for number in range(1, MOST_STRIDES + 1):
        if max(sides) > SMALL:
            node = _convolve(module, f"{name}.{number}", node, nn.Conv2d(channels, channels, 3, 2, 1, bias=False))
            sides = [(side + 1) // 2 for side in sides]
    node = _convolve(module, f"{name}.wide", node, nn.Conv2d(channels, WIDEN * channels, 1, bias=False))
    return _classify(module, name, node, (batch, WIDEN * channels, *sides), axis, classes)


def _convolve(module: fx.GraphModule, name: str, node: fx.Node, conv: nn.Conv2d) -> fx.Node:
    """A convolution with its norm and activation."""
    module.add_submodule(name, nn.Module())
    for part, layer in (("conv", conv), ("norm", nn.BatchNorm2d(conv.out_channels)), ("act", nn.ReLU())):
        node = _append(module, f"{name}.{part}", layer, node)
    return node


def _classify(
    module: fx.GraphModule, name: str, node: fx.Node, shape: Sequence[int], axis: int, classes: int
) -> fx.Node:
    others = [i for i in range(1, len(shape)) if i != axis]
    if others:
        with module.graph.inserting_after(node):
            node = module.graph.call_method("mean", (node, tuple(others)))
    return _append(module, f"{name}.linear", nn.Linear(shape[axis], classes), node)


def _append(module: fx.GraphModule, name: str, layer: nn.Module, node: fx.Node) -> fx.Node:
    like = next((p for p in module.parameters() if p.is_floating_point()), None)
    module.add_submodule(name, layer if like is None else layer.to(like.device, like.dtype))
    with module.graph.inserting_after(node):
        return module.graph.call_module(name, (node,))


HEADS: dict[str, Graft] = {"linear": linear_head, "conv": conv_head}
