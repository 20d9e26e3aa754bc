"""A router predicts what it can see in the stem, is true of calibration data, and leaves the rest of a bundle alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from stretto.runtime.bundle import Bundle, write_bundle
from stretto.runtime.engines import make_engine
from stretto.runtime.manifest import InputSpec
from stretto.training.errors import ExportError
from stretto.training.export import export
from stretto.training.requantize import with_precisions
from stretto.training.router import RouterOptions, add_router, with_router, without_router
from stretto.training.router_head import SHARE, SIZES, RouterHead, head_macs, make_head
from torch import nn
from typer.testing import CliRunner

from .odd_nets import settled
from .test_export import model

SHAPE = (1, 8, 8)
QUICK = RouterOptions(epochs=12, batch=64, lr=5e-3)
Batches = list[tuple[np.ndarray, np.ndarray]]


def net() -> Any:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 64, 3, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return settled(nn.Sequential(*layers), SHAPE, exits=2, widths=(0.5, 1.0))


@pytest.fixture(scope="module")
def supernet():
    return net()


def data(supernet: Any, count: int, seed: int) -> Batches:
    """Images of which the full network answers the bright ones right and no dark one."""
    rng = np.random.default_rng(seed)
    bright = np.arange(count) % 2
    x = (rng.standard_normal((count, *SHAPE)) + (2.0 * bright - 1)[:, None, None, None]).astype(np.float32)
    with torch.no_grad():
        answer = supernet(torch.from_numpy(x), 1.0)[-1].argmax(1).numpy()
    return [(x, np.where(bright == 1, answer, (answer + 1) % 10))]


@pytest.fixture(scope="module")
def plain(supernet, tmp_path_factory) -> Bundle:
    path = tmp_path_factory.mktemp("router") / "plain.stretto"
    batches = data(supernet, 64, 9)
    how = {"input": InputSpec(SHAPE), "calibration": batches, "precisions": ("fp32", "int8")}
    return export(supernet, batches, path, **how)


@pytest.fixture(scope="module")
def routed(supernet, plain, tmp_path_factory) -> Bundle:
    path = tmp_path_factory.mktemp("router") / "routed.stretto"
    return with_router(plain, data(supernet, 768, 0), path, calibration=data(supernet, 256, 1), options=QUICK)


def chances(bundle: Bundle, x: np.ndarray, precision: str = "fp32") -> np.ndarray:
    """(samples, points) by the compiled graph."""
    engine = make_engine("onnx", bundle)
    odds, _ = engine.run(bundle.manifest.router_step(precision), x)
    engine.close()
    return 1 / (1 + np.exp(-odds))


class Shuffled:
    """Batches whose order is another one each time."""

    def __init__(self, batches: Batches):
        ((self.x, self.y),), self.times = batches, 0

    def __iter__(self) -> Any:
        self.times += 1
        order = np.random.default_rng(self.times).permutation(len(self.y))
        return iter([(self.x[order], self.y[order])])


def test_batches_that_come_in_another_order_each_time_are_refused(supernet, plain, tmp_path):
    with pytest.raises(ValueError, match="another order the second time"):
        with_router(
            plain, Shuffled(data(supernet, 64, 0)), tmp_path / "x.stretto", calibration=data(supernet, 32, 1),
            options=QUICK,
        )  # fmt: skip
    assert not (tmp_path / "x.stretto").exists()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_router_tells_what_the_full_network_will_get_right(supernet, routed, precision):
    ((x, _),) = data(supernet, 200, 2)
    full = [p.width == 1.0 and p.depth == 2 and p.precision == "fp32" for p in routed.routed].index(True)
    is_bright = np.arange(200) % 2 == 1
    assert ((chances(routed, x, precision)[:, full] > 0.5) == is_bright).mean() > 0.95


def test_mean_chance_of_every_point_is_its_share_right_on_the_calibration_data(supernet, routed):
    ((x, y),) = data(supernet, 256, 1)
    engine = make_engine("onnx", routed)
    right = [(engine.run(point.whole_way, x)[0].argmax(1) == y).mean() for point in routed.routed]
    engine.close()
    np.testing.assert_allclose(chances(routed, x).mean(axis=0), right, atol=0.01)


def test_provenance_says_what_the_router_takes_and_what_it_is_worth(routed):
    said = routed.manifest.provenance["router"]
    assert 0 < said["macs"] <= SHARE * max(point.macs for point in routed.manifest.points)
    assert (said["images"], said["calibration"]) == (768, 256)
    assert said["error"] < said["error_of_means"]


def test_without_its_router_a_bundle_is_the_file_that_it_was(plain, routed, tmp_path):
    bare = without_router(routed)
    write_bundle(tmp_path / "bare.stretto", bare.manifest, bare.graphs, bare.weights)
    assert (tmp_path / "bare.stretto").read_bytes() == plain.path.read_bytes()
    assert without_router(plain).manifest == replace(plain.manifest, members={})


def test_a_coded_bundle_gets_a_router_and_loses_it_coded(supernet, plain, tmp_path):
    path = tmp_path / "coded.stretto"
    write_bundle(path, plain.manifest, plain.graphs, plain.weights, {})
    train, calibration = data(supernet, 64, 0), data(supernet, 64, 1)
    how = {"calibration": calibration, "options": QUICK}
    routed = with_router(Bundle.open(path), train, tmp_path / "routed.stretto", **how)
    assert routed.coding == {} and routed.routed and without_router(routed).coding == {}


def test_another_router_takes_the_place_of_the_first_and_fitting_again_gives_the_same_file(supernet, routed, tmp_path):
    path = tmp_path / "own.stretto"
    path.write_bytes(routed.path.read_bytes())
    train, calibration = data(supernet, 768, 0), data(supernet, 256, 1)
    again = with_router(Bundle.open(path), train, path, calibration=calibration, options=QUICK)
    assert again.path.read_bytes() == routed.path.read_bytes()
    other = with_router(again, train, path, calibration=calibration, options=replace(QUICK, seed=1))
    assert other.manifest.fragments[-1].part == "router"
    assert other.path.read_bytes() != routed.path.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_other_precisions_are_other_points_so_the_router_is_left_out(supernet, plain, routed, tmp_path):
    batches = data(supernet, 64, 9)
    how = {"calibration": batches, "precisions": ("fp32", "int8")}
    expected = with_precisions(plain, batches, tmp_path / "a.stretto", **how)
    found = with_precisions(routed, batches, tmp_path / "b.stretto", **how)
    assert found.path.read_bytes() == expected.path.read_bytes()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"train": iter([])}, "train is a list_iterator, which can be gone through once, and is needed 2 times"),
        ({"calibration": iter([])}, "calibration is a list_iterator"),
        ({"train": []}, "there is no data to evaluate on"),
        ({"train": [(np.zeros((2, 3, 8, 8)), np.zeros(2))]}, r"a batch has x \(2, 3, 8, 8\)"),
        ({"path": "none/a.stretto"}, "there is no folder"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_file(supernet, plain, tmp_path, how, message):
    given = {"path": "a.stretto", "train": data(supernet, 8, 0), "calibration": data(supernet, 8, 1), **how}
    with pytest.raises(ValueError, match=message):
        with_router(plain, given.pop("train"), tmp_path / given.pop("path"), **given)
    assert not list(tmp_path.iterdir())


def test_bundle_without_fp32_is_refused(supernet, plain, tmp_path):
    bundle, batches = plain.only(["int8"]), data(supernet, 8, 0)
    fragments = tuple(one for one in bundle.manifest.fragments if one.precision == "int8")
    bundle = Bundle(bundle.path, replace(bundle.manifest, fragments=fragments), "", bundle.graphs, bundle.weights)
    with pytest.raises(ValueError, match=r"fitted to fp32, which isn't among the precisions \('int8',\)"):
        with_router(bundle, batches, tmp_path / "a.stretto", calibration=batches)


def test_network_too_small_for_a_router_is_told_what_one_would_take():
    with pytest.raises(ExportError, match=r"a router on features \(16, 8, 8\) takes \d+ MACs at least, .* of the full"):
        make_head((16, 8, 8), 4, 10_000)


@pytest.mark.parametrize("full_macs", [200_000, 1_000_000, 100_000_000])
def test_head_is_the_largest_within_its_share_of_the_macs(full_macs):
    shape = (64, 32, 32)
    head, taken = make_head(shape, 16, full_macs)
    assert taken == head_macs(head, shape) <= SHARE * full_macs
    larger = [head_macs(RouterHead(shape, 16, *size), shape) for size in SIZES]
    assert taken == max(macs for macs in larger if macs <= SHARE * full_macs)


@pytest.mark.parametrize("shape", [(16,), (4, 16), (8, 12, 12), (3, 30, 33), (8, 1, 1), (3, 4, 5, 6)])
def test_head_takes_features_of_any_number_of_axes(shape):
    head = RouterHead(shape, 5, 8, 8).eval()
    x = torch.randn(3, *shape)
    assert head(x).shape == (3, 5)
    torch.testing.assert_close(head.judge(head.pooled(x)), head(x))
    assert head_macs(head, shape) > 0


@pytest.mark.parametrize("name", ["sequences", "lenet300"])
def test_networks_that_are_not_of_images_get_routers_too(name, tmp_path, monkeypatch):
    monkeypatch.setattr("stretto.training.router_head.SHARE", 10.0)  # these are very small
    shape = {"sequences": (4, 16), "lenet300": (1, 8, 8)}[name]
    supernet = settled(model(name), shape, exits=2, widths=(0.5, 1.0))
    batches = [(np.random.default_rng(0).standard_normal((48, *shape), np.float32), np.arange(48) % 5)]
    source = export(supernet, batches, tmp_path / "a.stretto", input=InputSpec(shape))
    options = RouterOptions(epochs=1, batch=16)
    bundle = with_router(source, batches, tmp_path / "b.stretto", calibration=batches, options=options)
    assert chances(bundle, batches[0][0]).shape == (48, 4)


def digits_bundle(path: Any) -> Bundle:
    supernet = net()
    batches = [(np.zeros((4, *SHAPE), np.float32), np.zeros(4))]
    how = {"input": InputSpec(SHAPE, scale=1 / 16), "classes": [*"0123456789"]}
    return export(supernet, batches, path, **how, provenance={"holdout": 0.2})


def test_data_by_name_are_split_as_the_training_split_them_and_drawn_from(tmp_path):
    source, told = digits_bundle(tmp_path / "a.stretto"), []
    options = RouterOptions(images=100, epochs=1)
    bundle = add_router(source, tmp_path / "b.stretto", "digits", options=options, tell=lambda *how: told.append(how))
    said = bundle.manifest.provenance["router"]
    assert (said["data"], said["images"]) == ("digits", 100)
    assert 250 < said["calibration"] < 320  # a fifth of the 1,437 in train
    assert list(dict.fromkeys(what for what, _, _ in told)) == [
        "learning", "learning stem", "calibrating", "calibrating stem", "fitting",
    ]  # fmt: skip


def test_command_writes_the_bundle_and_says_what_the_router_is_worth(tmp_path):
    from stretto.cli import app

    source, made = digits_bundle(tmp_path / "a.stretto"), tmp_path / "b.stretto"
    words = ["router", str(source.path), "--data", "digits", "--out", str(made), "--images", "64", "--epochs", "1"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "fitted on 64 images and corrected on" in " ".join(done.stdout.split())
    assert Bundle.open(made).routed
