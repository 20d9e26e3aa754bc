"""A supernet of another shape still computes, at every width and exit, what it should."""

import numpy as np
import pytest
import torch
from stretto.training.nets import make_net
from stretto.training.supernet import Supernet, make_supernet
from stretto.training.supernet.edit import with_layers_split, without_channels
from torch import nn

from .small import small_net

WIDTHS = (0.5, 1.0)


def net_of(name: str = "resnet", head: str = "conv") -> Supernet:
    torch.manual_seed(0)
    options = {"resnet": {"base": 32, "blocks": 1}, "mobilenet": {"multiplier": 0.5}}[name]
    net = make_supernet(make_net(name, 4, (3, 32, 32), **options), torch.zeros(1, 3, 32, 32), WIDTHS, 3, head)
    for _, buffer in net.named_buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    for parameter in net.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return net.double().eval()


def drawn(net: Supernet, seed: int = 0) -> list[np.ndarray]:
    """Three quarters of every group's atoms, at random but for the groups whose order matters."""
    rng, kept = np.random.default_rng(seed), []
    for number, group in enumerate(net.plan.channels.groups):
        count = max(1, group.atoms * 3 // 4)
        chosen = np.sort(rng.choice(group.atoms, count, replace=False))
        kept.append(np.arange(count) if number in net.plan.channels.unsorted else chosen)
    return kept


def silenced(net: Supernet, kept: list[np.ndarray]) -> None:
    """Every number of the channels that aren't kept becomes zero: norms then put out nothing."""
    channels, tensors = net.plan.channels, dict([*net.shared.named_parameters(), *net.shared.named_buffers()])
    with torch.no_grad():
        for name, axes in channels.parameters.items():
            for axis, ids in enumerate(axes):
                if ids is not None and not name.endswith("running_var"):
                    gone = np.setdiff1d(np.arange(len(ids)), channels.places(ids, kept))
                    tensors[name].index_fill_(axis, torch.from_numpy(gone), 0.0)


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_without_channels_equals_the_network_with_those_channels_zeroed(name: str) -> None:
    net = net_of(name)
    kept, x = drawn(net), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    smaller = without_channels(net, kept)
    silenced(net, kept)
    for expected, found in zip(net(x), smaller(x), strict=True):
        assert torch.allclose(expected, found, atol=1e-10)
    assert smaller.macs(1.0, 3) < net.macs(1.0, 3)


@pytest.mark.parametrize("head", ["linear", "conv"])
def test_without_no_channels_every_width_and_exit_stays_as_it_was(head: str) -> None:
    net = net_of(head=head)
    same = without_channels(net, [np.arange(group.atoms) for group in net.plan.channels.groups])
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for width in WIDTHS:
        assert all(torch.equal(a, b) for a, b in zip(net(x, width), same(x, width), strict=True))
        assert [same.macs(width, d) for d in (1, 2, 3)] == [net.macs(width, d) for d in (1, 2, 3)]
    assert set(same.state_dict()) == set(net.state_dict())


def test_channels_that_a_width_had_keep_its_own_norms() -> None:
    net = small_net(widths=WIDTHS)
    own = net._own[0.5]["norm1"]
    nn.init.uniform_(own.weight)
    groups = net.plan.channels.groups
    at = next(i for i, group in enumerate(groups) if "conv1.weight" in group.layers)
    kept = [np.arange(group.atoms) for group in groups]
    kept[at] = np.r_[0:4, 8:32]  # 28 of 32; half of them is 16: of the old 0-3, 8-15, and 16-19, which it hadn't
    smaller = without_channels(net, kept)
    found = smaller._own[0.5]["norm1"].weight
    full = net.shared.get_submodule("norm1").weight
    assert torch.equal(found[:12], own.weight[[*range(4), *range(8, 16)]])
    assert torch.equal(found[12:16], full[16:20])


def test_kept_channels_out_of_order_are_refused() -> None:
    net = small_net()
    kept = [np.arange(group.atoms) for group in net.plan.channels.groups]
    with pytest.raises(ValueError, match="entries of kept atoms"):
        without_channels(net, kept[1:])
    kept[0] = kept[0][::-1]
    with pytest.raises(ValueError, match="ascending ranks"):
        without_channels(net, kept)


def test_a_layer_split_into_itself_and_the_identity_changes_nothing() -> None:
    net = net_of()
    name = "layer2.0.conv1"
    whole = net.shared.get_submodule(name)
    second = nn.Conv2d(whole.out_channels, whole.out_channels, 1, bias=False).double()
    nn.init.dirac_(second.weight)
    first = nn.Conv2d(*whole.weight.shape[1::-1], 3, whole.stride, 1, bias=False).double()
    first.weight.data.copy_(whole.weight)
    split = with_layers_split(net, {name: (first, second)})
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for width in WIDTHS:
        for expected, found in zip(net(x, width), split(x, width), strict=True):
            assert torch.allclose(expected, found, atol=1e-10)


def test_splitting_a_layer_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"layer 'conv9' is called 0 times.*conv1"):
        with_layers_split(small_net(), {"conv9": (nn.Identity(), nn.Identity())})
