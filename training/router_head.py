"""The small network on the stem's features that says of every operating point how likely it is right."""

from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .errors import ExportError
from .supernet.cuts import macs
from .supernet.trace import trace

# channels, and cells along each axis, that are tried for the largest that is within the budget
SIZES = ((64, 8), (48, 8), (32, 8), (24, 8), (16, 8), (16, 4), (8, 4), (8, 2))
SHARE = 0.03  # of the full network's MACs, at most
_SMALL = 1e-3


class RouterHead(nn.Module):
    """Means of cells, three depthwise-separable convolutions, a mean over all, and a linear layer.

    Features are taken as (samples, channels, height, width); with fewer axes the missing ones have size 1, more are
    put into the last. Of a cell the mean is enough, as the stem sees edges and colours, not what they are of; it
    doesn't change in training, so `pooled` is worked out once, and `judge` goes on from there.

    Args:
        shape: of the stem's features, without the batch.
        points: how many there are.
        channels: between the convolutions.
        cells: along each axis, about.
    """

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, shape: tuple[int, ...], points: int, channels: int, cells: int) -> None:
        super().__init__()
        inputs, height, width = shape[0], shape[1] if len(shape) > 1 else 1, prod(shape[2:])
        self._image = None if len(shape) == 3 else (inputs, height, width)
        self.cells = nn.AvgPool2d((max(1, height // cells), max(1, width // cells)))
        self.register_buffer("mean", torch.zeros(inputs, 1, 1))
        self.register_buffer("spread", torch.ones(inputs, 1, 1))
        self.body = nn.Sequential(
            *_separable(inputs, channels, 1), *_separable(channels, channels, 2), *_separable(channels, channels, 1)
        )
        self.last = nn.Linear(channels, points)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(samples, points): log-odds of being right."""
        return self.judge(self.pooled(features))

    def pooled(self, features: torch.Tensor) -> torch.Tensor:
        """(samples, channels, rows, columns): the features' means in cells."""
        image = features if self._image is None else features.reshape(-1, *self._image)
        means: torch.Tensor = self.cells(image)
        return means

    def judge(self, cells: torch.Tensor) -> torch.Tensor:
        """`forward` from the cells on."""
        odds: torch.Tensor = self.last(self.summary(cells))
        return odds

    def summary(self, cells: torch.Tensor) -> torch.Tensor:
        """(samples, channels): what the last layer judges by."""
        found: torch.Tensor = self.body((cells - self.mean) / self.spread).mean((2, 3))
        return found

    def standardise(self, cells: torch.Tensor) -> None:
        """Makes each channel of these cells have mean 0 and deviation 1 where the convolutions take it."""
        std, mean = torch.std_mean(cells.float(), (0, 2, 3))
        self.mean, self.spread = mean[:, None, None], std[:, None, None] + _SMALL

    def correct(self, slopes: NDArray[np.floating], offsets: NDArray[np.floating]) -> None:
        """Makes log-odds `slopes` times what they were, plus `offsets`; (points,) each."""
        slope, offset = torch.from_numpy(slopes).float(), torch.from_numpy(offsets).float()
        with torch.no_grad():
            self.last.weight.mul_(slope[:, None])
            self.last.bias.mul_(slope).add_(offset)


def _separable(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
    pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
    return [depthwise, nn.BatchNorm2d(inputs), nn.ReLU(), pointwise, nn.BatchNorm2d(outputs), nn.ReLU()]


def make_head(shape: tuple[int, ...], points: int, full_macs: int) -> tuple[RouterHead, int]:
    """The largest head that takes at most `SHARE` of the full network's MACs, and its own.

    Raises:
        ExportError: not even the smallest does.
    """
    for channels, cells in SIZES:
        head = RouterHead(shape, points, channels, cells)
        taken = head_macs(head, shape)
        if taken <= SHARE * full_macs:
            return head, taken
    raise ExportError(
        f"a router on features {shape} takes {taken} MACs at least, {taken / full_macs:.1%} of the full network's "
        f"{full_macs}; more than {SHARE:.0%} doesn't pay, so leave the router out"
    )


def head_macs(head: RouterHead, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates for one sample."""
    return sum(macs(trace(head, torch.zeros(2, *shape))).values())
