"""One layer as two that are cheaper, with the numbers that come nearest to it."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from ..supernet.edit import Pair


def singular_values(layer: nn.Module) -> Tensor:
    """Of a layer's weight as a matrix, (outputs, inputs · kernel), falling."""
    return torch.linalg.svdvals(_matrix(layer))


def low_rank_pair(layer: nn.Module, rank: int) -> Pair:
    """A linear layer or convolution of M × N as one of M × K and one of K × N, from the truncated singular value
    decomposition; the bias stays. At full rank it is the same layer.

    The first keeps kernel and stride and has the components of largest singular values first, so that a width that
    leaves out the last of them leaves out the least; both get the square root of the values, so that neither learns
    faster than the other.

    Raises:
        ValueError: the layer is grouped or neither linear nor a convolution, or has no such rank.

    Reference: Denton et al., Exploiting Linear Structure within Convolutional Networks, NeurIPS 2014.
    """
    _check_dense(layer)
    matrix = _matrix(layer)
    if not 1 <= rank <= min(matrix.shape):
        raise ValueError(f"rank {rank} of a weight of {tuple(matrix.shape)}; it can be 1 to {min(matrix.shape)}")
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    first, second = _two(layer, rank)
    _set(first, (root[:, None] * v[:rank]).view(first.weight.shape))
    _set(second, (u[:, :rank] * root).view(second.weight.shape))
    return first, second


def separable_pair(layer: nn.Module) -> Pair:
    """A convolution of N channels and a k × k kernel as a depthwise and a pointwise one, with 1/N + 1/k² of its
    weights: for each input channel the nearest product of one kernel and one factor an output channel.

    Raises:
        ValueError: the layer isn't a convolution without groups of a kernel over 1 × 1.

    Reference: Howard et al., MobileNets, 2017, section 3.1 (the cost); the nearest product is the first term of each
    input channel's singular value decomposition.
    """
    _check_dense(layer)
    if not isinstance(layer, nn.Conv2d) or max(layer.kernel_size) == 1:
        raise ValueError(f"{layer} can't become separable; it takes a Conv2d with a kernel over 1 × 1")
    outputs, inputs = layer.weight.shape[:2]
    kernels = layer.weight.detach().double().permute(1, 0, 2, 3).flatten(2)  # (inputs, outputs, k²)
    u, s, v = torch.linalg.svd(kernels, full_matrices=False)
    root = s[:, 0].sqrt()
    first = nn.Conv2d(inputs, inputs, bias=False, groups=inputs, **_place(layer))
    second = nn.Conv2d(inputs, outputs, 1, bias=layer.bias is not None)
    _set(first, (root[:, None] * v[:, 0]).view(first.weight.shape))
    _set(second, (u[:, :, 0] * root[:, None]).T.reshape(second.weight.shape))
    return _like(layer, first, second)


def pair_macs(layer: nn.Module, rank: int) -> int:
    """Multiply-accumulates of a low-rank pair for one place of what comes out."""
    outputs, inputs = _matrix(layer).shape
    return rank * (outputs + inputs)


def is_dense(layer: nn.Module) -> bool:
    """A linear layer, or a convolution without groups."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def _check_dense(layer: nn.Module) -> None:
    if not is_dense(layer):
        raise ValueError(f"{layer} can't be made of two; it takes a Linear or a Conv2d without groups")


def _matrix(layer: nn.Module) -> Tensor:
    return cast(Tensor, layer.weight).detach().flatten(1).double()


def _two(layer: Any, rank: int) -> tuple[Any, Any]:
    """The two layers, whose numbers aren't set yet but for the bias."""
    has_bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        pair: Any = nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features, bias=has_bias)
    else:
        first = nn.Conv2d(layer.in_channels, rank, bias=False, **_place(layer))
        pair = first, nn.Conv2d(rank, layer.out_channels, 1, bias=has_bias)
    return _like(layer, *pair)


def _place(layer: nn.Conv2d) -> dict[str, Any]:
    names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    return {name: getattr(layer, name) for name in names}


def _like(layer: Any, first: Any, second: Any) -> tuple[Any, Any]:
    """Of the layer's type and place, with its bias."""
    first, second = (new.to(layer.weight.device, layer.weight.dtype).train(layer.training) for new in (first, second))
    if layer.bias is not None:
        second.bias.data.copy_(layer.bias.detach())
    return first, second


def _set(layer: Any, numbers: Tensor) -> None:
    layer.weight.data.copy_(numbers)
