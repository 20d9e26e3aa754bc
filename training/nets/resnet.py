"""Residual networks for small images, as He et al. built them for CIFAR."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHORTCUTS = ("projection", "pad")


class Block(nn.Module):
    """Two 3×3 convolutions around a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(in_channels, channels, stride, shortcut)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))


def _shortcut(in_channels: int, channels: int, stride: int, kind: str) -> nn.Module:
    if stride == 1 and in_channels == channels:
        return nn.Sequential()
    if kind == "pad":
        return PadShortcut(channels - in_channels, stride)
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 1, stride, bias=False),
        nn.BatchNorm2d(channels),
    )


class PadShortcut(nn.Module):
    """Every `stride`-th pixel, zeros for the new channels, half of them before and half after (option A)."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels, self.stride = new_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        before = self.new_channels // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before))


class ResNet(nn.Module):
    """Three groups of blocks of 1, 2 and 4 × `base` channels, each group after the first halving the image.

    Depth in layers is 6 · `blocks` + 2: ResNet-14 has 2 blocks a group, ResNet-20 has 3. `stride` is that of the first
    group; with 2 it halves the image too, which pays for twice the channels. Parameters are named as in
    akamaster/pytorch_resnet_cifar10, whose weights fit `shortcut="pad"`.

    Reference: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2.
    """

    def __init__(
        self,
        classes: int,
        in_channels: int = 3,
        blocks: int = 2,
        base: int = 16,
        shortcut: str = "projection",
        stride: int = 1,
    ) -> None:
        super().__init__()
        if min(blocks, base, stride) < 1:
            raise ValueError(f"blocks {blocks}, base {base} and stride {stride} must be 1 or more")
        if shortcut not in SHORTCUTS:
            raise ValueError(f"shortcut '{shortcut}' isn't known; there are {', '.join(SHORTCUTS)}")
        self.conv1 = nn.Conv2d(in_channels, base, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.relu = nn.ReLU()
        self.layer1 = _group(base, base, blocks, stride, shortcut)
        self.layer2 = _group(base, 2 * base, blocks, 2, shortcut)
        self.layer3 = _group(2 * base, 4 * base, blocks, 2, shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(4 * base, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(self.pool(x), 1))


def _group(in_channels: int, channels: int, blocks: int, stride: int, shortcut: str) -> nn.Sequential:
    first = Block(in_channels, channels, stride, shortcut)
    return nn.Sequential(first, *(Block(channels, channels, 1, shortcut) for _ in range(blocks - 1)))
