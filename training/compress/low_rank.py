"""Layers as products of two thinner ones."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..supernet import Supernet
from ..supernet.edit import with_layers_split
from .edits import low_rank_edit
from .factors import is_dense, low_rank_pair, pair_macs, singular_values
from .layers import end_layers, weight_name, weighted_layers
from .recipe import check_options
from .subject import Subject
from .tuning import Workshop

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
        layers = self._layers(subject.net)
        values = {name: singular_values(layer) for name, layer in layers.items()}
        ranks = {name: rank for name, rank in self._ranks(subject.net, layers, values).items() if rank}
        if not ranks:
            return subject, {"ranks": {}, "macs_left": 1.0}
        areas = _areas(subject.net, layers)
        before = sum(areas[name] * layers[name].weight[0].numel() * len(layers[name].weight) for name in ranks)  # type: ignore[arg-type,index]
        after = sum(areas[name] * pair_macs(layers[name], rank) for name, rank in ranks.items())
        net = with_layers_split(subject.net, {name: low_rank_pair(layers[name], k) for name, k in ranks.items()})
        limits = {name: limit for name, limit in subject.limits.items() if name not in set(map(weight_name, ranks))}
        subject = shop.tune(subject.reshaped(net, low_rank_edit(ranks), limits))
        return subject, {"ranks": ranks, "macs_left": after / before}

    def _layers(self, net: Supernet) -> dict[str, nn.Module]:
        ends, chosen = end_layers(net), weighted_layers(net, self.skip)
        if self.layers:
            left = weighted_layers(net, self.layers)
            chosen = {name: layer for name, layer in chosen.items() if name not in left}
        return {name: layer for name, layer in chosen.items() if name not in ends and is_dense(layer)}

    def _ranks(self, net: Supernet, layers: dict[str, nn.Module], values: dict[str, torch.Tensor]) -> Ranks:
        """Each layer's rank, 0 where it stays whole."""
        if self.macs is not None:
            return self._within_macs(net, layers, values)
        found = {}
        for name, layer in layers.items():
            energy = values[name].square().cumsum(0)
            wanted = self.rank or 0
            if self.energy is not None:
                wanted = int((energy < self.energy * energy[-1]).sum()) + 1
            found[name] = self._rounded(wanted, layer) if wanted else 0
        return found

    def _rounded(self, rank: int, layer: nn.Module) -> int:
        """Up to a multiple; 0 where a pair of that rank isn't cheaper than the layer."""
        weight: Any = layer.weight
        rank = min(-(-rank // self.multiple) * self.multiple, *weight.flatten(1).shape)
        return rank if pair_macs(layer, rank) < weight.numel() else 0

    def _within_macs(self, net: Supernet, layers: dict[str, nn.Module], values: dict[str, torch.Tensor]) -> Ranks:
        """Blocks of components go, cheapest loss of energy for what they save first, until the budget is kept."""
        areas = _areas(net, layers)
        whole = {name: areas[name] * layer.weight.numel() for name, layer in layers.items()}  # type: ignore[operator,union-attr]
        shares = {name: (v.square() / v.square().sum()).tolist() for name, v in values.items()}
        ranks = {name: len(v) for name, v in values.items()}
        costs = {name: areas[name] * pair_macs(layer, 1) for name, layer in layers.items()}

        def taken() -> float:
            return sum(min(whole[name], ranks[name] * costs[name]) for name in layers)

        most = (self.macs or 1.0) * sum(whole.values())
        while taken() > most:
            def price(name: str) -> float:
                block = shares[name][max(0, ranks[name] - self.multiple) : ranks[name]]
                return sum(block) / (len(block) * costs[name])

            able = [name for name in layers if ranks[name] > self.multiple]
            if not able:
                raise ValueError(f"macs {self.macs}: not reached with ranks of {self.multiple}; ask for more, or lower multiple")
            lowest = min(able, key=price)
            ranks[lowest] -= (ranks[lowest] % self.multiple) or self.multiple
        return {name: rank if rank * costs[name] < whole[name] else 0 for name, rank in ranks.items()}


def _areas(net: Supernet, layers: dict[str, nn.Module]) -> dict[str, int]:
    """Places that a layer's outputs are computed at, for one sample."""
    shapes = net.plan.traced.shapes
    calls = {str(node.target): shapes[node.name] for node in net.plan.traced.graph.nodes if node.op == "call_module"}
    return {
        name: calls[name][2] * calls[name][3] if isinstance(layer, nn.Conv2d) else 1 for name, layer in layers.items()
    }
