"""Cut points: where exactly one tensor is alive, so that a network can stop, go on later, or carry an exit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx, nn
from torch.nn.modules import activation, batchnorm, conv, dropout, instancenorm

from .graphs import is_call
from .trace import Traced

NORMS = (batchnorm._BatchNorm, instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
LARGEST_STEM = 0.5  # share of the MACs; every width runs the stem whole
ACTIVATIONS = tuple(
    """
    relu relu6 leaky_relu elu celu selu gelu silu mish sigmoid tanh hardtanh hardswish hardsigmoid softplus prelu
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Cut:
    """After `node`, `name` to a user, only its tensor is alive; `share` of the network's MACs are done there."""

    node: str
    name: str
    share: float


def macs(traced: Traced) -> dict[str, int]:
    """Multiply-accumulates for one sample of every convolution and linear layer, by node name."""
    result = {}
    for node in traced.graph.nodes:
        layer = traced.layer(node) if node.op == "call_module" else None
        if isinstance(layer, (conv._ConvNd, nn.Linear)):
            read = node.all_input_nodes[0] if isinstance(layer, conv._ConvTransposeNd) else node
            result[node.name] = math.prod(traced.shapes[read.name][1:]) * _per_output(layer)
        elif is_call(node, "conv1d", "conv2d", "conv3d", "linear") and len(node.all_input_nodes) > 1:
            weight = node.all_input_nodes[1]  # computed, else this would be a layer
            result[node.name] = math.prod(traced.shapes[node.name][1:]) * math.prod(traced.shapes[weight.name][1:])
    return result


def _per_output(layer: nn.Module) -> int:
    """Multiply-accumulates for one number of what comes out (of a transposed convolution: of what goes in)."""
    shapes = [p.shape for p in layer.parameters() if p.dim() >= 2] or [b.shape for b in layer.buffers() if b.dim() >= 2]
    return math.prod(shapes[0][1:]) if shapes else 0


def find_cuts(traced: Traced) -> list[Cut]:
    """Every place to cut, in order; never between a layer and its norm or activation, and never where nothing but the
    network's own last layer is left, since an exit there would only repeat it."""
    nodes = [node for node in traced.graph.nodes if node.op != "get_attr"]
    cost = macs(traced)
    total, done = sum(cost.values()) or 1, 0
    layers = [i for i, node in enumerate(nodes) if node.name in cost]
    last = layers[-2] if len(layers) > 1 else 0
    place = {node: i for i, node in enumerate(nodes)}
    alive: set[fx.Node] = set()
    cuts = []
    for i, node in enumerate(nodes[:last]):
        done += cost.get(node.name, 0)
        alive.add(node)
        alive = {n for n in alive if any(place[user] > i for user in n.users)}
        tensors = {n for n in alive if n.name not in traced.batch_sizes}
        if done and tensors == {node} and node.op != "placeholder" and _may_end(traced, node):
            cuts.append(Cut(node.name, _spoken(node), done / total))
    return cuts


def choose_exits(cuts: Sequence[Cut], exits: int | Sequence[float] | Sequence[str], stem: Cut) -> list[Cut]:
    """The cuts that carry the early exits (the final exit is the network's own end).

    `exits`: how many in all, at equal shares of the MACs; or the shares (1.0, the final exit, may be left out);
    or the names of layers or nodes.

    Raises:
        ValueError: a name isn't a cut, shares aren't ascending in (0, 1], or there are too few places.
    """
    later = [cut for cut in cuts if cut.share > stem.share]
    if isinstance(exits, int):
        if exits < 1:
            raise ValueError(f"exits {exits}: at least 1, the network's own end")
        exits = [i / exits for i in range(1, exits)]
    early = [e for e in exits if e != 1.0]
    if any(isinstance(e, str) for e in early):
        return _by_name(later, [str(e) for e in early])
    shares = [float(e) for e in early]
    if any(not 0 < share < 1 for share in shares) or sorted(set(shares)) != shares:
        raise ValueError(f"exits {shares}: shares of the MACs must be ascending and in (0, 1]")
    if len(shares) > len(later):
        raise ValueError(
            f"{len(shares)} early exits asked for, the network has {len(later)} places: "
            f"{_listed(later)}; ask for at most {len(later) + 1} exits"
        )
    return _nearest(later, shares)


def stem_end(traced: Traced, cuts: Sequence[Cut], shared: bool = True) -> Cut:
    """The first cut past the first convolution and its activation; the input itself where that would be most of the
    work, or the network begins with a linear layer or can't be cut anywhere, or no layer is to be `shared`."""
    cost = macs(traced)
    first = next((node for node in traced.graph.nodes if node.name in cost), None)
    linear = first is not None and first.op == "call_module" and isinstance(traced.layer(first), nn.Linear)
    if not shared or linear or not cuts or cuts[0].share > LARGEST_STEM:
        entry = next(node for node in traced.graph.nodes if node.op == "placeholder")
        return Cut(entry.name, "input", 0.0)
    return cuts[0]


def _nearest(cuts: Sequence[Cut], shares: Sequence[float]) -> list[Cut]:
    """Ascending distinct cuts with the least sum of distances to the asked shares (dynamic programming)."""
    best: list[tuple[float, list[Cut]]] = [(0.0, [])] * (len(cuts) + 1)  # best[j]: using the first j cuts only
    for share in shares:
        row: list[tuple[float, list[Cut]]] = [(math.inf, [])]
        for j, cut in enumerate(cuts):
            cost, chosen = best[j]
            row.append(min(row[-1], (cost + abs(cut.share - share), [*chosen, cut]), key=lambda entry: entry[0]))
        best = row
    return best[-1][1]


def _by_name(cuts: Sequence[Cut], names: Sequence[str]) -> list[Cut]:
    found = []
    for name in names:
        match = [cut for cut in cuts if name in (cut.name, cut.node)]
        if not match:
            raise ValueError(f"exit '{name}' isn't a place to cut; the places are {_listed(cuts)}")
        found.append(match[-1])
    if sorted(found, key=cuts.index) != found or len(set(found)) != len(found):
        raise ValueError(f"exits {list(names)} must be distinct and in the network's order: {_listed(cuts)}")
    return found


def _listed(cuts: Sequence[Cut]) -> str:
    return ", ".join(f"{cut.name} ({cut.share:.0%} of the MACs)" for cut in cuts) or "none"


def _may_end(traced: Traced, node: fx.Node) -> bool:
    """Not just before the norm, activation or dropout that belongs to the tensor's layer."""
    users = list(node.users)
    return node.name in traced.batched and not (len(users) == 1 and _belongs_to_previous(traced, users[0]))


def _belongs_to_previous(traced: Traced, node: fx.Node) -> bool:
    if node.op == "call_module":
        layer = traced.layer(node)
        activations = activation.__name__ in {kind.__module__ for kind in type(layer).__mro__}
        return activations or isinstance(layer, (*NORMS, dropout._DropoutNd, nn.Identity))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name in ACTIVATIONS or name in ("dropout", "flatten", "view", "reshape", "size")


def _spoken(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name
