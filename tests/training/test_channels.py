"""Channel groups: what is joined, what is kept at a width, what stays full and why."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stretto.training.supernet import make_plan
from stretto.training.supernet.channels import FULL, ChannelGroup, Partition, ranges
from torch import Tensor, nn

from .toy_nets import CLASSES, IMAGE, TOYS, conv

ATOMS, PER_ATOM = st.integers(1, 200), st.integers(1, 40)
WIDTH = st.floats(0.01, 1.0)


@given(ATOMS, PER_ATOM, WIDTH)
def test_a_group_keeps_a_multiple_of_eight_channels_or_all_or_whole_large_atoms(
    atoms: int, per_atom: int, width: float
) -> None:
    kept = ChannelGroup("layer", atoms, per_atom, ("layer",)).kept_atoms(width)
    assert 1 <= kept <= atoms
    assert kept == atoms or kept * per_atom % 8 == 0 or per_atom >= 8


@given(ATOMS, PER_ATOM, WIDTH, WIDTH)
def test_a_wider_width_keeps_at_least_as_much(atoms: int, per_atom: int, a: float, b: float) -> None:
    group = ChannelGroup("layer", atoms, per_atom, ("layer",))
    assert group.kept_atoms(min(a, b)) <= group.kept_atoms(max(a, b)) <= group.kept_atoms(1.0) == atoms


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_joined_ids_are_those_connected_by_joins(pairs: list[tuple[int, int]]) -> None:
    partition = Partition()
    partition.open(19)
    connected = [{i} for i in range(20)]
    for a, b in pairs:
        partition.join([a], [b])
        both = connected[a] | connected[b]
        for i in both:
            connected[i] = both
    roots = partition.roots()
    assert roots[FULL] == FULL
    assert all((roots[i] == roots[j]) == (j in connected[i]) for i in range(20) for j in range(20))
    assert (partition.find(np.arange(20).reshape(4, 5)) == roots.reshape(4, 5)).all()


@given(st.sets(st.integers(0, 60), min_size=1))
def test_ranges_are_the_same_places_in_as_few_runs_as_there_are(places: set[int]) -> None:
    runs = ranges(np.array(sorted(places)))
    assert [i for start, stop in runs for i in range(start, stop)] == sorted(places)
    assert all(a[1] < b[0] for a, b in pairwise(runs))


def groups_of(name: str) -> dict[str, ChannelGroup]:
    toy = TOYS[name]
    example = torch.zeros(1, *toy.shape, dtype=torch.int64 if toy.tokens else torch.float32)
    groups = make_plan(toy.make(), example, (0.5, 1.0), exits=1).channels.groups
    return {layer.removesuffix(".weight"): group for group in groups for layer in group.layers}


def test_a_residual_stream_is_one_group_and_the_branch_its_own() -> None:
    groups = groups_of("Residual")
    assert groups["first"] is groups["b"] is groups["c"]
    assert groups["a"] is not groups["b"] and groups["a"].size == 24


def test_a_depthwise_convolution_belongs_to_what_feeds_it_multiplied() -> None:
    groups = groups_of("Depthwise")
    assert groups["first"] is groups["depthwise"] is groups["multiplied"]
    assert (groups["multiplied"].atoms, groups["multiplied"].per_atom) == (16, 2)


def test_a_convolution_with_many_groups_loses_whole_ones_and_one_with_few_loses_in_each() -> None:
    whole, within = groups_of("Grouped")["grouped"], groups_of("FewGroups")["grouped"]
    assert (whole.atoms, whole.per_atom) == (8, 4)
    assert (within.atoms, within.per_atom) == (32, 2)


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = conv(3, 32), conv(16, 16), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).chunk(2, 1)
        return self.last(torch.cat([self.b(first), second], 1).mean((2, 3)))


def test_each_half_of_a_split_keeps_its_share() -> None:
    channels = make_plan(Halves(), torch.zeros(1, *IMAGE), (0.5, 1.0), exits=1).channels
    layout = channels.layouts["a"]
    assert layout is not None
    assert channels.indices(layout.ids, 0.5).tolist() == [*range(8), *range(16, 24)]  # type: ignore[union-attr]


def test_what_a_layer_reads_twice_or_shares_is_joined() -> None:
    groups = groups_of("Twice")
    assert groups["first"] is groups["a"] is groups["b"]


def test_channels_with_neighbours_keep_their_order() -> None:
    channels = make_plan(TOYS["Neighbours"].make(), torch.zeros(1, *IMAGE), (0.5, 1.0), exits=1).channels
    (a,) = (number for number, group in enumerate(channels.groups) if group.name == "a.weight")
    assert channels.unsorted == {a}


class Wrong(nn.Module):
    """`way` is what stays at full width."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 16), conv(16, 16), conv(16, 16)
        self.last = nn.Linear(16, CLASSES)
        self.extra = nn.Parameter(torch.rand(16, 16, 1, 1))
        self.register_buffer("order", torch.randperm(16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.way(self.b(torch.relu(self.a(x))))
        return self.last(torch.relu(self.c(x)).mean((2, 3)))

    def way(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Sorted(Wrong):
    def way(self, x: Tensor) -> Tensor:
        return torch.sort(x, 1).values


class PooledChannels(Wrong):
    def way(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(x.permute(0, 2, 3, 1), (1, 3), 1, (0, 1)).permute(0, 3, 1, 2)


class Shuffled(Wrong):
    def way(self, x: Tensor) -> Tensor:
        return x[:, self.order]


class ComputedWeight(Wrong):
    def way(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.extra / self.extra.norm())


class AcrossBatch(Wrong):
    def way(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 1, 8, 8).flip(0).reshape(x.shape)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Sorted, "sort isn't understood"),
        (PooledChannels, "max_pool2d works on axis 3, which has the channels"),
        (Shuffled, "getitem by numbers in a tensor"),
        (ComputedWeight, "conv2d isn't understood"),
        (AcrossBatch, "reshape moves channels where a width can't follow"),
    ],
)
def test_what_is_not_understood_stays_at_full_width_and_says_why(kind: type[nn.Module], reason: str) -> None:
    model = kind()
    channels = make_plan(model, torch.zeros(1, *IMAGE), (0.5, 1.0), exits=1).channels
    assert reason in [kept.reason for kept in channels.kept]
    assert {layer for group in channels.groups for layer in group.layers} == {"a.weight", "c.weight"}
