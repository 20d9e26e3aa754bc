"""The zoo's own rules: one model of a family, and an error is told, not raised."""

from typing import Any

import pytest
import torch
from stretto.bench.zoo import families, measure
from torch import Tensor, nn


class Tiny(nn.Module):
    in_size = (8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3)
        self.norm, self.last = nn.BatchNorm2d(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Any:
        return self.last(torch.relu(self.norm(self.b(torch.relu(self.a(x))))).mean((2, 3)))


class Undecided(Tiny):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x if x.sum() > 0 else -x)


def test_a_family_is_a_module_and_a_name_up_to_its_first_digit() -> None:
    def one() -> nn.Module:
        return Tiny()

    def other() -> nn.Module:
        return Tiny()

    one.__module__, other.__module__ = "zoo.resnet", "zoo.seresnet"
    models = {"resnet10": one, "resnet18": one, "resnetbc14": one, "resnet20_cifar10": one, "resnet12": other}
    assert families(models) == ["resnet10", "resnetbc14", "resnet12"]


def test_a_model_is_measured_with_its_share_and_its_errors() -> None:
    told = measure(Tiny)
    assert told["error"] is None and told["macs"] == 36 * 16 * 27 + 16 * 32 * 144 + 320
    assert told["narrowed_share"] == pytest.approx(16 * 32 * 144 / told["macs"])
    assert max(told[key] for key in ("full_error", "subnet_error", "zeroed_error")) < 1e-9


def test_a_model_that_cannot_be_traced_is_told_with_its_error() -> None:
    assert "a decision depends on the values in a tensor" in measure(Undecided)["error"]
