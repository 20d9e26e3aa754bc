"""Convolutions as depthwise and pointwise ones."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..supernet import Supernet
from ..supernet.edit import with_layers_split
from .edits import separable_edit
from .factors import separable_pair
from .layers import splittable_layers, weight_name, weights_in
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
        return {
            name: layer
            for name, layer in splittable_layers(net, self.layers, self.skip).items()
            if isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1
        }
