"""Channel groups: which channels of which parameter and tensor must be narrowed together.

Every channel that some layer opens gets an id. Operations join ids (union-find); what is joined is kept or dropped
together: an atom. Atoms that the same layers share form a channel group; a width keeps the group's leading atoms.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import lcm

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Width = float | tuple[int, ...]  # a width multiplier, or how many atoms each channel group keeps
FULL = 0  # the id of everything that stays at full width and is never reordered


class Partition:
    """Union-find over channel ids; id `FULL` is always its own root."""

    def __init__(self) -> None:
        self._parent = [FULL]

    def open(self, count: int) -> Ids:
        """New ids, each alone: (count,)."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def root(self, i: int) -> int:
        """The id that stands for everything joined with `i`; the smallest of them."""
        parent = self._parent
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(self, a: Iterable[int], b: Iterable[int]) -> None:
        """Join pairwise; both of the same length."""
        for x, y in zip(a, b, strict=True):
            x, y = self.root(int(x)), self.root(int(y))
            self._parent[max(x, y)] = min(x, y)

    def merge(self, ids: Ids) -> None:
        """Join all of them into one."""
        ids = np.unique(ids)
        self.join(ids[1:], np.full(len(ids) - 1, ids[0]))

    def fix(self, ids: Ids) -> bool:
        """Keep them at full width; whether any wasn't."""
        news = not self.fixed(ids)
        self.merge(np.concatenate([[FULL], ids.ravel()]))
        return news

    def fixed(self, ids: Ids) -> bool:
        """Whether all of them stay at full width."""
        return bool((self.find(ids) == FULL).all())

    def find(self, ids: Ids) -> Ids:
        """The root of every id, in the shape of `ids`."""
        known, places = np.unique(ids, return_inverse=True)
        return np.array([self.root(int(i)) for i in known])[places].reshape(ids.shape)

    def roots(self) -> Ids:
        """(ids,) the root of every id."""
        return np.array([self.root(i) for i in range(len(self._parent))])


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a tensor has its channels: `ids` (channels,) along `axis`."""

    axis: int
    ids: Ids


@dataclass(frozen=True, slots=True)
class Kept:
    """Something that stays at full width, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels narrowed together: `atoms` atoms of `per_atom` channels each at layer `name`, where they are most."""

    name: str
    atoms: int
    per_atom: int
    layers: tuple[str, ...]

    @property
    def size(self) -> int:
        return self.atoms * self.per_atom

    def kept_atoms(self, width: float) -> int:
        """Atoms in use at a width in (0, 1]: channels rounded to a multiple of 8 (half up), at least one unit.

        Groups too small for that stay whole; but atoms of 8 channels or more are lost one by one then.
        """
        unit = lcm(8, self.per_atom) // self.per_atom
        if unit >= self.atoms and self.per_atom >= 8:
            unit = 1
        if width == 1.0 or unit >= self.atoms:
            return self.atoms
        return min(self.atoms, max(1, int(width * self.atoms / unit + 0.5)) * unit)


@dataclass
class Findings:
    """What a walk over the graph finds out.

    `opened`: layer → ids of the channels that it opens.
    `layouts`: node name → Layout, or None where a tensor has no channels to narrow.
    `parameters`: parameter or buffer name → ids per axis, None for an axis that is never narrowed.
    `rows`: layer → (groups, channels) ids of what a layer with groups puts out, a row for each of them.
    `pieces`: node name → ids of the part that it takes; each part keeps its share.
    `ordered`: node name → ids that may be left out from the end on but not be reordered.
    `moves`: names of the nodes that only move channels about.
    `kept`: what stays at full width, and why.
    """

    partition: Partition = field(default_factory=Partition)
    opened: dict[str, Ids] = field(default_factory=dict)
    layouts: dict[str, Layout | None] = field(default_factory=dict)
    parameters: dict[str, list[Ids | None]] = field(default_factory=dict)
    rows: dict[str, Ids] = field(default_factory=dict)
    pieces: dict[str, Ids] = field(default_factory=dict)
    ordered: dict[str, Ids] = field(default_factory=dict)
    moves: list[str] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)


class Channels:
    """What a walk found, with channels in groups: which of them a width uses of every tensor and parameter."""

    def __init__(self, found: Findings) -> None:
        self.layouts, self.parameters, self.rows = found.layouts, found.parameters, found.rows
        self.ordered, self.moves, self.kept = found.ordered, found.moves, found.kept
        self._root = found.partition.roots()
        self.groups, self._atoms = self._make_groups(found)
        self._group = np.full(len(self._root), -1)
        self._rank = np.zeros(len(self._root), dtype=np.int64)
        for number, roots in enumerate(self._atoms):
            self._group[roots], self._rank[roots] = number, np.arange(len(roots))
        self._group, self._rank = self._group[self._root], self._rank[self._root]
        self.unsorted = {int(group) for ids in self.ordered.values() for group in np.unique(self._group[ids])}

    def _make_groups(self, found: Findings) -> tuple[list[ChannelGroup], list[Ids]]:
        """Atoms that the same layers, and the same pieces, have equally many channels of; and their ids."""
        uses: dict[int, dict[str, int]] = {}
        for name, ids in [*found.opened.items(), *found.pieces.items()]:
            for root, count in zip(*np.unique(self._root[ids], return_counts=True), strict=True):
                uses.setdefault(int(root), {})[name] = int(count)
        members: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for root in sorted(uses):
            if root != FULL and not found.opened.keys().isdisjoint(uses[root]):
                members.setdefault(tuple(uses[root].items()), []).append(root)
        groups = []
        for counts, roots in members.items():
            layers = {name: count for name, count in counts if name in found.opened}
            most = max(layers, key=lambda name: layers[name])
            groups.append(ChannelGroup(most, len(roots), layers[most], tuple(layers)))
        return groups, [np.array(roots) for roots in members.values()]

    def group_of(self, ids: Ids | None) -> Ids:
        """(channels,) the number of each channel's group, -1 where it stays at full width."""
        return np.array([], dtype=np.int64) if ids is None else self._group[ids]

    def roots(self, ids: Ids) -> Ids:
        """(channels,) the atom of each channel."""
        return self._root[ids]

    def rank(self, ids: Ids) -> Ids:
        """(channels,) the place of each channel's atom in its group."""
        return self._rank[ids]

    def sizes(self, width: Width) -> tuple[int, ...]:
        """Atoms kept of each group at a width."""
        return width if isinstance(width, tuple) else tuple(group.kept_atoms(width) for group in self.groups)

    def places(self, ids: Ids, kept: Sequence[Ids]) -> Ids:
        """Which places of an axis are of the kept atoms; `kept`: ranks of each group's, ascending."""
        groups, ranks = self._group[ids], self._rank[ids]
        stays = groups < 0
        for number, atoms in enumerate(kept):
            stays |= (groups == number) & np.isin(ranks, atoms)
        return np.flatnonzero(stays)

    def indices(self, ids: Ids | None, width: Width) -> Ids | None:
        """Which places of an axis a width uses, ascending; None for all of them."""
        if ids is None:
            return None
        groups = self._group[ids]
        limits = np.array([*self.sizes(width), 1])  # the last one serves group -1, whose rank is 0
        used = self._rank[ids] < limits[groups]
        return None if used.all() else np.flatnonzero(used)

    def groups_kept(self, layer: str, width: Width) -> int | None:
        """How many of a grouped layer's groups a width uses; None for a layer without."""
        rows = self.rows.get(layer)
        if rows is None:
            return None
        used = self.indices(rows.ravel(), width)
        return len(rows) if used is None else len(np.unique(used // rows.shape[1]))

    def count(self, ids: Ids | None, width: Width) -> int | None:
        """How many places of an axis a width uses; None where the axis isn't known."""
        if ids is None:
            return None
        used = self.indices(ids, width)
        return len(ids) if used is None else len(used)


def ranges(indices: Ids) -> list[tuple[int, int]]:
    """Ascending indices as [start, stop) runs."""
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(indices, breaks)]
