"""Settled statistics are the plain averages over batches, at every width."""

import pytest
import torch
from stretto.training.norms import recalibrate_bn
from stretto.training.supernet import make_supernet
from torch import nn
from torch.nn.modules import batchnorm

from .small import small_data, small_net


def batches(count: int = 3) -> list[torch.Tensor]:
    x, _ = small_data(16 * count).tensors
    return [*x.split(16)]


def by_hand(net: nn.Module, width: float, inputs: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and unbiased variance, over each batch, of what every norm of the static subnet takes in, averaged over
    batches; in the network's order."""
    subnet = net.subnet(width, net.depths)
    seen: dict[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def note(layer: nn.Module, given: tuple[torch.Tensor]) -> None:
        channels = given[0].transpose(0, 1).flatten(1)
        seen.setdefault(layer, []).append((channels.mean(1), channels.var(1)))

    for layer in subnet.modules():
        if isinstance(layer, batchnorm._BatchNorm):
            layer.register_forward_pre_hook(note)
    subnet.train()
    for x in inputs:
        subnet(x)
    return [tuple(torch.stack(values).mean(0) for values in zip(*found, strict=True)) for found in seen.values()]


@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_statistics_of_every_width_equal_those_by_hand(momentum):
    net = small_net(momentum=momentum)
    recalibrate_bn(net, batches())
    for width in net.widths:
        norms = [layer for layer in net.subnet(width, net.depths).modules() if isinstance(layer, batchnorm._BatchNorm)]
        expected = by_hand(net, width, batches())
        assert len(norms) == len(expected) == 4
        for layer, (mean, var) in zip(norms, expected, strict=True):
            torch.testing.assert_close(layer.running_mean, mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(layer.running_var, var, rtol=1e-4, atol=1e-5)


class Twice(nn.Module):
    """A batch norm that is called twice on the same numbers."""

    def __init__(self, momentum: float | None) -> None:
        super().__init__()
        self.first, self.relu = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()
        self.conv, self.norm = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16, momentum=momentum)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(self.relu(self.first(x)))
        return self.head(self.relu(self.norm(x) + 2 * self.norm(x)).mean((2, 3)))


@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_a_norm_called_twice_in_a_batch_has_the_plain_statistics(momentum):
    torch.manual_seed(0)
    net = make_supernet(Twice(momentum), torch.zeros(1, 1, 6, 6), (0.5, 1.0), 1)
    recalibrate_bn(net, batches())
    layer, inputs = net.eval().shared.get_submodule("norm"), []
    net.shared.get_submodule("conv").register_forward_hook(lambda module, given, found: inputs.append(found))
    for x in batches():
        net.shared(x)
    expected = torch.stack([x.transpose(0, 1).flatten(1).mean(1) for x in inputs]).mean(0)
    torch.testing.assert_close(layer.running_mean, expected, rtol=1e-4, atol=1e-5)
    expected = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in inputs]).mean(0)
    torch.testing.assert_close(layer.running_var, expected, rtol=1e-4, atol=1e-5)


def test_only_the_asked_number_of_batches_is_taken():
    nets = [small_net(), small_net()]
    recalibrate_bn(nets[0], iter(batches(3)), 2)
    recalibrate_bn(nets[1], batches(3)[:2])
    for a, b in zip(nets[0].buffers(), nets[1].buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("inputs", "count"), [([], 5), (batches(1), 0)])
def test_no_batches_leave_everything_as_it_is(inputs, count):
    net = small_net()
    before = [value.clone() for value in net.state_dict().values()]
    recalibrate_bn(net, inputs, count)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before, strict=True))


def test_norms_that_never_move_are_left_alone():
    net = small_net(momentum=0.0)
    recalibrate_bn(net, batches(1))
    assert all((value == 0).all() for name, value in net.named_buffers() if name.endswith("running_mean"))


@pytest.mark.parametrize("training", [True, False])
def test_parameters_mode_and_gradients_stay(training):
    net = small_net().train(training)
    before = [value.clone() for value in net.parameters()]
    recalibrate_bn(net, batches(1))
    assert net.training == training
    assert all(torch.equal(a, b) and a.grad is None for a, b in zip(net.parameters(), before, strict=True))
