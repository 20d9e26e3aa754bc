"""Convolutions as depthwise and pointwise ones."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..supernet import Supernet
from ..supernet.edit import with_layers_split
from .edits import separable_edit
from .factors import is_dense, separable_pair
from .layers import end_layers, weight_name, weighted_layers, weights_in
from .recipe import check_options
from .subject import Subject
from .tuning import Workshop


@dataclass(frozen=True, slots=True)
class Separable:
    """A k × k convolution becomes a depthwise and a pointwise one, begun from the nearest ones (see
    `factors.separable_pair`) and fine-tuned; with `teachers = ["before"]` they learn from the network that they
    replace.

    enabled: whether to do it at all. layers: these alone, or those in these modules. skip: not these. The first layer
    is left alone.

    Reference: Howard et al., MobileNets, 2017.
    """

    enabled: bool = False
    layers: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_options(self)

    def run(self, subject: Subject, shop: Workshop) -> tuple[Subject, dict[str, Any]]:
        """Split the layers; gives a network of its own."""
        layers = self._layers(subject.net) if self.enabled else {}
        if not layers:
            return subject, {"layers": {}}
        pairs = {name: separable_pair(layer) for name, layer in layers.items()}
        ratios = {name: sum(map(weights_in, pair)) / weights_in(layers[name]) for name, pair in pairs.items()}
        gone = set(map(weight_name, layers))
        limits = {name: limit for name, limit in subject.limits.items() if name not in gone}
        subject = shop.tune(subject.reshaped(with_layers_split(subject.net, pairs), separable_edit(layers), limits))
        return subject, {"layers": ratios}

    def _layers(self, net: Supernet) -> dict[str, nn.Module]:
        ends, chosen = end_layers(net), weighted_layers(net, self.skip)
        if self.layers:
            left = weighted_layers(net, self.layers)
            chosen = {name: layer for name, layer in chosen.items() if name not in left}
        return {
            name: layer
            for name, layer in chosen.items()
            if name not in ends and isinstance(layer, nn.Conv2d) and is_dense(layer) and max(layer.kernel_size) > 1
        }
