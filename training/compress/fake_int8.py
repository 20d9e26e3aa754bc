"""Activations as int8 graphs have them, while a network is trained in floating point."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

LEVELS = 255
READERS = (F.conv1d, F.conv2d, F.conv3d, F.linear)
JOINS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)


class FakeActivations(TorchFunctionMode):
    """Within this, what convolutions, linear layers and sums of two activations read is rounded to 256 steps between
    the batch's lowest and highest number, zero among them; gradients pass straight through.

    The export finds one range a tensor on calibration data; that of a batch differs from it by little, and needs no
    state.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in READERS:
            args = (rounded(args[0]), *args[1:])
        elif function in JOINS and _activations(args[:2]):
            args = (*map(rounded, args[:2]), *args[2:])
        return function(*args, **(kwargs or {}))


def _activations(summands: tuple[Any, ...]) -> bool:
    """Whether two are of the same batch; a bias or another constant isn't, which int8 graphs add unrounded."""
    kinds = {(arg.dim(), arg.shape[0]) if isinstance(arg, Tensor) and arg.dim() > 1 else None for arg in summands}
    return len(summands) == 2 and len(kinds) == 1 and None not in kinds


def rounded(x: Tensor) -> Tensor:
    """To 256 steps from the lowest to the highest number, or zero."""
    with torch.no_grad():
        low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
        scale = ((high - low) / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        zero = (-low / scale).round()
        there = ((x / scale + zero).round().clamp(0, LEVELS) - zero) * scale
        change = there - x
    return x + change.to(x.dtype)
