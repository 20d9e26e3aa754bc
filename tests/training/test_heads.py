"""Heads of exits give logits at every width, of few MACs, on maps of any shape."""

import pytest
import torch
from stretto.training.nets import make_net
from stretto.training.supernet import make_supernet
from stretto.training.supernet.convert import make_plan
from stretto.training.supernet.cuts import macs
from torch import nn

from .toy_nets import CLASSES, IMAGE, Attention, Residual, conv

WIDTHS = (0.5, 1.0)


def test_unknown_head_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="head 'mlp' isn't known; one of linear, conv"):
        make_supernet(Residual(), torch.zeros(1, *IMAGE), WIDTHS, exits=2, head="mlp")


@pytest.mark.parametrize("head", ["linear", "conv"])
def test_every_head_gives_each_exit_its_logits(head: str) -> None:
    net = make_supernet(make_net("resnet", CLASSES, IMAGE, blocks=1), torch.zeros(1, *IMAGE), WIDTHS, 3, head)
    assert [tuple(z.shape) for z in net(torch.randn(2, *IMAGE), 0.5)] == [(2, CLASSES)] * 3


@pytest.mark.parametrize(("side", "strided"), [(32, 2), (16, 2), (8, 1), (4, 0)])
def test_a_head_of_convolutions_strides_down_to_four_pixels_and_then_widens(side: int, strided: int) -> None:
    net = make_supernet(
        make_net("resnet", CLASSES, (3, side, side)), torch.zeros(1, 3, side, side), WIDTHS, (0.2,), "conv"
    )
    layers = [layer for layer in net.shared.get_submodule("exits.1").modules() if isinstance(layer, nn.Conv2d)]
    assert [(conv.kernel_size[0], conv.stride[0], conv.out_channels) for conv in layers] == [
        *[(3, 2, 16)] * strided,
        (1, 1, 64),
    ]


def test_a_head_of_convolutions_stays_cheap_on_maps_that_are_wide_for_the_network() -> None:
    image = (3, 224, 224)
    plain, with_convs = (
        sum(macs(plan.traced).values())
        for head in ("linear", "conv")
        for plan in [make_plan(make_net("mobilenet", 1000, image), torch.zeros(1, *image), WIDTHS, 4, head)]
    )
    assert 1.05 < with_convs / plain < 1.2  # the three heads together; with a dense 3×3 everywhere it is 1.9


def test_a_head_of_convolutions_halves_flat_maps_until_nothing_is_left_to_halve() -> None:
    maps = [layer for ins in (3, 64, 64) for layer in (conv(ins, 64), nn.ReLU())]
    model = nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))
    net = make_supernet(model, torch.zeros(1, 3, 1, 40), (0.5, 1.0), 2, "conv")
    assert tuple(net(torch.randn(2, 3, 1, 40), 0.5)[0].shape) == (2, CLASSES)


def test_an_exit_on_tokens_reads_the_channels_wherever_they_lie() -> None:
    net = make_supernet(Attention(), torch.zeros(1, *IMAGE), WIDTHS, exits=2)
    assert net.shared.get_submodule("exits.1.linear").in_features == 16
    assert tuple(net(torch.randn(2, *IMAGE), 0.5)[0].shape) == (2, CLASSES)
