"""Where a network can be cut, and which of the places become exits."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stretto.training.nets import make_net
from stretto.training.supernet.cuts import Cut, choose_exits, find_cuts, macs, stem_end
from stretto.training.supernet.trace import trace
from torch import Tensor, nn

from .toy_nets import CLASSES, IMAGE, TOYS, conv

STEM = Cut("stem", "stem", 0.1)


def cuts_of(model: nn.Module, shape: tuple[int, ...] = IMAGE) -> list[Cut]:
    return find_cuts(trace(model, torch.zeros(1, *shape)))


def test_a_residual_network_is_cut_after_its_stem_and_its_blocks() -> None:
    names = [cut.name for cut in cuts_of(make_net("resnet", CLASSES, IMAGE, blocks=2))]
    assert names == ["relu", *(f"layer{s}.{b}.relu2" for s, b in ((1, 0), (1, 1), (2, 0), (2, 1), (3, 0)))]


def test_no_cut_parts_a_layer_from_its_norm_or_activation() -> None:
    model = nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8), nn.Dropout(), conv(8, 8), nn.Flatten(), nn.Linear(512, 5)
    )
    assert [cut.name for cut in cuts_of(model)] == ["2", "4"]


def test_no_cut_is_where_only_the_last_layer_is_left() -> None:
    assert [cut.name for cut in cuts_of(make_net("lenet300", CLASSES, (1, 8, 8)), (1, 8, 8))] == ["2"]


def test_a_batch_size_that_lives_on_does_not_stand_in_the_way() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.last = conv(3, 8), conv(8, 8), conv(8, 8), nn.Linear(512, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            batch = x.shape[0]
            return self.last(self.c(self.b(self.a(x))).view(batch, -1))

    assert [cut.name for cut in cuts_of(Sized())] == ["a", "b"]


def test_shares_of_the_macs_rise_and_are_those_counted_by_hand() -> None:
    found = trace(TOYS["Flattened"].make(), torch.zeros(1, *IMAGE))
    work = {"first": 64 * 16 * 27, "a": 64 * 16 * 144, "b": 64 * 16, "last": 16 * CLASSES}
    assert macs(found) == work
    shares = [cut.share for cut in find_cuts(found)]
    assert shares[0] == work["first"] / sum(work.values()) and shares == sorted(shares)


def test_macs_of_grouped_and_transposed_convolutions_are_those_counted_by_hand() -> None:
    model = nn.Sequential(
        nn.ConvTranspose2d(3, 8, 2, stride=2), conv(8, 16, groups=4), nn.Flatten(), nn.Linear(4096, 5)
    )
    found = macs(trace(model, torch.zeros(1, *IMAGE)))
    assert list(found.values()) == [64 * 3 * 8 * 4, 256 * 16 * 2 * 9, 4096 * 5]


def test_the_stem_ends_past_the_first_convolutions_activation() -> None:
    found = trace(make_net("resnet", CLASSES, IMAGE, blocks=1), torch.zeros(1, *IMAGE))
    assert stem_end(found, find_cuts(found)).name == "relu"


def test_a_stem_that_is_not_shared_ends_at_the_input() -> None:
    found = trace(make_net("resnet", CLASSES, IMAGE, blocks=1), torch.zeros(1, *IMAGE))
    stem = stem_end(found, find_cuts(found), shared=False)
    assert (stem.name, stem.share) == ("input", 0.0) and stem.node in found.shapes


@pytest.mark.parametrize(
    "model", [make_net("lenet300", CLASSES, IMAGE), nn.Sequential(nn.Flatten(), nn.Linear(192, 5))]
)
def test_a_network_that_begins_with_a_linear_layer_has_its_input_for_a_stem(model: nn.Module) -> None:
    found = trace(model, torch.zeros(1, *IMAGE))
    assert stem_end(found, find_cuts(found)) == Cut("x" if "x" in found.shapes else "input_1", "input", 0.0)


def places(*shares: float) -> list[Cut]:
    return [Cut(f"n{i}", f"layer{i}", share) for i, share in enumerate(shares)]


@given(st.lists(st.floats(0.11, 0.99), min_size=1, max_size=8, unique=True), st.integers(1, 5))
def test_exits_are_the_nearest_places_to_equal_shares(shares: list[float], exits: int) -> None:
    cuts = places(*sorted(shares))
    if exits - 1 > len(cuts):
        with pytest.raises(ValueError, match=f"ask for at most {len(cuts) + 1} exits"):
            choose_exits(cuts, exits, STEM)
        return
    wanted = [i / exits for i in range(1, exits)]
    chosen = [cut.share for cut in choose_exits(cuts, exits, STEM)]

    def distance(found: tuple[float, ...] | list[float]) -> float:
        return sum(abs(a - b) for a, b in zip(found, wanted, strict=True))

    assert distance(chosen) == pytest.approx(min(map(distance, itertools.combinations(sorted(shares), exits - 1))))


def test_exits_are_taken_by_share_and_by_name() -> None:
    cuts = places(0.2, 0.4, 0.6, 0.8)
    assert choose_exits(cuts, (0.25, 0.75, 1.0), STEM) == [cuts[0], cuts[3]]
    assert choose_exits(cuts, ("layer1", "n3"), STEM) == [cuts[1], cuts[3]]
    assert choose_exits(cuts, 1, STEM) == []


@pytest.mark.parametrize(
    ("exits", "message"),
    [
        (0, "exits 0: at least 1"),
        (6, r"5 early exits asked for, the network has 4 places: layer0 \(20% of the MACs\)"),
        ((0.5, 0.2), "must be ascending"),
        ((0.0, 0.5), "must be ascending"),
        (("layer9",), "exit 'layer9' isn't a place to cut; the places are layer0"),
        (("layer2", "layer1"), "must be distinct and in the network's order"),
    ],
)
def test_exits_that_a_network_cannot_have_are_refused(exits: int | tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_exits(places(0.2, 0.4, 0.6, 0.8), exits, STEM)


def test_the_stems_own_place_carries_no_exit() -> None:
    assert choose_exits(places(0.1, 0.5), 2, STEM)[0].share == 0.5
