"""Two layers in the place of one: exact at full rank, nearest below, of the cost that the formulas say."""

from pathlib import Path

import pytest
import torch
from stretto.training.compress.factors import low_rank_pair, pair_macs, separable_pair, singular_values
from stretto.training.compress.low_rank import _Cost
from stretto.training.supernet import make_supernet
from torch import nn

from .trained import run, subject

LAYERS = {
    "linear": (nn.Linear(12, 7), (3, 12)),
    "pointwise": (nn.Conv2d(6, 9, 1), (2, 6, 5, 5)),
    "strided": (nn.Conv2d(6, 9, 3, 2, 1, bias=False), (2, 6, 8, 8)),
    "dilated": (nn.Conv2d(6, 9, 3, padding=2, dilation=2, padding_mode="reflect"), (2, 6, 8, 8)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_pair_of_full_rank_is_the_layer_with_its_bias(kind: str) -> None:
    layer, shape = LAYERS[kind]
    pair = nn.Sequential(*low_rank_pair(layer, min(layer.weight.flatten(1).shape)))
    x = torch.randn(shape)
    assert torch.allclose(pair(x), layer(x), atol=1e-5)


def test_a_pair_of_lower_rank_is_as_near_as_the_singular_values_left_out() -> None:
    layer = nn.Linear(12, 7)
    first, second = low_rank_pair(layer, 3)
    made = second.weight @ first.weight  # type: ignore[operator]
    expected = singular_values(layer)[3:].square().sum().sqrt()
    assert torch.isclose((made - layer.weight).norm().double(), expected, rtol=1e-4)
    assert pair_macs(layer, 3) == 3 * (12 + 7)
    assert torch.equal(second.bias, layer.bias)  # type: ignore[arg-type]


@pytest.mark.parametrize(("outputs", "kernel"), [(16, 3), (9, 5)])
def test_a_separable_pair_has_the_share_of_weights_that_its_formula_says(outputs: int, kernel: int) -> None:
    layer = nn.Conv2d(8, outputs, kernel, padding=kernel // 2)
    first, second = separable_pair(layer)
    count = first.weight.numel() + second.weight.numel()  # type: ignore[operator,union-attr]
    assert count / layer.weight.numel() == pytest.approx(1 / outputs + 1 / kernel**2, rel=1e-9)
    assert first.groups == 8


def test_a_convolution_that_is_separable_already_is_found_exactly() -> None:
    deep, wide = nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False), nn.Conv2d(8, 5, 1)
    layer = nn.Conv2d(8, 5, 3, 2, 1)
    layer.weight.data.copy_(wide.weight * deep.weight.transpose(0, 1))
    layer.bias.data.copy_(wide.bias)  # type: ignore[union-attr,arg-type]
    x = torch.randn(2, 8, 7, 7)
    assert torch.allclose(nn.Sequential(*separable_pair(layer))(x), wide(deep(x)), atol=1e-5)


def test_what_can_not_be_split_is_refused() -> None:
    with pytest.raises(ValueError, match="without groups"):
        low_rank_pair(nn.Conv2d(4, 4, 3, groups=4), 2)
    with pytest.raises(ValueError, match=r"rank 9 of a weight.*1 to 7"):
        low_rank_pair(nn.Linear(12, 7), 9)
    with pytest.raises(ValueError, match="kernel over 1 × 1"):
        separable_pair(nn.Conv2d(4, 4, 1))


def test_a_budget_of_macs_is_kept_in_the_touched_layers(tmp_path: Path) -> None:
    _, (report,) = run(tmp_path, {"name": "low_rank", "macs": 0.5, "multiple": 2}, recalibrate=2)
    assert 0.3 < report["found"]["macs_left"] <= 0.5
    full = [max(r["points"], key=lambda p: p["macs"])["macs"] for r in (report["before"], report["after"])]
    assert full[1] < full[0]


def test_an_energy_of_one_keeps_every_component_and_a_layer_that_gains_nothing_stays_whole(tmp_path: Path) -> None:
    _, (report,) = run(tmp_path, {"name": "low_rank", "energy": 1.0}, recalibrate=2)
    assert report["found"]["ranks"] == {}
    made = subject()
    name = "layer3.0.conv2"
    energy = singular_values(made.net.shared.get_submodule(name)).square().cumsum(0)
    _, (report,) = run(
        tmp_path, {"name": "low_rank", "energy": 0.8, "multiple": 1, "layers": [name]}, name="b.pt", recalibrate=2
    )
    (rank,) = report["found"]["ranks"].values()
    assert energy[rank - 1] >= 0.8 * energy[-1] > energy[rank - 2]


def test_unknown_layers_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layer 'conv9' isn't there; there are conv1"):
        run(tmp_path, {"name": "separable", "enabled": True, "layers": ["conv9"]})


def test_a_linear_layer_costs_its_weights_at_every_place_that_it_is_run_at() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), Everywhere(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    net = make_supernet(model, torch.zeros(1, 3, 10, 10), (1.0,), 1)
    cost = _Cost.of(net, "1.deep", net.shared.get_submodule("1.deep"))
    assert cost.whole == 8 * 8 * 16 * 32
    assert cost.pair(5) == 8 * 8 * 5 * (16 + 32)


class Everywhere(nn.Module):
    """Linear layers with channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.slim = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.slim(self.deep(x.permute(0, 2, 3, 1)).relu()).permute(0, 3, 1, 2)
