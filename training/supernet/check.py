"""The rules are checked, not trusted: channel groups are tried at every width, what doesn't fit stays at full width."""

import math
from collections.abc import Sequence

import numpy as np

from ..errors import TraceError
from .channels import Channels, Layout
from .function_rules import FUNCTIONS
from .layer_rules import rule_of
from .moving import wrong_moves
from .narrow import narrowed, with_shapes
from .skeleton import ancestors
from .trace import NodeError, Traced
from .walk import Walk

FEW_ATOMS = 3  # so few can't make four widths


def checked_channels(traced: Traced, widths: Sequence[float]) -> tuple[Channels, dict[float, Traced]]:
    """Channel groups, and the network at every width.

    Raises:
        ValueError: two widths come out the same.
        TraceError: some node fails at a width whatever stays full.
    """
    forced: dict[str, str] = {}
    within: frozenset[str] = frozenset()
    while True:
        channels, within = _freest(traced, forced, within, widths)
        wrong, narrow = _tried(traced, channels, widths)
        if not wrong:
            _check_distinct(channels, widths)
            return channels, narrow
        forced |= _new(traced, wrong, forced)


def _freest(
    traced: Traced, forced: dict[str, str], within: frozenset[str], widths: Sequence[float]
) -> tuple[Channels, frozenset[str]]:
    """Layers with groups lose whole groups, unless that leaves little to lose and narrowing inside of them more."""
    channels = Walk(traced, forced, within).run(rule_of, FUNCTIONS)
    while stuck := _stuck(channels) - within:
        others = Walk(traced, forced, within | stuck).run(rule_of, FUNCTIONS)
        if sum(_numbers(traced, others, w) for w in widths) >= sum(_numbers(traced, channels, w) for w in widths):
            break
        channels, within = others, within | stuck
    return channels, within


def _stuck(channels: Channels) -> frozenset[str]:
    """Layers with several channels a group that can lose hardly any group."""
    return frozenset(
        layer
        for layer, rows in channels.rows.items()
        if rows.shape[1] > 1 and len(np.unique(channels.roots(rows))) <= FEW_ATOMS
    )


def _numbers(traced: Traced, channels: Channels, width: float) -> int:
    """How many numbers of the parameters with channels a width uses."""
    used = 0
    for name, axes in channels.parameters.items():
        owner, _, last = name.rpartition(".")
        shape = getattr(traced.module.get_submodule(owner), last).shape
        counts = [channels.count(ids, width) for ids in axes]
        used += math.prod(size if count is None else count for size, count in zip(shape, counts, strict=True))
    return used


def _tried(traced: Traced, channels: Channels, widths: Sequence[float]) -> tuple[dict[str, str], dict[float, Traced]]:
    """Nodes that aren't what their layouts say at some width, with the reason; and the network at every width."""
    wrong: dict[str, str] = {}
    narrow = {width: narrowed(traced, channels, width) for width in sorted(widths)}
    for width in sorted(widths)[:-1]:
        wrong |= wrong_moves(traced, narrow[width], channels, width)
        wrong |= {
            name: "its last channels can't be left out alone"
            for name, ids in channels.ordered.items()
            if (used := channels.indices(ids, width)) is not None and used[-1] >= len(used)
        }
    if not wrong:
        for width, without in list(narrow.items()):
            try:
                narrow[width] = with_shapes(without)
            except NodeError as error:
                return {error.node: f"fails at width {width}: {error.reason}"}, narrow
            wrong |= _mismatch(traced, narrow[width], channels, width)
            if wrong:
                break
    return wrong, narrow


def _mismatch(traced: Traced, narrow: Traced, channels: Channels, width: float) -> dict[str, str]:
    """The first node whose tensor isn't of the shape that its layout says."""
    for name, layout in channels.layouts.items():
        found = narrow.shapes.get(name)
        if found != _expected(traced.shapes.get(name), channels, layout, width):
            return {name: f"has shape {found} at width {width}"}
    return {}


def _expected(
    shape: tuple[int, ...] | None, channels: Channels, layout: Layout | None, width: float
) -> tuple[int, ...] | None:
    if shape is None or layout is None:
        return shape
    return (*shape[: layout.axis], channels.count(layout.ids, width) or 0, *shape[layout.axis + 1 :])


def _new(traced: Traced, wrong: dict[str, str], forced: dict[str, str]) -> dict[str, str]:
    """What to force next: the wrong nodes, or where that has been tried all that leads there."""
    new = {name: reason for name, reason in wrong.items() if name not in forced}
    if new:
        return new
    nodes = {node.name: node for node in traced.graph.nodes}
    name, reason = next(iter(wrong.items()))
    new = {node.name: f"leads to {name}, which {reason}" for node in ancestors(nodes[name]) if node.name not in forced}
    if not new:
        raise TraceError(f"{name} {reason}, and would at full width; the network can't become a supernet")
    return new


def _check_distinct(channels: Channels, widths: Sequence[float]) -> None:
    seen: dict[tuple[int, ...], float] = {}
    for width in sorted(widths):
        sizes = channels.sizes(width)
        if sizes in seen:
            raise ValueError(
                f"widths {seen[sizes]} and {width} come out the same here (channels round to multiples of 8; "
                f"there are {len(channels.groups)} channel groups to narrow); leave one out"
            )
        seen[sizes] = width
