"""Which layers int8 has in integers, and that biases take back what rounding adds."""

from collections import Counter

import numpy as np
import pytest
import torch
from stretto.policies.situation import Step
from stretto.training.int8_plan import make_plans
from stretto.training.supernet import make_supernet
from torch import Tensor, nn
from torch.nn import functional as F

from .odd_nets import settled
from .test_quantize import Case, exported, fused

WIDTHS = (0.5, 1.0)
FLOAT = ("Conv", "FusedConv", "Gemm", "FusedGemm")


class PadsItself(nn.Conv2d):
    """A convolution with its own forward, so that no norm is folded into it before the graph is made."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias, self.stride, 0, 1, self.groups)


class Blocks(nn.Module):
    """A stem, then blocks of a depthwise and a pointwise convolution.

    `kind`: of the convolutions of 3x3; `residual`: a sum reads the stem's output as well.
    """

    def __init__(self, kind: type[nn.Conv2d] = nn.Conv2d, residual: bool = False, blocks: int = 3) -> None:
        super().__init__()
        pads = {} if kind is PadsItself else {"padding": 1}
        self.residual = residual
        self.stem, self.norm = kind(3, 16, 3, bias=False, **pads), nn.BatchNorm2d(16)
        self.deep = nn.ModuleList(kind(16, 16, 3, groups=16, bias=False, **pads) for _ in range(blocks))
        self.wide = nn.ModuleList(nn.Conv2d(16, 16, 1, bias=False) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(2 * blocks))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm(self.stem(x)))
        for number, (deep, wide) in enumerate(zip(self.deep, self.wide, strict=True)):
            y = F.relu6(self.norms[2 * number](deep(x)))
            y = self.norms[2 * number + 1](wide(y))
            x = F.relu(x + y if self.residual else y)
        return self.head(x.mean((2, 3)))


def case_of(net: nn.Module, path) -> Case:
    torch.manual_seed(0)
    return exported(settled(net, (3, 8, 8), exits=1, widths=WIDTHS), torch.randn(64, 3, 8, 8), path)


def operators(case: Case, width: float, path) -> Counter[str]:
    return fused(case.bundle, Step(0, case.bundle.manifest.depths, width, "int8"), path)


def test_norms_behind_layers_with_their_own_forward_are_computed_in_integers(tmp_path):
    case = case_of(Blocks(PadsItself), tmp_path / "a.stretto")
    for width in WIDTHS:
        found = operators(case, width, tmp_path / "fused.onnx")
        assert found["Mul"] == found["Add"] == 0, found
        assert case.error(Step(0, 1, width)) < 0.03


@pytest.mark.parametrize("kind", [nn.Conv2d, PadsItself])
def test_a_stem_and_the_depthwise_layer_behind_it_stay_float(tmp_path, kind):
    case = case_of(Blocks(kind), tmp_path / "a.stretto")
    for width in WIDTHS:
        found = operators(case, width, tmp_path / "fused.onnx")
        assert sum(found[name] for name in FLOAT) == 3, found  # and the layer that gives the scores
        assert found["QLinearConv"] == 5


def test_a_stem_whose_output_is_added_to_another_becomes_integers(tmp_path):
    case = case_of(Blocks(residual=True), tmp_path / "a.stretto")
    for width in WIDTHS:
        found = operators(case, width, tmp_path / "fused.onnx")
        assert sum(found[name] for name in FLOAT) == 1, found


def test_every_plan_is_of_its_fragment(tmp_path):
    bundle = case_of(Blocks(), tmp_path / "a.stretto").bundle
    fragments = [one for one in bundle.manifest.fragments if one.precision == "fp32"]
    plans = make_plans(fragments, bundle.graphs)
    assert [plan.fragment for plan in plans] == fragments


def uneven(layer: nn.Module) -> nn.Module:
    """Every channel has one large weight; the others are 0.4 of its scale, and rounded away."""
    with torch.no_grad():
        layer.weight.fill_(0.4 / 127)
        layer.weight.flatten(1)[:, 0] = 1
        if layer.bias is not None:
            layer.bias.fill_(0.1)
    return layer


def drifting(bias: bool) -> dict[str, nn.Module]:
    """Networks whose second layer is uneven; what comes in is positive."""
    stem, head = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU()), nn.Linear(16, 5)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    conv, linear = nn.Conv2d(16, 16, 3, padding=1, bias=bias), nn.Linear(16, 16, bias=bias)
    with torch.no_grad():
        stem[0].weight.abs_()
    return {
        "convolution": nn.Sequential(stem, uneven(conv), nn.ReLU(), pool, head),
        "linear": nn.Sequential(stem, pool, uneven(linear), nn.ReLU(), head),
    }


@pytest.mark.parametrize(("name", "bias"), [("convolution", True), ("convolution", False), ("linear", True)])
def test_biases_take_back_what_rounding_adds_in_the_mean(tmp_path, name, bias):
    torch.manual_seed(0)
    net = make_supernet(drifting(bias)[name], torch.zeros(1, 3, 8, 8), widths=WIDTHS, exits=1).eval()
    case = exported(net, 1 + torch.rand(64, 3, 8, 8), tmp_path / "a.stretto")
    for width in WIDTHS:
        found, expected = (case.logits(Step(0, 1, width, precision)) for precision in ("int8", "fp32"))
        assert np.abs(found.mean(0) - expected.mean(0)).max() < 0.004 * np.abs(expected).max()
