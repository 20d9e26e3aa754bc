"""The numbers that a pruned shape begins with, and for how long it is trained from them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ...training.compress.layers import weight_name, weighted_layers
from ...training.limits import Limits, settle
from ...training.supernet import Supernet
from .shapes import Kind, Shape


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a shape comes from: the whole network's first numbers, and the round that left it, from 0 for the whole.

    `seed` and `number` decide what new numbers are drawn.
    """

    kind: Kind
    initial: Supernet
    shape: Shape
    number: int
    seed: int


Start = Callable[[Origin], tuple[Supernet, Limits]]


def rewound(origin: Origin) -> tuple[Supernet, Limits]:
    """The original first numbers, biases too, of what is left (Frankle & Carbin, The Lottery Ticket Hypothesis, ICLR
    2019); zero, and to stay so, where a weight is gone."""
    return origin.kind.cut(origin.initial, origin.shape)


def redrawn(origin: Origin) -> tuple[Supernet, Limits]:
    """New random numbers, as layers of this size get them; those of a seed and round are always the same."""
    net, limits = origin.kind.cut(origin.initial, origin.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(np.random.SeedSequence([origin.seed, origin.number, 1]).generate_state(1)[0].item())
        for layer in weighted_layers(net).values():
            layer.reset_parameters()  # type: ignore[operator]
    settle(net, limits)
    return net, limits


def signs(origin: Origin) -> tuple[Supernet, Limits]:
    """The original signs, every weight of a layer as large: as the standard deviation of all its first weights (Zhou
    et al., Deconstructing Lottery Tickets, NeurIPS 2019). Biases are the original ones."""
    net, limits = rewound(origin)
    for name in map(weight_name, weighted_layers(net)):
        weight, first = net.shared.get_parameter(name), origin.initial.shared.get_parameter(name)
        weight.data = weight.data.sign() * first.detach().std()
    return net, limits


@dataclass(frozen=True, slots=True)
class Variant:
    """`label`: for people. `epochs`: factor of the ticket's, 0 isn't trained. `every`: of all rounds, or only of those
    to compare at."""

    label: str
    start: Start
    epochs: int = 1
    every: bool = False


MORE = 3  # times the epochs; the whole pruning down to round n takes n + 1 times
TICKET, RANDOM, SIGNS, LONGER = "ticket", "random", "signs", "longer"
UNTRAINED, UNTRAINED_SIGNS, UNTRAINED_RANDOM = "untrained", "untrained_signs", "untrained_random"
VARIANTS = {
    TICKET: Variant("original numbers (ticket)", rewound, every=True),
    RANDOM: Variant("new random numbers", redrawn),
    SIGNS: Variant("original signs, one magnitude", signs),
    LONGER: Variant(f"new random numbers, {MORE} × the epochs", redrawn, epochs=MORE),
    UNTRAINED: Variant("original numbers, untrained", rewound, epochs=0, every=True),
    UNTRAINED_SIGNS: Variant("original signs, untrained", signs, epochs=0, every=True),
    UNTRAINED_RANDOM: Variant("new random numbers, untrained", redrawn, epochs=0, every=True),
}
