"""Exit heads: small classifiers grafted onto the traced graph at its cuts."""

from collections.abc import Callable, Sequence
from typing import cast

from torch import fx, nn

from .channels import Layout
from .cuts import Cut
from .meta import meta_copy
from .trace import Traced, propagate

Graft = Callable[[fx.GraphModule, str, fx.Node, int, int, int, int], fx.Node]


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
        answers.append(HEADS[head](module, f"exits.{depth}", node, len(shape), axis, shape[axis], classes))
    output.args = ((*answers, final),)
    module.recompile()
    module.eval()
    values = propagate(meta_copy(module), graph, traced.example)
    traced.shapes.update({name: tuple(value.shape) for name, value in values.items() if hasattr(value, "shape")})


def linear_head(
    module: fx.GraphModule, name: str, node: fx.Node, rank: int, axis: int, channels: int, classes: int
) -> fx.Node:
    """Mean over everything but the channels, then one linear layer (BranchyNet, Teerapittayanon et al. 2016)."""
    module.add_submodule(name, nn.Module())
    return _classify(module, name, node, rank, axis, channels, classes)


def conv_head(
    module: fx.GraphModule, name: str, node: fx.Node, rank: int, axis: int, channels: int, classes: int
) -> fx.Node:
    """A 1×1 convolution with norm and activation to twice the channels before the mean, so that features need not be
    linearly separable where the exit stands; on tensors that aren't images the same as `linear_head`."""
    module.add_submodule(name, nn.Module())
    if rank == 4 and axis == 1:
        hidden = 2 * channels
        for part, layer in (
            ("conv", nn.Conv2d(channels, hidden, 1, bias=False)),
            ("norm", nn.BatchNorm2d(hidden)),
            ("act", nn.ReLU()),
        ):
            node = _append(module, f"{name}.{part}", layer, node)
        channels = hidden
    return _classify(module, name, node, rank, axis, channels, classes)


def _classify(
    module: fx.GraphModule, name: str, node: fx.Node, rank: int, axis: int, channels: int, classes: int
) -> fx.Node:
    others = [i for i in range(1, rank) if i != axis]
    if others:
        with module.graph.inserting_after(node):
            node = module.graph.call_method("mean", (node, tuple(others)))
    return _append(module, f"{name}.linear", nn.Linear(channels, classes), node)


def _append(module: fx.GraphModule, name: str, layer: nn.Module, node: fx.Node) -> fx.Node:
    like = next((p for p in module.parameters() if p.is_floating_point()), None)
    module.add_submodule(name, layer if like is None else layer.to(like.device, like.dtype))
    with module.graph.inserting_after(node):
        return module.graph.call_module(name, (node,))


HEADS: dict[str, Graft] = {"linear": linear_head, "conv": conv_head}
