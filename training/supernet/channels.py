"""Channel groups: which channels of which parameter and tensor must be narrowed together.

Every channel that some layer opens gets an id. Operations join ids (union-find); what is joined is kept or dropped
together: an atom. Atoms that the same layers share form a channel group; a width keeps the group's leading atoms.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import lcm

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
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
        self.join(ids[1:], np.full(len(ids) - 1, ids[0]))

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
    """Channels narrowed together: `atoms` atoms of `per_atom` channels each, as counted at layer `name`."""

    name: str
    atoms: int
    per_atom: int
    layers: tuple[str, ...]

    @property
    def size(self) -> int:
        return self.atoms * self.per_atom

    def kept_atoms(self, width: float) -> int:
        """Atoms in use at a width in (0, 1]: channels rounded to a multiple of 8 (half up), at least one unit."""
        unit = lcm(8, self.per_atom) // self.per_atom
        if width == 1.0 or unit >= self.atoms:
            return self.atoms
        return min(self.atoms, max(1, int(width * self.atoms / unit + 0.5)) * unit)


class Channels:
    """The result of the analysis: a layout for every tensor, ids for every parameter axis, and the groups.

    `layouts`: node name → Layout, or None where a tensor has no channels to narrow.
    `parameters`: parameter or buffer name → ids per axis, None for an axis that is never narrowed.
    """

    def __init__(
        self,
        partition: Partition,
        opened: dict[str, Ids],
        layouts: dict[str, Layout | None],
        parameters: dict[str, list[Ids | None]],
        kept: list[Kept],
    ) -> None:
        self.layouts, self.parameters = layouts, parameters
        self._root = partition.roots()
        self.groups, self.kept = self._make_groups(opened), kept
        self._group = np.full(len(self._root), -1)
        self._rank = np.zeros(len(self._root), dtype=np.int64)
        for number, roots in enumerate(self._atoms):
            self._group[roots], self._rank[roots] = number, np.arange(len(roots))
        self._group, self._rank = self._group[self._root], self._rank[self._root]

    def _make_groups(self, opened: dict[str, Ids]) -> list[ChannelGroup]:
        layers_of: dict[int, dict[str, int]] = {}
        for layer, ids in opened.items():
            for root, count in zip(*np.unique(self._root[ids], return_counts=True), strict=True):
                layers_of.setdefault(int(root), {})[layer] = int(count)
        members: dict[tuple[str, ...], list[int]] = {}
        for root in sorted(layers_of):
            if root != FULL:
                members.setdefault(tuple(layers_of[root]), []).append(root)
        groups, self._atoms = [], []
        self.irregular: list[Ids] = []
        for layers, roots in members.items():
            if any(layers_of[root] != layers_of[roots[0]] for root in roots):
                self.irregular.append(np.array(roots))
                continue
            groups.append(ChannelGroup(layers[0], len(roots), layers_of[roots[0]][layers[0]], layers))
            self._atoms.append(np.array(roots))
        return groups

    def group_of(self, ids: Ids | None) -> Ids:
        """(channels,) the number of each channel's group, -1 where it stays at full width."""
        return np.array([], dtype=np.int64) if ids is None else self._group[ids]

    def roots(self, ids: Ids) -> Ids:
        """(channels,) the atom of each channel."""
        return self._root[ids]

    def rank(self, ids: Ids) -> Ids:
        """(channels,) the place of each channel's atom in its group."""
        return self._rank[ids]

    def sizes(self, width: float) -> tuple[int, ...]:
        """Atoms kept of each group at a width."""
        return tuple(group.kept_atoms(width) for group in self.groups)

    def indices(self, ids: Ids | None, width: float) -> Ids | None:
        """Which places of an axis a width uses, ascending; None for all of them."""
        if ids is None:
            return None
        groups = self._group[ids]
        limits = np.array([*self.sizes(width), 1])  # the last one serves group -1, whose rank is 0
        used = self._rank[ids] < limits[groups]
        return None if used.all() else np.flatnonzero(used)

    def count(self, ids: Ids | None, width: float) -> int | None:
        """How many places of an axis a width uses; None where the axis isn't known."""
        if ids is None:
            return None
        used = self.indices(ids, width)
        return len(ids) if used is None else len(used)


def ranges(indices: Ids) -> list[tuple[int, int]]:
    """Ascending indices as [start, stop) runs."""
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(indices, breaks)]
