"""Tickets begin exactly as the whole network did, other beginnings don't, and shapes only shrink."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stretto.bench.lottery.run import Setup
from stretto.bench.lottery.shapes import KINDS, Shape, next_shape, share_left
from stretto.bench.lottery.variants import (
    LONGER,
    MORE,
    RANDOM,
    SIGNS,
    TICKET,
    VARIANTS,
    Origin,
    redrawn,
    rewound,
    signs,
)
from stretto.training.augment import Batches
from stretto.training.compress.layers import weight_name, weighted_layers
from stretto.training.data import Data, load_data
from stretto.training.supernet import Supernet
from stretto.training.task import batches, begin

SHARE = 0.7  # so that two rounds leave less than a tenth of the weights
BOTH = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits", calibration=0.1)


@pytest.fixture(scope="module")
def net(data: Data) -> Supernet:
    torch.manual_seed(0)
    return begin(Setup("digits", Path("out")).task, data)[0]


@pytest.fixture(scope="module")
def images(data: Data) -> Batches:
    return batches(data, "calibration", 64)


def disturbed(net: Supernet) -> Supernet:
    """As if it was trained."""
    other = copy.deepcopy(net)
    generator = torch.Generator().manual_seed(1)
    for parameter in other.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator) * parameter.std()
    return other


def shapes(net: Supernet, kind: str, images: Batches, rounds: int = 3) -> list[Shape]:
    """Of the whole network and of some rounds, each of what its shape would have been trained to."""
    found = [KINDS[kind].whole(net)]
    for number in range(1, rounds + 1):
        trained, _ = KINDS[kind].cut(disturbed(net), found[-1])
        found.append(next_shape(KINDS[kind], trained, found[-1], number, SHARE, images))
    return found


def weights(net: Supernet) -> dict[str, torch.Tensor]:
    names = map(weight_name, weighted_layers(net))
    return {name: net.shared.get_parameter(name).detach() for name in names}


@BOTH
def test_shapes_only_shrink_and_have_exactly_the_asked_counts(kind: str, net: Supernet, images: Batches) -> None:
    found = shapes(net, kind, images)
    *_, last = found[0]
    for number, shape in enumerate(found):
        for name, kept in shape.items():
            share = SHARE / 2 if name == last else SHARE
            assert int(kept.sum()) == kept.numel() - round((1 - (1 - share) ** number) * kept.numel())
            assert number == 0 or not bool((kept & ~found[number - 1][name]).any())


def test_the_largest_weights_stay(net: Supernet, images: Batches) -> None:
    trained, shape = disturbed(net), KINDS["weights"].whole(net)
    shape = next_shape(KINDS["weights"], trained, shape, 1, SHARE, images)
    for name, weight in weights(trained).items():
        assert weight[shape[name]].abs().min() >= weight[~shape[name]].abs().max()


@BOTH
def test_share_left_counts_weights(kind: str, net: Supernet, images: Batches) -> None:
    for shape in shapes(net, kind, images):
        small, limits = KINDS[kind].cut(net, shape)
        nonzero = sum(int(torch.count_nonzero(weight)) for weight in weights(small).values())
        assert share_left(small, limits, net) == nonzero / sum(weight.numel() for weight in weights(net).values())


def test_a_ticket_by_weights_begins_with_the_first_numbers_and_zeros(net: Supernet, images: Batches) -> None:
    shape = shapes(net, "weights", images)[-1]
    ticket, limits = rewound(Origin(KINDS["weights"], net, shape, 3, seed=0))
    first = dict(net.shared.named_parameters())
    for name, parameter in ticket.shared.named_parameters():
        assert torch.equal(parameter, first[name] * shape[name] if name in shape else first[name])
    assert limits.keys() == shape.keys()


def test_a_ticket_by_neurons_begins_with_the_first_numbers_of_those_left(net: Supernet, images: Batches) -> None:
    shape = shapes(net, "neurons", images)[-1]
    ticket, limits = rewound(Origin(KINDS["neurons"], net, shape, 3, seed=0))
    first, second = shape.values()
    whole = {name: parameter.detach() for name, parameter in net.shared.named_parameters()}
    expected = [
        whole["1.weight"][first], whole["1.bias"][first], whole["3.weight"][second][:, first], whole["3.bias"][second],
        whole["5.weight"][:, second], whole["5.bias"],
    ]  # fmt: skip
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(ticket.shared.parameters(), expected, strict=True))
    assert limits == {}


@BOTH
def test_signs_stay_and_a_layer_has_one_magnitude(kind: str, net: Supernet, images: Batches) -> None:
    origin = Origin(KINDS[kind], net, shapes(net, kind, images)[-1], 3, seed=0)
    (ticket, _), (constant, _) = rewound(origin), signs(origin)
    for name, weight in weights(constant).items():
        assert torch.equal(weight.sign(), weights(ticket)[name].sign())
        assert weight[weight != 0].abs().unique().tolist() == [weights(net)[name].std().item()]
    for name, bias in constant.shared.named_parameters():
        assert bias.dim() > 1 or torch.equal(bias, ticket.shared.get_parameter(name))


@BOTH
def test_new_numbers_differ_by_seed_and_round_and_keep_the_shape(kind: str, net: Supernet, images: Batches) -> None:
    shape = shapes(net, kind, images)[-1]
    origin = Origin(KINDS[kind], net, shape, 3, seed=0)
    state = torch.get_rng_state()
    drawn = [weights(redrawn(o)[0]) for o in (origin, origin, replace(origin, seed=1), replace(origin, number=2))]
    assert torch.equal(state, torch.get_rng_state())
    ticket = weights(rewound(origin)[0])
    for name, weight in drawn[0].items():
        assert torch.equal(weight, drawn[1][name])
        for other in (ticket, drawn[2], drawn[3]):
            assert torch.equal(weight != 0, other[name] != 0)
            assert not bool((weight == other[name])[weight != 0].any())


def test_beginnings_leave_the_whole_network_alone(net: Supernet, images: Batches) -> None:
    before = copy.deepcopy(net.state_dict())
    for kind in KINDS:
        shape = shapes(net, kind, images)[-1]
        for variant in VARIANTS.values():
            variant.start(Origin(KINDS[kind], net, shape, 3, seed=0))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_only_starts_that_differ_are_compared() -> None:
    assert VARIANTS[LONGER].start is VARIANTS[RANDOM].start and VARIANTS[LONGER].epochs == MORE
    assert VARIANTS[TICKET].start is rewound and VARIANTS[SIGNS].start is signs
