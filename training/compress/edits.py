"""Changes of a supernet's shape, written down so that a checkpoint's network can be made again."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from torch import nn

from ..supernet import Supernet
from ..supernet.edit import with_layers_split, without_channels
from .factors import low_rank_pair, separable_pair

Edit = dict[str, Any]  # `kind`, a key of EDITS, and what that one needs; plain values


def edited(net: Supernet, edits: Iterable[Edit]) -> Supernet:
    """The network after these changes, in turn; its numbers are of no use yet, as a checkpoint's take their place.

    Raises:
        ValueError: an edit isn't known, or doesn't fit the network.
    """
    for edit in edits:
        make = EDITS.get(edit.get("kind", ""))
        if make is None:
            raise ValueError(f"edit of kind {edit.get('kind')!r} isn't known; there are {', '.join(EDITS)}")
        net = make(net, edit)
    return net


def channels_edit(sizes: Iterable[int]) -> Edit:
    """So many atoms left of each channel group."""
    return {"kind": "channels", "sizes": [int(size) for size in sizes]}


def low_rank_edit(ranks: Mapping[str, int]) -> Edit:
    """Two layers of that rank between them in the place of each."""
    return {"kind": "low_rank", "ranks": dict(ranks)}


def separable_edit(layers: Iterable[str]) -> Edit:
    """A depthwise and a pointwise convolution in the place of each."""
    return {"kind": "separable", "layers": list(layers)}


def _fewer_channels(net: Supernet, edit: Edit) -> Supernet:
    return without_channels(net, [np.arange(size) for size in edit["sizes"]])


def _low_rank(net: Supernet, edit: Edit) -> Supernet:
    return with_layers_split(net, {name: low_rank_pair(_layer(net, name), k) for name, k in edit["ranks"].items()})


def _separable(net: Supernet, edit: Edit) -> Supernet:
    return with_layers_split(net, {name: separable_pair(_layer(net, name)) for name in edit["layers"]})


def _layer(net: Supernet, name: str) -> nn.Module:
    return net.shared.get_submodule(name)


EDITS: dict[str, Callable[[Supernet, Edit], Supernet]] = {
    "channels": _fewer_channels,
    "low_rank": _low_rank,
    "separable": _separable,
}
