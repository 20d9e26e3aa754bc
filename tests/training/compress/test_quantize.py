"""Few bits: the export's int8 has exactly the integers that were trained, clusters keep what they promise."""

import random
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stretto.training.compress.cluster import cluster_codes
from stretto.training.compress.fake_int8 import FakeActivations, rounded
from stretto.training.compress.quantize import best_scale
from stretto.training.compress.subject import open_subject
from stretto.training.compress.teachers import Teacher, open_teacher
from stretto.training.fit import fit_options, train_step
from stretto.training.grids import Whole
from stretto.training.optimizers import make_optimizer
from stretto.training.quantize import LARGEST, int8_weight

from ..small import small_loader, small_net
from .trained import digits, run, subject, trained


@pytest.mark.parametrize("activations", [False, True])
def test_weights_trained_in_8_bits_are_the_exports_integers(activations: bool, tmp_path: Path) -> None:
    out, _ = run(tmp_path, {"name": "quantize", "bits": 8, "activations": activations, "epochs": 1}, lr=0.02)
    made = open_subject(out, "digits", digits())
    for name in made.limits:
        weight = made.net.shared.get_parameter(name).detach().numpy()
        integers, scale = int8_weight(weight, 0, LARGEST)
        again = integers.astype(np.float32) * scale.reshape(-1, *(1,) * (weight.ndim - 1))
        assert np.array_equal(again, weight)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_few_bits_are_whole_multiples_of_a_scale_a_row(bits: int, tmp_path: Path) -> None:
    out, _ = run(tmp_path, {"name": "quantize", "bits": bits}, recalibrate=2)
    made = open_subject(out, "digits", digits())
    for name in made.limits:
        rows = made.net.shared.get_parameter(name).detach().flatten(1)
        assert max(len(row.unique()) for row in rows) <= 2**bits - 1


@given(seed=st.integers(0, 100), largest=st.sampled_from([1, 3, 7]))
def test_the_best_scale_is_no_worse_than_the_largest_numbers(seed: int, largest: int) -> None:
    weight = torch.randn(4, 30, generator=torch.Generator().manual_seed(seed))

    def error(scale: torch.Tensor) -> float:
        return float((Whole(largest, scale).nearest(weight, None) - weight).square().sum())

    highest = (weight.abs().amax(1) / largest).half().float()
    assert error(best_scale(weight, largest)) <= error(highest) * (1 + 1e-6)


@given(
    numbers=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=60), clusters=st.integers(2, 20),
    zeros=st.booleans(),
)  # fmt: skip
def test_every_weight_is_in_the_nearest_cluster(numbers: list[float], clusters: int, zeros: bool) -> None:
    weight = torch.tensor(numbers)[None]
    kept = (weight > 0) if zeros else None
    codes = cluster_codes(weight, kept, clusters)
    assert kept is None or not codes[~kept].any()
    used = codes[codes > 0].unique()
    assert len(used) <= clusters
    centroids = {int(code): weight[codes == code].double().mean() for code in used}
    for value, code in zip(weight[0].double(), codes[0].tolist(), strict=True):
        if code:
            distances = {other: abs(value - centroid) for other, centroid in centroids.items()}
            assert distances[code] <= min(distances.values()) + 1e-5


def test_as_many_clusters_as_numbers_keep_every_number() -> None:
    weight = torch.arange(8.0)[None]
    codes = cluster_codes(weight, None, 8)
    assert codes[0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_fake_int8_activation_has_at_most_256_values_and_its_gradient_passes() -> None:
    x = torch.randn(50, 40, requires_grad=True)
    y = rounded(x)
    assert len(y.unique()) <= 256
    assert (y - x).abs().max() <= (x.max() - x.min()) / 255
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))  # type: ignore[arg-type]
    assert rounded(torch.zeros(3)).tolist() == [0, 0, 0]


def test_convolutions_and_sums_read_rounded_activations() -> None:
    conv, x = torch.nn.Conv2d(2, 3, 1), torch.randn(1, 2, 5, 5)
    with torch.no_grad():
        expected = conv(rounded(x)) + 0
        summed = rounded(x) + rounded(2 * x)
        with FakeActivations():
            assert torch.equal(conv(x), expected)
            assert torch.equal(x + 2 * x, summed)


def test_a_bias_that_is_added_by_itself_is_not_rounded_nor_what_it_is_added_to() -> None:
    x, bias = torch.randn(4, 3, 5, 5), torch.randn(3, 1, 1)
    with FakeActivations():
        found, named = x + bias, torch.add(x, other=bias)
    assert torch.equal(found, x + bias)
    assert torch.equal(named, found)


def test_what_is_rounded_is_the_network_and_not_its_optimizer() -> None:
    """With every gradient zero, a step is weight decay and momentum alone, which no rounding may touch."""

    def weights(within: type) -> torch.Tensor:
        net = small_net(widths=(1.0,))
        optimizer = make_optimizer("sgd", net, 0.1, 0.9, 0.01)
        (x, y), options = next(iter(small_loader())), fit_options(lr=0.1, clip_norm=None)
        for _ in range(3):
            train_step(net, optimizer, x * 0, y, options, random.Random(0), within=within)
        return net.shared.get_parameter("conv0.weight").detach()  # of an input of zeros, which rounds to zeros

    assert torch.equal(weights(nullcontext), weights(FakeActivations))


def test_teachers_are_not_rounded(tmp_path: Path) -> None:
    passes = {"name": "quantize", "bits": 8, "activations": True, "teachers": ["before"], "epochs": 1}
    asked: list[torch.Tensor] = []

    def watched(*args: object) -> Teacher:
        teacher = open_teacher(*args)  # type: ignore[arg-type]
        return replace(teacher, ask=lambda x: asked.append(teacher.ask(x) - fresh.ask(x)) or teacher.ask(x))  # type: ignore[func-returns-value]

    fresh = open_teacher(trained(), subject().about, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stretto.training.compress.tuning.open_teacher", watched)
        run(tmp_path, passes, lr=0.02)
    assert asked
    assert not any(difference.any() for difference in asked)
    with FakeActivations():
        x = torch.randn(4, 1, 8, 8)
        rounded_scores = fresh.ask(x)
    assert not torch.equal(rounded_scores, fresh.ask(x))  # or this test could not fail
