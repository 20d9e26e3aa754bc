"""A supernet becomes one of another shape: with fewer channels, or with two layers in the place of one."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import fx, nn
from torch.nn.modules import batchnorm

from .channels import Ids
from .check import checked_channels
from .cuts import Cut, find_cuts
from .meta import meta_copy
from .narrow import narrowed, tensors_of, with_shapes
from .supernet import Plan, Supernet
from .trace import Traced, propagate

Pair = tuple[nn.Module, nn.Module]


def without_channels(net: Supernet, kept: Sequence[Ids]) -> Supernet:
    """A supernet of the same widths and exits with only these channels; the numbers of what is left are kept.

    What is left keeps its order, so the leading channels still are the ones that every width uses; a width is now a
    share of fewer channels.

    Args:
        kept: for each of `net.plan.channels.groups`, the ranks of the atoms that stay, ascending, at least one.

    Raises:
        ValueError: not one entry for each group, an entry that is empty, out of order or out of range, one that leaves
            a gap in a group whose order an operation depends on, or two widths would come out the same.
    """
    _check_kept(net, kept)
    channels, module = net.plan.channels, net.shared
    bare = with_shapes(narrowed(net.plan.traced, channels, tuple(map(len, kept))))
    places = {
        name: [None if ids is None else torch.from_numpy(channels.places(ids, kept)) for ids in axes]
        for name, axes in channels.parameters.items()
    }
    taken: dict[int, torch.Tensor] = {}  # tied ones stay tied
    for name, value in tensors_of(module):
        _put(bare.module, name, taken.setdefault(id(value), _taken(value, places.get(name, []))))
    smaller = _remade(net, replace(bare, module=fx.GraphModule(bare.module, bare.graph)))
    _carry_norms(net, smaller, places)
    return smaller


def with_layers_split(net: Supernet, pairs: Mapping[str, Pair]) -> Supernet:
    """A supernet in which two layers in a row take the place of one, called `NAME.0` and `NAME.1`; all other numbers
    are kept.

    What the first of the two puts out is a channel group of its own, or part of its input's for a depthwise one.

    Raises:
        ValueError: there is no such layer, or the graph calls it several times.
    """
    module = cast(fx.GraphModule, copy.deepcopy(net.shared))
    old = net.plan.traced
    batched, nodes = set(old.batched), {str(n.target): n for n in module.graph.nodes if n.op == "call_module"}
    for name, (first, second) in pairs.items():
        calls = [node for node in module.graph.nodes if node.op == "call_module" and node.target == name]
        if len(calls) != 1:
            raise ValueError(f"layer '{name}' is called {len(calls)} times, one call can be split; of {sorted(nodes)}")
        (node,) = calls
        module.set_submodule(name, nn.Sequential(first, second))
        with module.graph.inserting_before(node):
            before = module.graph.call_module(f"{name}.0", node.args, node.kwargs)
        node.target, node.args, node.kwargs = f"{name}.1", (before,), {}
        if node.name in batched:
            batched.add(before.name)
    module.recompile()
    values = propagate(meta_copy(module), module.graph, old.example)
    shapes = {name: tuple(value.shape) for name, value in values.items() if isinstance(value, torch.Tensor)}
    split = _remade(net, replace(old, module=module, graph=module.graph, shapes=shapes, batched=batched))
    _carry_norms(net, split, {})
    return split


def _remade(net: Supernet, traced: Traced) -> Supernet:
    """The supernet of a changed graph, whose nodes are called as before, with the same widths, stem and exits."""
    channels, narrow = checked_channels(traced, net.widths)
    cuts = {cut.node: cut for cut in find_cuts(traced)}

    def still(cut: Cut) -> Cut:
        return cuts.get(cut.node, cut)  # the input itself, where no layer is shared, isn't among them

    plan = net.plan
    made = Plan(
        traced, channels, tuple(cuts.values()), still(plan.stem), tuple(map(still, plan.exits)), plan.head, narrow
    )
    return Supernet(made, net.widths).train(net.training)


def _check_kept(net: Supernet, kept: Sequence[Ids]) -> None:
    groups, unsorted = net.plan.channels.groups, net.plan.channels.unsorted
    if len(kept) != len(groups):
        raise ValueError(f"{len(kept)} entries of kept atoms for {len(groups)} channel groups; give one for each")
    for number, (group, atoms) in enumerate(zip(groups, kept, strict=True)):
        if not len(atoms) or atoms[0] < 0 or atoms[-1] >= group.atoms or (np.diff(atoms) <= 0).any():
            raise ValueError(
                f"kept atoms of {group.name} are {list(atoms)}; give ascending ranks of 0 to {group.atoms - 1}, one at "
                "least"
            )
        if number in unsorted and atoms[-1] != len(atoms) - 1:
            raise ValueError(
                f"kept atoms of {group.name} are {list(atoms)}; its order matters, so only the last can go: keep 0 to n"
            )


def _taken(value: torch.Tensor, places: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """A copy of these places of each axis."""
    taken = value.detach().clone()
    for axis, chosen in enumerate(places):
        if chosen is not None:
            taken = taken.index_select(axis, chosen.to(value.device))
    return nn.Parameter(taken, value.requires_grad) if isinstance(value, nn.Parameter) else taken


def _put(module: nn.Module, name: str, value: torch.Tensor) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(owner), attribute, value)


def _carry_norms(old: Supernet, new: Supernet, places: Mapping[str, Sequence[torch.Tensor | None]]) -> None:
    """The narrower widths' own norms; a channel that a width hadn't before gets the next wider width's numbers."""
    for layer, norm in old.shared.named_modules():
        if not isinstance(norm, batchnorm._BatchNorm):
            continue
        for attribute in (*norm._parameters, *norm._buffers):
            full: Any = getattr(norm, attribute)
            name = f"{layer}.{attribute}"
            for width in sorted(new.widths, reverse=True)[1:]:
                theirs, ours = (net._own[width].get(layer) for net in (old, new))
                if theirs is None or ours is None or full is None:
                    continue
                full = _overlaid(old, name, full, getattr(theirs, attribute), width)
                with torch.no_grad():
                    kept = _taken(full, places.get(name, []))
                    getattr(ours, attribute).copy_(_leading(new, name, kept, width))


def _overlaid(net: Supernet, name: str, full: torch.Tensor, own: torch.Tensor, width: float) -> torch.Tensor:
    """All channels' numbers, those that a width has being its own."""
    used = _used(net, name, width)
    if used is None:
        return own.detach().clone()
    laid = full.detach().clone()
    laid[used] = own.detach()
    return laid


def _leading(net: Supernet, name: str, full: torch.Tensor, width: float) -> torch.Tensor:
    used = _used(net, name, width)
    return full if used is None else full[used]


def _used(net: Supernet, name: str, width: float) -> torch.Tensor | None:
    axes = net.plan.channels.parameters.get(name, [])
    used = net.plan.channels.indices(axes[0], width) if axes else None
    return None if used is None else torch.from_numpy(used)
