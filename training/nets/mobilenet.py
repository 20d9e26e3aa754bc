"""MobileNet v1: depthwise separable convolutions, for photos and for small images."""

import torch
from torch import Tensor, nn

# Channels at multiplier 1 and stride of every separable block (table 1 of the paper).
BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (1024, 2), (1024, 1),
)  # fmt: skip
STEM_CHANNELS = 32
# Below this side the plan for photos, which divides it by 32, leaves next to nothing of the image.
SMALL_SIDE = 96


class Separable(nn.Sequential):
    """A depthwise 3×3 and a pointwise convolution, each with batch norm and ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False),
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Conv2d(in_channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )


class MobileNet(nn.Module):
    """A full convolution, 13 separable blocks, pooling and a linear layer; images of any size.

    `small_input` leaves out the first two halvings (the image shrinks by 8 in all instead of 32).

    Reference: Howard et al., MobileNets, 2017.
    """

    def __init__(self, classes: int, in_channels: int = 3, multiplier: float = 1.0, small_input: bool = False) -> None:
        super().__init__()
        if multiplier <= 0:
            raise ValueError(f"multiplier {multiplier} must be above 0")
        channels = _channels(STEM_CHANNELS, multiplier)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, 1 if small_input else 2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        blocks: list[nn.Module] = []
        for index, (full, stride) in enumerate(BLOCKS):
            blocks.append(Separable(channels, _channels(full, multiplier), 1 if small_input and index == 1 else stride))
            channels = _channels(full, multiplier)
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))


def _channels(full: int, multiplier: float) -> int:
    """Nearest multiple of 8, at least 8."""
    return max(8, int(full * multiplier / 8 + 0.5) * 8)


def mobilenet(
    classes: int,
    in_channels: int = 3,
    multiplier: float = 1.0,
    small_input: bool | None = None,
    input_shape: tuple[int, int, int] | None = None,
) -> MobileNet:
    """MobileNet v1; `small_input` None decides by the shorter side of `input_shape` (C, H, W), small below 96."""
    if small_input is None:
        small_input = input_shape is not None and min(input_shape[1:]) < SMALL_SIDE
    return MobileNet(classes, in_channels, multiplier, small_input)
