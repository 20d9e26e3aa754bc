"""Channels that matter least are removed for real: fewer MACs, faster graphs."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..limits import Limit
from ..supernet import Supernet
from ..supernet.channels import Ids
from ..supernet.cuts import macs as macs_of
from ..supernet.edit import without_channels
from ..supernet.skeleton import ancestors
from .edits import channels_edit
from .importance import OF_CHANNELS, AtomScores
from .recipe import check_choice, check_options
from .subject import Subject
from .tuning import Workshop

Sizes = NDArray[np.int64]  # atoms left of each channel group


@dataclass(frozen=True, slots=True)
class PruneChannels:
    """Evaluate importance, remove, fine-tune, repeat, along the supernet's channel groups (Fang et al., DepGraph, CVPR
    2023). What is left keeps its order, so the leading channels stay those that every width uses.

    share: of all channels that groups hold, how much goes in the end, in [0, 1): exactly that many, rounded, of groups
        whose channels go one by one.
    macs: instead, the share of the full width's MACs that is left at most, in (0, 1]; then a channel is worth its
        importance over the MACs that it takes.
    steps: how often to remove and fine-tune, each time for `epochs`.
    importance: a key of `OF_CHANNELS`, evaluated on `samples` training images.
    multiple: channels of a group go by so many, since graphs compute them in blocks; of a `share` the last ones by
        fewer. least: so many of a group stay.
    """

    share: float = 0.0
    macs: float | None = None
    steps: int = 1
    importance: str = "taylor"
    samples: int = 1024
    multiple: int = 1
    least: int = 8

    def __post_init__(self) -> None:
        check_options(self, share=self.share)
        check_choice("importance", self.importance, OF_CHANNELS)
        if self.macs is not None and (not 0 < self.macs <= 1 or self.share):
            raise ValueError(f"macs {self.macs} and share {self.share}: give one of them, macs in (0, 1]")
        for name in ("steps", "samples", "multiple", "least"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be 1 or more")

    def run(self, subject: Subject, shop: Workshop) -> tuple[Subject, dict[str, Any]]:
        """Prune in steps; gives a network of its own."""
        start = _Cost(subject.net)
        total, full = start.channels(start.sizes), start.macs(start.sizes)
        if not self.share and self.macs in (None, 1.0):
            return subject, {"channels": total, "removed": 0, "macs_left": 1.0}
        for step in range(1, self.steps + 1):
            done = step / self.steps
            cost = _Cost(subject.net)
            goal = round(self.share * done * total) - (total - cost.channels(cost.sizes))
            most = None if self.macs is None else self.macs**done * full
            scores = OF_CHANNELS[self.importance](subject.net, subject.batches("train", most=self.samples))
            kept = self._chosen(subject.net, cost, scores, goal, most)
            subject = shop.tune(_smaller(subject, kept))
        end = _Cost(subject.net)
        return subject, {
            "channels": total,
            "removed": total - end.channels(end.sizes),
            "macs_left": end.macs(end.sizes) / full,
            "sizes": {g.name: g.size for g in subject.net.plan.channels.groups},
        }

    def _chosen(self, net: Supernet, cost: "_Cost", scores: AtomScores, goal: int, most: float | None) -> list[Ids]:
        """The atoms that stay of each group, after blocks of the cheapest loss went one after the other."""
        groups, unsorted = net.plan.channels.groups, net.plan.channels.unsorted
        orders = [
            np.arange(group.atoms)[::-1] if number in unsorted else score.numpy().argsort(kind="stable")
            for number, (group, score) in enumerate(zip(groups, scores, strict=True))
        ]
        sizes, removed = cost.sizes.copy(), 0
        while removed < goal if most is None else cost.macs(sizes) > most:
            block = self._next(net, cost, scores, orders, sizes, None if most is not None else goal - removed)
            if block is None:
                raise ValueError(
                    f"no more channels can go: {cost.channels(sizes)} are left, at least {self.least} of each group in "
                    f"steps of {self.multiple}; ask for less, or lower them"
                )
            number, count = block
            sizes[number] -= count
            removed += count * groups[number].per_atom
        return [np.sort(order[group.atoms - size :]) for order, group, size in zip(orders, groups, sizes, strict=True)]

    def _next(
        self, net: Supernet, cost: "_Cost", scores: AtomScores, orders: list[Ids], sizes: Sizes, left: int | None
    ) -> tuple[int, int] | None:
        """Group and number of atoms of the block that is missed least for what it saves; None if none can go."""
        best, least = None, math.inf
        for number, group in enumerate(net.plan.channels.groups):
            count = max(1, self.multiple // group.per_atom)
            if left is not None:
                count = min(count, left // group.per_atom)
            if count < 1 or (sizes[number] - count) * group.per_atom < self.least:
                continue
            gone = group.atoms - sizes[number]
            missed = float(scores[number][orders[number][gone : gone + count].copy()].sum())
            price = missed / (count * group.per_atom if left is not None else cost.saved(sizes, number, count))
            if price < least:
                best, least = (number, count), price
        return best


class _Cost:
    """MACs of the full width, to its final exit, as a function of the groups' sizes."""

    def __init__(self, net: Supernet) -> None:
        channels, traced = net.plan.channels, net.plan.traced
        self._groups = channels.groups
        self.sizes: Sizes = np.array([group.atoms for group in channels.groups], dtype=np.int64)
        self._layers: list[tuple[int, list[NDArray[np.float64]]]] = []
        counts, used = macs_of(traced), ancestors(traced.answers[-1])
        for node in traced.graph.nodes:
            count = counts.get(node.name)
            if count and node in used and node.op == "call_module":
                axes = channels.parameters.get(f"{node.target}.weight", [])
                self._layers.append((count, [self._shares(channels.group_of(ids)) for ids in axes if ids is not None]))

    def macs(self, sizes: Sizes) -> float:
        """Of these sizes."""
        left = np.append(sizes / np.maximum(self.sizes, 1), 1.0)
        return sum(count * math.prod(float(shares @ left) for shares in axes) for count, axes in self._layers)

    def saved(self, sizes: Sizes, number: int, count: int) -> float:
        """By so many atoms fewer of a group; a little at least, so that it can be divided by."""
        fewer = sizes.copy()
        fewer[number] -= count
        return max(self.macs(sizes) - self.macs(fewer), 1e-9)

    def channels(self, sizes: Sizes) -> int:
        """How many channels all groups hold together."""
        return sum(int(size) * group.per_atom for size, group in zip(sizes, self._groups, strict=True))

    def _shares(self, groups: Ids) -> NDArray[np.float64]:
        """(groups + 1,) the share of an axis that belongs to each group, the last for what stays whole."""
        return np.bincount(np.where(groups < 0, len(self._groups), groups), minlength=len(self._groups) + 1) / len(
            groups
        )


def _smaller(subject: Subject, kept: list[Ids]) -> Subject:
    channels = subject.net.plan.channels
    net = without_channels(subject.net, kept)

    def places(name: str) -> list[torch.Tensor | None]:
        axes = channels.parameters.get(name, [])
        return [None if ids is None else torch.from_numpy(channels.places(ids, kept)) for ids in axes]

    limits: dict[str, Limit] = {name: limit.taken(places(name)) for name, limit in subject.limits.items()}
    return subject.reshaped(net, channels_edit(map(len, kept)), limits)
