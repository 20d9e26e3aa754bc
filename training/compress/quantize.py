"""Weights of fewer bits."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..grids import Grid, Halves, Whole, short
from ..limits import changed
from .fake_int8 import FakeActivations
from .layers import weight_name, weighted_layers
from .recipe import check_options
from .subject import Subject
from .tuning import Workshop

NONE, HALF, INT8 = 32, 16, 8
CLIPS = torch.linspace(0.3, 1.0, 71)  # of a row's largest number, tried for the least squared error


@dataclass(frozen=True, slots=True)
class Quantize:
    """Symmetric whole numbers with a scale for each output channel, after training (`epochs` 0) or aware of it.

    bits: 32 changes nothing, 16 is floating point, 8 to 2 whole numbers; 8 has the scales that `stretto export` gives
        int8, so that those integers are exactly the ones trained, fewer have those of the least squared error.
    activations: round activations to 8 bits too while fine-tuning, as the int8 graphs do; with `bits` 8 alone.
    skip: layers, or modules, to leave alone.

    Reference: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference, CVPR 2018; Krishnamoorthi, Quantizing Deep Convolutional Networks, 2018.
    """

    bits: int = NONE
    activations: bool = False
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_options(self)
        if self.bits not in (NONE, HALF, *range(2, INT8 + 1)):
            raise ValueError(f"bits {self.bits}: 32 (nothing), 16 (floating point), or 8 to 2 (whole numbers)")
        if self.activations and self.bits != INT8:
            raise ValueError(f"activations are rounded to 8 bits beside weights of 8, bits is {self.bits}")

    def run(self, subject: Subject, shop: Workshop) -> tuple[Subject, dict[str, Any]]:
        """Impose the grid and fine-tune; the subject's own network is changed."""
        if self.bits == NONE:
            return subject, {"bits": NONE, "layers": []}
        layers, limits = list(weighted_layers(subject.net, self.skip)), dict(subject.limits)
        for name in map(weight_name, layers):
            weight = subject.net.shared.get_parameter(name).detach()
            limits = changed(limits, name, grid=self._grid(weight))
        within = FakeActivations if self.activations else nullcontext
        return shop.tune(replace(subject, limits=limits), within), {"bits": self.bits, "layers": layers}

    def _grid(self, weight: Tensor) -> Grid:
        if self.bits == HALF:
            return Halves()
        largest = 2 ** (self.bits - 1) - 1
        return Whole(largest) if self.bits == INT8 else Whole(largest, best_scale(weight, largest))


def best_scale(weight: Tensor, largest: int) -> Tensor:
    """(rows,) the scale of each row that rounds it with the least squared error, in 16 bits."""
    rows = weight.flatten(1)
    highest = rows.abs().amax(1)
    best, least = highest / largest, torch.full_like(highest, torch.inf)
    for clip in CLIPS.tolist():
        scale = short(clip * highest / largest)
        column = scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        error = ((rows / column).round().clamp(-largest, largest) * column - rows).square().sum(1)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return short(best)
