"""Weights that share few values: k-means for each layer, the values then learn on."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..grids import CODES, Clusters
from ..limits import Limit, changed
from .layers import inside, weight_name, weighted_layers
from .recipe import check_options
from .subject import Subject
from .tuning import Workshop

ROUNDS = 100  # of k-means, which on numbers in one dimension settles long before


@dataclass(frozen=True, slots=True)
class Cluster:
    """Weight sharing (Han et al., Deep Compression, ICLR 2016, section 3): centroids begin evenly between the lowest
    and the highest weight, which keeps the rare large ones, and are fine-tuned by the sum of their weights' gradients.
    Weights that are zero for good stay so and have no centroid. Such sums are long, which `clip_norm` would cut:
    fine-tune by an optimizer that their size doesn't matter to, adamw.

    clusters: how many values a layer's weights have, 2 to 255; 0 changes nothing. Of `linear` layers and `depthwise`
        convolutions as many as these say, where they say so.
    layers: single layers or modules, and how many for them.
    skip: layers, or modules, to leave alone.
    """

    clusters: int = 0
    linear: int | None = None
    depthwise: int | None = None
    layers: dict[str, int] | None = None
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_options(self)
        said = [(name, getattr(self, name)) for name in ("clusters", "linear", "depthwise")]
        for name, count in [*said, *((f"layers.{place}", count) for place, count in (self.layers or {}).items())]:
            if name == "clusters" and count == 0:
                continue
            if count is not None and not (isinstance(count, int) and 2 <= count < CODES):
                raise ValueError(f"{name} {count!r}: clusters are whole numbers from 2 to {CODES - 1}")

    def run(self, subject: Subject, shop: Workshop) -> tuple[Subject, dict[str, Any]]:
        """Cluster and fine-tune the centroids; the subject's own network is changed."""
        weighted_layers(subject.net, self.layers or {})  # refuses those that aren't there
        counts = {name: self._count(name, layer) for name, layer in weighted_layers(subject.net, self.skip).items()}
        chosen = {name: count for name, count in counts.items() if count}
        if not chosen:
            return subject, {"clusters": {}}
        limits = dict(subject.limits)
        for name, count in chosen.items():
            key = weight_name(name)
            kept = limits.get(key, Limit()).kept
            codes = cluster_codes(subject.net.shared.get_parameter(key).detach(), kept, count)
            limits = changed(limits, key, grid=Clusters(codes))
        return shop.tune(replace(subject, limits=limits)), {"clusters": chosen}

    def _count(self, name: str, layer: Any) -> int:
        for place, count in (self.layers or {}).items():
            if inside(name, place):
                return count
        if isinstance(layer, torch.nn.Linear) and self.linear is not None:
            return self.linear
        if getattr(layer, "groups", 1) > 1 and self.depthwise is not None:
            return self.depthwise
        return self.clusters


def cluster_codes(weight: Tensor, kept: Tensor | None, clusters: int) -> Tensor:
    """The cluster of every weight, uint8 from 1, by k-means from an even spread; 0 where it isn't kept.

    A cluster that loses all its weights is left empty, so there may be fewer.
    """
    codes = torch.zeros_like(weight, dtype=torch.uint8)
    stays = torch.ones_like(weight, dtype=torch.bool) if kept is None else kept
    numbers = weight[stays].double()
    if len(numbers):
        codes[stays] = (_kmeans(numbers, clusters) + 1).to(torch.uint8)
    return codes.contiguous()


def _kmeans(numbers: Tensor, clusters: int) -> Tensor:
    """(numbers,) the nearest centroid of each, counted from the lowest."""
    centroids = torch.linspace(float(numbers.min()), float(numbers.max()), clusters, dtype=torch.float64)
    for _ in range(ROUNDS):
        nearest = torch.bucketize(numbers, (centroids[1:] + centroids[:-1]) / 2)
        counts = torch.bincount(nearest, minlength=clusters)
        sums = torch.zeros(clusters, dtype=torch.float64).index_add_(0, nearest, numbers)
        moved = torch.where(counts > 0, sums / counts.clamp_min(1), centroids)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return nearest
