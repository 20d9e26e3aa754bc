"""Layers as products of two thinner ones."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..supernet import Supernet
from ..supernet.cuts import macs
from ..supernet.edit import with_layers_split
from .edits import low_rank_edit
from .factors import low_rank_pair, pair_macs, singular_values
from .layers import splittable_layers, weight_name, weights_in
from .recipe import check_options
from .subject import Subject
from .tuning import Workshop

Layers = dict[str, nn.Module]
Ranks = dict[str, int]


@dataclass(frozen=True, slots=True)
class LowRank:
    """Truncated singular value decomposition, then fine-tuning; see `factors.low_rank_pair`. Give one of

    rank: K of every layer;
    energy: in (0, 1], the least K of each layer that keeps this share of its squared singular values;
    macs: in (0, 1], the share of the layers' MACs that is left together; components go first that hold least of their
        layer's energy for what they cost.

    A layer stays whole where two wouldn't be cheaper. The first layer, those that give logits, and grouped convolutions
    are left alone.

    multiple: ranks are multiples of it. layers: these alone, or those in these modules. skip: not these.
    """

    rank: int | None = None
    energy: float | None = None
    macs: float | None = None
    multiple: int = 8
    layers: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_options(self)
        said = [name for name in ("rank", "energy", "macs") if getattr(self, name) is not None]
        if len(said) > 1:
            raise ValueError(f"{' and '.join(said)} are given; give one of rank, energy and macs")
        for name in ("rank", "multiple"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be 1 or more")
        for name in ("energy", "macs"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be in (0, 1]")

    def run(self, subject: Subject, shop: Workshop) -> tuple[Subject, dict[str, Any]]:
        """Split the layers; gives a network of its own."""
        layers = splittable_layers(subject.net, self.layers, self.skip)
        ranks = {name: rank for name, rank in self._ranks(subject.net, layers).items() if rank}
        if not ranks:
            return subject, {"ranks": {}, "macs_left": 1.0}
        costs = {name: _Cost.of(subject.net, name, layers[name]) for name in ranks}
        left = sum(costs[name].pair(rank) for name, rank in ranks.items()) / sum(cost.whole for cost in costs.values())
        net = with_layers_split(subject.net, {name: low_rank_pair(layers[name], k) for name, k in ranks.items()})
        gone = set(map(weight_name, ranks))
        limits = {name: limit for name, limit in subject.limits.items() if name not in gone}
        subject = shop.tune(subject.reshaped(net, low_rank_edit(ranks), limits))
        return subject, {"ranks": ranks, "macs_left": left}

    def _ranks(self, net: Supernet, layers: Layers) -> Ranks:
        """Each layer's rank, 0 where it stays whole."""
        costs = {name: _Cost.of(net, name, layer) for name, layer in layers.items()}
        energies = {name: singular_values(layer).square() for name, layer in layers.items()}
        if self.macs is not None:
            ranks = self._within(costs, {name: (e / e.sum()).tolist() for name, e in energies.items()}, self.macs)
        else:
            ranks = {name: self._asked(energy) for name, energy in energies.items()}
        return {name: rank if costs[name].pair(rank) < costs[name].whole else 0 for name, rank in ranks.items()}

    def _asked(self, energy: Tensor) -> int:
        """The rank that `rank` or `energy` ask of a layer, up to a multiple."""
        rank = self.rank or 0
        if self.energy is not None:
            rank = int((energy.cumsum(0) < self.energy * energy.sum()).sum()) + 1
        return min(-(-rank // self.multiple) * self.multiple, len(energy))

    def _within(self, costs: dict[str, "_Cost"], shares: dict[str, list[float]], macs: float) -> Ranks:
        """Blocks of components go, least energy lost for what they save first, until the budget is kept."""
        ranks = {name: len(share) for name, share in shares.items()}
        most = macs * sum(cost.whole for cost in costs.values())
        while sum(min(cost.whole, cost.pair(ranks[name])) for name, cost in costs.items()) > most:
            blocks = {name: (rank - 1) % self.multiple + 1 for name, rank in ranks.items() if rank > self.multiple}
            if not blocks:
                raise ValueError(
                    f"macs {macs}: not reached with ranks of {self.multiple}; ask for more, or lower multiple"
                )

            def price(name: str, blocks: dict[str, int] = blocks) -> float:
                block = shares[name][ranks[name] - blocks[name] : ranks[name]]
                return sum(block) / costs[name].pair(len(block))

            lowest = min(blocks, key=price)
            ranks[lowest] -= blocks[lowest]
        return ranks


@dataclass(frozen=True, slots=True)
class _Cost:
    """MACs of a layer for one sample: `whole`, and `per_rank` of a pair in its place."""

    whole: int
    per_rank: int

    @classmethod
    def of(cls, net: Supernet, name: str, layer: nn.Module) -> "_Cost":
        traced = net.plan.traced
        node = next(n for n in traced.graph.nodes if n.op == "call_module" and n.target == name)
        whole = macs(traced)[node.name]
        return cls(whole, whole // weights_in(layer) * pair_macs(layer, 1))

    def pair(self, rank: int) -> int:
        return rank * self.per_rank
