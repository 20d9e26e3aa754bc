"""Weights of one bit: ±1 times a scale for each filter."""

from dataclasses import dataclass, replace
from typing import Any

from ..grids import Signs
from ..limits import changed
from .layers import end_layers, weight_name, weighted_layers
from .recipe import check_options
from .subject import Subject
from .tuning import Workshop


@dataclass(frozen=True, slots=True)
class Binarize:
    """Straight-through training of binary weights; activations stay as they are.

    enabled: whether to do it at all. ends: the first layer and those that give logits, too, which costs much accuracy
    and saves little. skip: layers, or modules, to leave alone.

    Reference: Rastegari et al., XNOR-Net, ECCV 2016, section 3.1.
    """

    enabled: bool = False
    ends: bool = False
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_options(self)

    def run(self, subject: Subject, shop: Workshop) -> tuple[Subject, dict[str, Any]]:
        """Impose signs and fine-tune; the subject's own network is changed."""
        if not self.enabled:
            return subject, {"layers": []}
        ends = () if self.ends else end_layers(subject.net)
        layers = [name for name in weighted_layers(subject.net, self.skip) if name not in ends]
        limits = dict(subject.limits)
        for layer in layers:
            limits = changed(limits, weight_name(layer), grid=Signs())
        return shop.tune(replace(subject, limits=limits)), {"layers": layers}
