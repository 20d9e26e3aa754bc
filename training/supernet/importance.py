"""Sorting channels: the leading ones of every group should matter most, since they are in every width."""

from collections.abc import Iterator

import torch
from torch import nn

from .channels import Channels, Ids


def sort_channels(module: nn.Module, channels: Channels) -> None:
    """Reorder every group's atoms by falling importance, in all parameters and buffers that carry them.

    The network computes the same afterwards; groups whose order an operation depends on stay as they are. Importance of
    an atom is the sum of the absolute weights of every convolution and linear layer that writes or reads it, each
    layer's share scaled to sum to one (L1 norm, as in Li et al., Pruning Filters for Efficient ConvNets, 2017, and Once
    for All's channel sorting, 2020).
    """
    orders = [
        torch.arange(len(score)) if number in channels.unsorted else score.argsort(descending=True, stable=True)
        for number, score in enumerate(importance(module, channels))
    ]
    with torch.no_grad():
        for _, value, axes in _carriers(module, channels):
            for axis, ids in enumerate(axes):
                if ids is not None:
                    order = torch.from_numpy(_reordered(channels, ids, orders)).to(value.device)
                    value.copy_(value.index_select(axis, order))


def importance(module: nn.Module, channels: Channels) -> list[torch.Tensor]:
    """One (atoms,) vector a channel group; see `sort_channels`."""
    scores = [torch.zeros(group.atoms, dtype=torch.float64) for group in channels.groups]
    for name, value, axes in _carriers(module, channels):
        if value.dim() < 2 or not name.endswith("weight"):
            continue
        for axis, ids in enumerate(axes):
            if ids is None:
                continue
            size = value.detach().abs().to("cpu", torch.float64).transpose(0, axis).flatten(1).sum(1)
            size = size / size.sum().clamp_min(1e-30)
            groups, ranks = torch.from_numpy(channels.group_of(ids)), torch.from_numpy(channels.rank(ids))
            for number in groups.unique().tolist():
                if number >= 0:
                    here = groups == number
                    scores[number].index_add_(0, ranks[here], size[here])
    return scores


def _carriers(module: nn.Module, channels: Channels) -> Iterator[tuple[str, torch.Tensor, list[Ids | None]]]:
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    for name, axes in channels.parameters.items():
        yield name, tensors[name], axes


def _reordered(channels: Channels, ids: Ids, orders: list[torch.Tensor]) -> Ids:
    """For every place of an axis, the old place whose channel belongs there.

    An atom with several places (a flattened image, a whole group of channels) keeps their order within it.
    """
    groups, ranks = channels.group_of(ids), channels.rank(ids)
    places: dict[tuple[int, int], list[int]] = {}
    for place, key in enumerate(zip(groups.tolist(), ranks.tolist(), strict=True)):
        places.setdefault(key, []).append(place)
    result = ids.copy()
    for (group, rank), new in places.items():
        old = new if group < 0 else places[group, int(orders[group][rank])]
        result[new] = old
    return result
