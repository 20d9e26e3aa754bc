"""The network learns from stronger ones."""

from dataclasses import dataclass
from typing import Any

from .subject import Subject
from .tuning import Workshop


@dataclass(frozen=True, slots=True)
class Distill:
    """Fine-tune with teachers; everything that this needs are options of fine-tuning: `teachers`, `distillation`,
    `temperature`, `epochs`, `lr` (see `Tuning`). Without epochs and teachers nothing changes.

    Reference: Hinton et al., Distilling the Knowledge in a Neural Network, 2015.
    """

    def run(self, subject: Subject, shop: Workshop) -> tuple[Subject, dict[str, Any]]:
        """Train on; the subject's own network is changed."""
        if bool(shop.tuning.teachers) != bool(shop.tuning.epochs):
            raise ValueError(
                f"teachers {list(shop.tuning.teachers)} and epochs {shop.tuning.epochs}: distillation needs both"
            )
        return (shop.tune(subject) if shop.tuning.epochs else subject), {"teachers": list(shop.tuning.teachers)}
