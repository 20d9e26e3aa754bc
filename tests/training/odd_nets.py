"""Small classifiers that between them have every kind of layer that export treats in its own way; an exit fits after
every block, so that a failing test's depth says which one it is."""

import torch
from stretto.training.supernet import Supernet, make_supernet
from torch import Tensor, nn
from torch.nn import functional as F


class PreActivation(nn.Module):
    """The norm comes before the convolution, so none can take it up; reads a residual stream that others read too."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv(F.relu(self.bn(x))))


class Dense(nn.Module):
    """A concatenation, whose channels a width keeps in several runs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, 16, 3, padding=1), nn.Conv2d(channels + 16, 16, 1, bias=False)
        self.bn, self.conv3 = nn.BatchNorm2d(channels + 32), nn.Conv2d(channels + 32, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, F.relu(self.conv1(x))], 1)
        x = torch.cat([x, F.relu(self.conv2(x))], 1)
        return F.relu(self.conv3(self.bn(x)))


class Squeeze(nn.Module):
    """Squeeze and excitation, and a hard swish."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, channels, 3, padding=1, groups=channels), nn.BatchNorm2d(channels)
        self.down, self.up = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        gate = self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1))))
        return F.hardswish(x * torch.sigmoid(gate))


class Grouped(nn.Module):
    """Grouped convolution, group norm, and a parameter used directly."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=4, bias=False)
        self.norm = nn.GroupNorm(4, channels)
        self.gain = nn.Parameter(torch.rand(1, channels, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.conv(x)) * self.gain)


class StandardizedConv(nn.Conv2d):
    """A convolution with its own forward: it would undo a factor folded into its weight."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        std = self.weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (std + 1e-5), self.bias, 1, 1)


class Standardized(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.bn = StandardizedConv(channels, channels, 3), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Transposed(nn.Module):
    """Down, and up again by a transposed convolution, whose output channels are not on its weight's first axis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 24, 3, 2, 1), nn.ConvTranspose2d(24, channels, 2, 2)
        self.bn, self.act = nn.BatchNorm2d(channels), nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.up(self.down(x))))


class Twice(nn.Module):
    """One convolution called twice, with a norm after one of the calls only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(F.relu(self.bn(self.conv(x)))))


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        kinds = (PreActivation, Dense, Squeeze, Grouped, Standardized, Transposed, Twice)
        self.blocks = nn.Sequential(*(kind(16) for kind in kinds))
        self.last, self.head = nn.Conv2d(16, 32, 1), nn.Linear(32 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.last(self.blocks(self.stem(x))))
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Mixer(nn.Module):
    """Layer norm over features; a batch norm over the steps of a sequence, which the linear layer before it, with its
    features on another axis of the same size, can't take up."""

    def __init__(self, steps: int, features: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(features), nn.Linear(features, features)
        self.steps = nn.BatchNorm1d(steps)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.steps(self.linear(self.norm(x))))


class Sequences(nn.Module):
    def __init__(self, steps: int = 16, features: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(4, 24, 3, padding=1), nn.BatchNorm1d(24), nn.ReLU())
        self.conv, self.bn = nn.Conv1d(24, features, 3, padding=1), nn.BatchNorm1d(features)
        self.mixer = Mixer(steps, features)
        self.register_buffer("order", torch.randperm(steps))
        self.hidden, self.head = nn.Linear(features, 32), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(self.stem(x))))
        x = self.mixer(x.transpose(1, 2))
        x = torch.index_select(x, 1, self.order)[:, :8]
        return self.head(F.relu(self.hidden(x.mean(1))))


def trained(net: nn.Module) -> nn.Module:
    """Norms with statistics and affines as after training, no two alike."""
    for layer in net.modules():
        if getattr(layer, "running_mean", None) is not None:
            nn.init.normal_(layer.running_mean, 0, 0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2)
        if isinstance(layer, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.3)
    return net


def settled(model: nn.Module, shape: tuple[int, ...], **how: object) -> Supernet:
    """A supernet whose exits' and narrower widths' norms aren't fresh either."""
    net = make_supernet(trained(model), torch.zeros(1, *shape), **how)
    for name, value in [*net.norms.state_dict().items(), *net.shared.get_submodule("exits").state_dict().items()]:
        if value.is_floating_point():
            value.mul_(1.1).add_(0.05 * ("mean" in name or "bias" in name))
    return net.eval()
