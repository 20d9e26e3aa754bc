"""Parameters keep the values that they may have through training, and learn as their free numbers should."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stretto.runtime.coded import encode
from stretto.training.checkpoint import load_checkpoint
from stretto.training.compress.cluster import cluster_codes
from stretto.training.fit import fit
from stretto.training.grids import Clusters, Grid, Halves, Signs, Whole, grid_from_plain, grid_to_plain, short
from stretto.training.limits import (
    Limit,
    imposed,
    limit_gradients,
    limits_from_plain,
    limits_to_plain,
    row_scales,
    settle,
)

from .small import small_loader, small_net

NAME = "conv2.weight"
# the number format told: that of a trial would depend on the machine's speed at the moment
QUICK = {"epochs": 3, "lr": 0.05, "autocast": False, "channels_last": False}
KINDS = ["clusters", "whole", "fixed", "signs", "halves"]


def grid_of(kind: str, weight: torch.Tensor, kept: torch.Tensor | None = None) -> Grid:
    return {
        "clusters": lambda: Clusters(cluster_codes(weight, kept, 7)),
        "whole": lambda: Whole(127),
        "fixed": lambda: Whole(7, (weight.abs().flatten(1).amax(1) / 9).half().float()),
        "signs": Signs,
        "halves": Halves,
    }[kind]()


def weight_and_mask(seed: int = 0, masked: bool = True) -> tuple[torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(8, 4, 3, 3, generator=generator) * 0.1
    return weight, (torch.rand(weight.shape, generator=generator) > 0.4) if masked else None


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 1000), masked=st.booleans(), size=st.floats(-7, 3))
def test_nearest_values_of_nearest_values_are_themselves(kind: str, seed: int, masked: bool, size: float) -> None:
    weight, kept = weight_and_mask(seed, masked)
    weight = weight * 10**size
    limit = Limit(kept, grid_of(kind, weight, kept))
    once = limit.nearest(weight)
    assert torch.equal(once, limit.nearest(once))
    assert kept is None or not once[~kept].any()
    scale = limit.grid.row_scale(once) if limit.grid is not None else None
    encode({"w": once.numpy()}, {} if scale is None else {"w": scale.numpy()})  # refuses what isn't whole numbers of it


def test_a_large_cluster_of_equal_values_keeps_its_value() -> None:
    """Of a value with few digits the mean is itself, also of a million, whose sum has more than 32 bits."""
    values = short(torch.full((1000, 1000), 0.1))
    assert torch.equal(Clusters(torch.ones_like(values, dtype=torch.uint8)).nearest(values, None), values)


@pytest.mark.parametrize("kind", ["whole", "fixed", "signs"])
def test_values_are_exactly_whole_multiples_of_their_rows_scale(kind: str) -> None:
    weight, kept = weight_and_mask()
    grid = grid_of(kind, weight, kept)
    values = grid.nearest(weight, kept)
    scale = grid.row_scale(values)
    assert scale is not None
    codes = (values / scale.view(-1, 1, 1, 1)).round()
    assert torch.equal(codes * scale.view(-1, 1, 1, 1), values)
    assert torch.equal(scale, scale.half().float())  # which they are stored as


def test_cluster_values_learn_from_the_sum_of_their_gradients() -> None:
    weight = torch.tensor([[1.0, 1.1], [3.0, 3.2]])
    grid = Clusters(torch.tensor([[1, 1], [2, 0]], dtype=torch.uint8))
    assert grid.nearest(weight, None).tolist() == [[1.0498046875, 1.0498046875], [3.0, 0.0]]
    found = grid.gradient(torch.tensor([[1.0, 2.0], [5.0, 7.0]]), weight)
    assert found.tolist() == [[3.0, 3.0], [5.0, 0.0]]


def test_signs_are_the_mean_size_of_what_is_kept() -> None:
    weight = torch.tensor([[0.5, -1.5], [2.0, -8.0]])
    assert Signs().nearest(weight, None).tolist() == [[1.0, -1.0], [5.0, -5.0]]
    kept = torch.tensor([[True, True], [True, False]])
    assert Signs().nearest(weight, kept).tolist() == [[1.0, -1.0], [2.0, 0.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_training_under_a_limit_ends_on_its_values_and_changes_them(kind: str) -> None:
    net = small_net()
    weight = net.shared.get_parameter(NAME)
    kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(2)) > 0.5
    limits = {NAME: Limit(kept, grid_of(kind, weight.detach(), kept))}
    settle(net, limits)
    before = weight.detach().clone()
    fit(net, small_loader(), epochs=2, lr=0.05, recalibrate=2, limits=limits)
    assert torch.equal(limits[NAME].nearest(weight), weight)
    assert not weight[~kept].any()
    assert not torch.equal(before, weight)


def test_imposed_values_go_again_and_gradients_are_masked() -> None:
    net = small_net()
    weight = net.shared.get_parameter(NAME)
    kept = torch.zeros_like(weight, dtype=torch.bool)
    kept[:4] = True
    free = weight.detach().clone()
    with imposed(net, {NAME: Limit(kept)}):
        assert not weight[4:].any()
        net(torch.randn(2, 1, 6, 6))[-1].sum().backward()
    limit_gradients(net, {NAME: Limit(kept)})
    assert torch.equal(weight, free)
    assert weight.grad is not None
    assert not weight.grad[4:].any()
    assert weight.grad[:4].any()


def test_resumed_training_under_limits_equals_an_uncut_one(tmp_path: Path) -> None:
    def trained(epochs_first: int | None) -> torch.Tensor:
        net = small_net()
        limits = {NAME: Limit(None, Clusters(cluster_codes(net.shared.get_parameter(NAME).detach(), None, 5)))}
        path = tmp_path / f"{epochs_first}.pt"

        class Cut(Exception):
            pass

        def cut(progress: object) -> None:
            if getattr(progress, "epoch", 0) > (epochs_first or 99):
                raise Cut

        try:
            fit(net, small_loader(), **QUICK, checkpoint=path, limits=limits, on_progress=cut)
        except Cut:
            net = small_net(seed=5)
            fit(net, small_loader(), **QUICK, checkpoint=path, limits=limits)
        return net.shared.get_parameter(NAME).detach()

    assert torch.equal(trained(None), trained(1))


def test_limits_survive_a_checkpoint(tmp_path: Path) -> None:
    net = small_net()
    weight = net.shared.get_parameter(NAME).detach()
    limits = {NAME: Limit(weight > 0, Whole(7, torch.ones(len(weight)))), "head.weight": Limit(None, Signs())}
    fit(net, small_loader(), epochs=1, lr=0.01, checkpoint=tmp_path / "net.pt", limits=limits)
    read = limits_from_plain(load_checkpoint(tmp_path / "net.pt")["limits"], net)
    assert read.keys() == limits.keys()
    for name, limit in limits.items():
        free = torch.randn_like(net.shared.get_parameter(name))
        assert torch.equal(read[name].nearest(free), limit.nearest(free))
    assert row_scales(net, limits).keys() == limits.keys()


def test_limits_of_other_parameters_are_refused() -> None:
    net = small_net()
    with pytest.raises(ValueError, match=r"limit of 'conv9\.weight'"):
        limits_from_plain({"conv9.weight": {"kept": None, "grid": None}}, net)
    with pytest.raises(ValueError, match=r"shape \(2,\), expected"):
        limits_from_plain(limits_to_plain({NAME: Limit(torch.ones(2, dtype=torch.bool))}), net)
    with pytest.raises(ValueError, match="grid 'cubes'"):
        grid_from_plain({"kind": "cubes"})
    assert grid_to_plain(Whole(7))["kind"] == "whole"
