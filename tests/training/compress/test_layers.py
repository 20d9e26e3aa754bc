"""Which layers passes work on: each weight once, none twice, and the ends known however logits come out."""

from typing import Any

import pytest
import torch
from stretto.training.compress.layers import end_layers, splittable_layers, weighted_layers
from stretto.training.supernet import Supernet, make_supernet
from torch import Tensor, nn


class Odd(nn.Module):
    """`b` and `c` share a weight, `d` is called twice, and a convolution and a mean give the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(n, 16, 3, padding=1) for n in (3, 16, 16, 16))
        self.c.weight = self.b.weight
        self.last, self.pool = nn.Conv2d(16, 5, 1), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x))))))
        x = torch.relu(self.d(torch.relu(self.d(x))))
        return self.pool(self.last(x)).flatten(1)


def net() -> Supernet:
    return make_supernet(Odd(), torch.zeros(1, 3, 8, 8), (1.0,), 1)


def test_a_weight_that_two_layers_share_is_listed_once() -> None:
    assert list(weighted_layers(net())) == ["a", "b", "d", "last"]


def test_the_last_layer_is_found_behind_what_gives_the_logits() -> None:
    assert end_layers(net()) == ("a", "last")


def test_layers_that_are_called_twice_are_not_split() -> None:
    assert list(splittable_layers(net(), (), ())) == ["b"]
    assert not splittable_layers(net(), ("d",), ())


def test_unknown_layers_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="layer 'e' isn't there; there are a, b, d, last"):
        weighted_layers(net(), ("e",))
