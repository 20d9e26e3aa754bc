"""Anyone's classifier becomes a supernet."""

from collections.abc import Sequence

import torch
from torch import nn

from .channels import Channels, Layout
from .cuts import choose_exits, find_cuts, stem_end
from .exits import graft_exits
from .importance import sort_channels
from .rules import Walk
from .skeleton import narrowed
from .supernet import Plan, Supernet
from .trace import NodeError, Traced, trace

WIDTHS = (0.25, 0.5, 0.75, 1.0)


def make_supernet(
    model: nn.Module,
    example: torch.Tensor,
    widths: Sequence[float] = WIDTHS,
    exits: int | Sequence[float] | Sequence[str] = 4,
    head: str = "linear",
    sort: bool = True,
) -> Supernet:
    """A supernet from a plain classifier; the model itself is left as it is.

    Right after this the full width's final exit answers what the model answers.

    Args:
        example: (batch, …) an input; only its shape and type matter.
        widths: ascending or not, each in (0, 1]; 1.0, the network itself, must be among them.
        exits: how many in all, or their shares of the MACs, or names of layers (see `stretto trace`).
        head: which classifier the early exits get, a key of `exits.HEADS`.
        sort: put each group's most important channels first.

    Raises:
        TraceError: the network can't be traced or cut.
        ValueError: widths, exits or head that this network can't have; names what is allowed.
    """
    plan = make_plan(model, example, widths, exits, head)
    if sort:
        sort_channels(plan.traced.module, plan.channels)
    return Supernet(plan, sorted(widths))


def make_plan(
    model: nn.Module,
    example: torch.Tensor,
    widths: Sequence[float] = WIDTHS,
    exits: int | Sequence[float] | Sequence[str] = 4,
    head: str = "linear",
) -> Plan:
    """What would become of a network; see `make_supernet`."""
    _check_widths(widths)
    traced = trace(model, example)
    cuts = find_cuts(traced)
    stem = stem_end(traced, cuts)
    early = choose_exits(cuts, exits, stem)
    graft_exits(traced, early, Walk(traced, {}).run().layouts, head)
    channels = checked_channels(traced, widths)
    _check_distinct(channels, widths)
    return Plan(traced, channels, tuple(cuts), stem, tuple(early), head)


def checked_channels(traced: Traced, widths: Sequence[float]) -> Channels:
    """Channel groups whose shapes were tried at every width; what doesn't fit is fixed at full width."""
    forced: dict[str, str] = {}
    while True:
        channels = Walk(traced, forced).run()
        wrong = _irregular(channels) | _mismatches(traced, channels, widths)
        if not wrong.keys() - forced.keys():
            return channels
        forced |= wrong


def _irregular(channels: Channels) -> dict[str, str]:
    """Tensors that carry a group whose channels aren't all used alike."""
    bad = {int(i) for ids in channels.irregular for i in ids}
    return {
        name: "its channels are used in unequal numbers"
        for name, layout in channels.layouts.items()
        if layout is not None and bad & set(channels.roots(layout.ids).tolist())
    }


def _mismatches(traced: Traced, channels: Channels, widths: Sequence[float]) -> dict[str, str]:
    """The first node whose tensor isn't what its layout says at some width, with the reason."""
    for width in widths:
        try:
            shapes = narrowed(traced, channels, width).shapes
        except NodeError as error:
            return {error.node: f"fails at width {width}"}
        for name, layout in channels.layouts.items():
            if shapes.get(name) != _expected(traced.shapes.get(name), channels, layout, width):
                return {name: f"has shape {shapes.get(name)} at width {width}"}
    return {}


def _expected(
    shape: tuple[int, ...] | None, channels: Channels, layout: Layout | None, width: float
) -> tuple[int, ...] | None:
    if shape is None or layout is None:
        return shape
    return (*shape[: layout.axis], channels.count(layout.ids, width) or 0, *shape[layout.axis + 1 :])


def _check_widths(widths: Sequence[float]) -> None:
    wrong = [w for w in widths if not 0 < w <= 1]
    if wrong or len(set(widths)) != len(widths) or 1.0 not in widths:
        raise ValueError(
            f"widths {list(widths)}: they must be distinct, in (0, 1], and include 1.0 (the network itself)"
        )


def _check_distinct(channels: Channels, widths: Sequence[float]) -> None:
    seen: dict[tuple[int, ...], float] = {}
    for width in sorted(widths):
        sizes = channels.sizes(width)
        if sizes in seen:
            raise ValueError(
                f"widths {seen[sizes]} and {width} come out the same in this network (channels round to multiples of 8, "
                f"{len(channels.groups)} channel groups can be narrowed); leave one out"
            )
        seen[sizes] = width
