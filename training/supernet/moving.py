"""Operations that only move numbers about (views, permutations, slices, concatenations): no rule for each, they are
carried out on the channels' ids themselves, and so are the proofs that a width does the same."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import fx

from .channels import Channels, Ids, Layout
from .graphs import is_call, name_of
from .meta import apply
from .trace import Traced
from .walk import Walk

MOVES = tuple(
    """
    cat concat concatenate stack flatten unflatten view reshape squeeze unsqueeze permute transpose swapaxes
    swapdims movedim moveaxis t getattr getitem narrow select repeat repeat_interleave tile flip roll pixel_shuffle
    pixel_unshuffle channel_shuffle chunk split unbind view_as reshape_as hstack vstack
    """.split()  # noqa: SIM905
)


def moving(walk: Walk, node: fx.Node) -> Layout | None:
    """Where the channels went. If along several axes, those beside the one with the most freedom are tied together."""
    if not any(map(walk.layout, walk.inputs(node))):
        return None
    if _by_tensor(walk, node):
        walk.fix(node, f"{name_of(node)} by numbers in a tensor", *walk.inputs(node))
        return None
    ids = {source.name: _spread(walk, source) for source in walk.inputs(node)}
    try:
        moved = carried(walk.traced, node, node.args, node.kwargs, ids)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        walk.fix(node, f"{name_of(node)} can't be followed ({str(error).splitlines()[0]})", *walk.inputs(node))
        return None
    axes = _varying(moved)
    if any(axes) and not (axes[0] == 0 and node.name in walk.traced.batched):
        layout = _settled(walk, moved, axes)
        walk.moves.append(node.name)
        if is_call(node, "narrow", "getitem", "select"):
            walk.pieces[node.name] = layout.ids
        return layout
    walk.fix(node, f"{name_of(node)} moves channels where a width can't follow", *walk.inputs(node))
    return None


def _by_tensor(walk: Walk, node: fx.Node) -> bool:
    """What is taken depends on a tensor's values."""
    places: list[fx.Node] = []
    fx.node.map_arg(node.args[1:], places.append)
    return is_call(node, "getitem", "repeat_interleave") and any(place.name in walk.shapes for place in places)


def carried(traced: Traced, node: fx.Node, args: Any, kwargs: Any, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What a node makes of these tensors; numbers such as the batch size are the example's."""
    if is_call(node, "view"):  # works on the memory's order, which these stand-ins don't have
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    args, kwargs = fx.node.map_arg(
        (args, kwargs), lambda n: tensors[n.name] if n.name in tensors else traced.scalars[n.name]
    )
    moved: torch.Tensor = apply(traced.module, node, args, kwargs)
    return moved


def _spread(walk: Walk, source: fx.Node) -> torch.Tensor:
    """The ids of a tensor's channels in the shape of the tensor; those of one that stays full are FULL."""
    layout, shape = walk.layouts[source.name], walk.shapes[source.name]
    return (
        along(torch.zeros(1), 0, shape) if layout is None else along(torch.from_numpy(layout.ids), layout.axis, shape)
    )


def along(values: torch.Tensor, axis: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Values that change along one axis only, in this shape."""
    values = values.to(torch.int64)
    return values.view([-1 if i == axis else 1 for i in range(len(shape))]).expand(shape) if shape else values[0]


def _varying(moved: torch.Tensor) -> list[int]:
    return [
        axis for axis, size in enumerate(moved.shape) if size > 1 and bool((moved != moved.narrow(axis, 0, 1)).any())
    ]


def _settled(walk: Walk, moved: torch.Tensor, axes: list[int]) -> Layout:
    """Tie everything along all axes but one, and give the layout along that one."""
    others = [axis for axis in range(moved.dim()) if axis not in axes]
    for axis in sorted(others, reverse=True):
        moved = moved.select(axis, 0)
    table: Ids = moved.numpy()
    if len(axes) == 1:
        return Layout(axes[0], table.copy())
    choice = [i for i, axis in enumerate(axes) if axis > 0]  # the first axis is, or may hold, the batch
    best = max(choice, key=lambda i: _classes(walk, np.moveaxis(table, i, 0).reshape(table.shape[i], -1)))
    rows = np.moveaxis(table, best, 0).reshape(table.shape[best], -1)
    for row in rows:
        walk.partition.merge(row)
    return Layout(axes[best], rows[:, 0].copy())


def _classes(walk: Walk, rows: Ids) -> int:
    """How many atoms would be left if every row were tied; those that stay at full width don't count."""
    roots = walk.partition.find(rows)
    parent = {int(i): int(i) for i in np.unique(roots)}

    def top(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for row in roots:
        first = top(int(row[0]))
        for other in np.unique(row):
            a, b = sorted((first, top(int(other))))
            parent[b] = first = a
    return len({top(i) for i in parent} - {0})


def wrong_moves(traced: Traced, narrow: Traced, channels: Channels, width: float) -> dict[str, str]:
    """Moves that at this width don't give the channels that the layouts say, with the reason.

    Every channel of what a move reads gets a number of its own; the move of the kept ones must be the kept ones of the
    move.
    """
    wrong = {}
    twins = {node.name: node for node in narrow.graph.nodes}
    nodes = {node.name: node for node in traced.graph.nodes}
    for name in channels.moves:
        node, twin = nodes[name], twins[name]
        full, kept = _numbered(traced, channels, node, width)
        try:
            expected = carried(traced, node, node.args, node.kwargs, full)
            found = carried(traced, node, twin.args, twin.kwargs, kept)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            wrong[node.name] = f"{name_of(node)} fails at width {width}: {str(error).splitlines()[0]}"
            continue
        if not torch.equal(found, _restricted(channels, node.name, expected, width)):
            wrong[node.name] = f"{name_of(node)} gives other channels at width {width}"
    return wrong


def _numbered(
    traced: Traced, channels: Channels, node: fx.Node, width: float
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What a node reads with its channels numbered, at full width and at this one."""
    full, kept, start = {}, {}, 1
    for source in node.all_input_nodes:
        shape, layout = traced.shapes.get(source.name), channels.layouts.get(source.name)
        if shape is not None:
            count = 1 if layout is None else len(layout.ids)
            numbers = torch.arange(start, start + count)
            full[source.name] = along(numbers, layout.axis if layout else 0, shape)
            kept[source.name] = _restricted(channels, source.name, full[source.name], width)
            start += count
    return full, kept


def _restricted(channels: Channels, name: str, tensor: torch.Tensor, width: float) -> torch.Tensor:
    layout = channels.layouts.get(name)
    used = channels.indices(layout.ids, width) if layout else None
    return tensor if layout is None or used is None else tensor.index_select(layout.axis, torch.from_numpy(used))
