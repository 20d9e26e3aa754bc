"""Depthwise convolutions in bf16 whose gradients are quick on processors.

Two of the bf16 kernels of torch 2.13 (oneDNN, AVX-512) take 5 to 30 times as long as these ways around them: the
weight's gradient of kernels over 3×3 (it takes the convolution for one of dense groups) and the input's gradient at
strides over 1; measured on EfficientNet-Lite0's layers at 160 pixels, whose step gets twice as fast. Both gradients are
depthwise convolutions themselves, for which there are quick kernels; in float32 only a little would be gained.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]
SLOW_KERNEL = 3  # larger ones have a slow gradient of the weight
ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def has_depthwise(net: nn.Module) -> bool:
    """Whether any layer is a depthwise convolution."""
    return any(isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1 for layer in net.modules())


class QuickDepthwise(TorchFunctionMode):
    """Within this, `conv2d` in bf16 on a processor has these gradients where its own are slow; numbers are the same but
    for rounding."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is F.conv2d:
            given = dict(zip(ARGUMENTS, args, strict=False)) | (kwargs or {})
            if _slow(**given):
                return _quick(**given)
        return function(*args, **(kwargs or {}))


def _slow(
    input: Tensor, weight: Tensor, groups: int = 1, stride: Any = 1, padding: Any = 0, dilation: Any = 1, **_: Any
) -> bool:
    depthwise = groups > 1 and groups == input.shape[1] == len(weight)
    if not depthwise or input.device.type != "cpu" or _dtype(input) is not torch.bfloat16:
        return False
    usual = input.dim() == 4 and not isinstance(padding, str) and _pair(dilation) == (1, 1)
    small = usual and all(p < k for p, k in zip(_pair(padding), weight.shape[2:], strict=True))
    return small and (max(weight.shape[2:]) > SLOW_KERNEL or max(_pair(stride)) > 1)


def _dtype(input: Tensor) -> torch.dtype:
    """What the convolution computes in."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype


def _quick(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, **_: Any
) -> Tensor:
    x, kernel = input.to(torch.bfloat16), weight.to(torch.bfloat16)
    result: Tensor = _Depthwise.apply(x, kernel, _pair(stride), _pair(padding))
    return result if bias is None else result + bias.to(torch.bfloat16).view(-1, 1, 1)


class _Depthwise(torch.autograd.Function):
    """`conv2d(x, weight, groups=channels)`: x (N, C, H, W), weight (C, 1, kh, kw)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad[:2]
        both = (grads[0], x, weight, ctx.stride, ctx.padding)
        return _input_gradient(*both) if of_x else None, _weight_gradient(*both) if of_weight else None, None, None


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """The full correlation of the gradient, its values `stride` apart with zeros between, with the weight."""
    if max(stride) == 1:
        return _native(grad, x, weight, stride, padding, (True, False))
    margins = [k - 1 - p for k, p in zip(weight.shape[2:], padding, strict=True)]
    sides = [size + k - 1 - 2 * m for size, k, m in zip(x.shape[2:], weight.shape[2:], margins, strict=True)]
    shape = (*x.shape[:2], *sides)
    spread = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last).zero_()
    spread[:, :, : grad.shape[2] * stride[0] : stride[0], : grad.shape[3] * stride[1] : stride[1]] = grad
    return F.conv2d(spread, weight.flip(2, 3), None, 1, margins, 1, len(weight))


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Every sample's channel correlated with its gradient, which is a depthwise convolution too, then summed."""
    if max(weight.shape[2:]) <= SLOW_KERNEL:
        return _native(grad, x, weight, stride, padding, (False, True))
    samples, channels = x.shape[:2]
    rows = x.contiguous().view(1, samples * channels, *x.shape[2:])
    kernels = grad.contiguous().view(samples * channels, 1, *grad.shape[2:])
    found = F.conv2d(rows, kernels, None, 1, padding, stride, samples * channels)
    kh, kw = weight.shape[2:]
    taps = found.view(samples, channels, *found.shape[2:])[:, :, :kh, :kw]
    return taps.sum(0).unsqueeze(1)


def _native(grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, wanted: tuple[bool, bool]) -> Tensor:
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight), (*wanted, False)
    )
    return found[0] if wanted[0] else found[1]


def _pair(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))
