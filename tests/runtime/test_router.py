"""A bundle may have a router, which engines run with the stem like any step; one without it is as ever."""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from numpy.testing import assert_allclose, assert_array_equal
from stretto.policies.situation import Step
from stretto.runtime.bundle import Bundle, write_bundle
from stretto.runtime.engines import ENGINES, make_engine
from stretto.runtime.errors import BundleError
from stretto.runtime.manifest import Fragment, TensorSpec
from stretto.runtime.session import load

from .toy import Toy, toy_bundle

PRECISIONS = ("fp32", "twin")
HERE = [name for name in ENGINES if name != "openvino" or find_spec("openvino")]


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Toy:
    return toy_bundle(tmp_path_factory.mktemp("router") / "toy.stretto", precisions=PRECISIONS, router=True)


@pytest.fixture(params=HERE)
def engine(request, toy):
    engine = make_engine(request.param, Bundle.open(toy.path))
    yield engine
    engine.close()


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_engines_answer_what_the_router_says_and_what_the_stem_gives(engine, toy, precision, batch):
    x, step = toy.samples(batch), toy.manifest.router_step(precision)
    engine.load(step)
    odds, features = engine.run(step, x)
    assert_allclose(odds, toy.odds(x), atol=1e-5, rtol=1e-5)
    assert_allclose(features, toy.features(x, 0, 1.0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [0.5, 1.0])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_any_width_goes_on_from_where_the_router_was_asked(engine, toy, width, depth):
    x = toy.samples(3)
    _, features = engine.run(toy.manifest.router_step(), x)
    for found, expected in zip(
        engine.run(Step(1, depth, width), features), toy.answer(x, Step(0, depth, width)), strict=True
    ):
        assert (found is None) == (expected is None)
        if found is not None:
            assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_router_speaks_of_the_points_in_the_manifests_order_whatever_is_left_out(toy):
    bundle = Bundle.open(toy.path)
    points = tuple(record.point for record in toy.manifest.points)
    assert bundle.routed == points
    less = bundle.only(["twin"])
    assert len(less.manifest.points) < len(points)
    assert less.only(["twin"]).routed == points
    assert_array_equal(less.router_model("twin").initializers["router.b"], toy.weights["router.bias"])


def test_only_the_weights_of_stem_and_router_are_bound(toy):
    model = Bundle.open(toy.path).router_model()
    assert set(model.initializers) == {"stem.w", "stem.b", "router.w", "router.b"}
    assert model.outputs == ("odds", "features0")


def test_every_step_is_as_without_a_router(toy, tmp_path):
    plain = Bundle.open(toy_bundle(tmp_path / "plain.stretto", precisions=PRECISIONS).path)
    routed = Bundle.open(toy.path)
    for step in toy.steps():
        assert routed.model(step).model == plain.model(step).model


def test_session_on_a_bundle_with_a_router_answers_as_ever(toy):
    with load(toy.path, policy=toy.manifest.points[-1].point) as session:
        answer = session.infer(toy.samples(1)[0])
        assert_allclose(answer.seen.logits, toy.logits(toy.samples(1), 3, 1.0)[0], atol=1e-5)


def test_bundle_without_a_router_says_so(tmp_path):
    bundle = Bundle.open(toy_bundle(tmp_path / "plain.stretto").path)
    assert bundle.routed == ()
    for ask in (bundle.router_model, lambda: bundle.model(bundle.manifest.router_step())):
        with pytest.raises(ValueError, match=r"plain.stretto has no router; give it one by stretto router"):
            ask()


def test_router_in_a_precision_that_is_not_there_is_told_what_there_is(toy):
    with pytest.raises(ValueError, match=r"precision 'int8' in toy.stretto; it has .* precisions \('fp32', 'twin'\)"):
        Bundle.open(toy.path).router_model("int8")


def test_router_is_nothing_that_a_step_can_go_on_to(toy):
    with pytest.raises(ValueError, match="step starts at stage 1; to end at exit 0, start at 0 to 0"):
        Bundle.open(toy.path).model(Step(1, 0, 1.0))


def changed(toy: Toy, path: Path, change: Callable[[Fragment], Fragment | tuple[Fragment, ...]]) -> None:
    """Writes the toy with its router changed, or with several."""
    *others, router = toy.manifest.fragments
    made = change(router)
    fragments = (*others, *(made if isinstance(made, tuple) else (made,)))
    write_bundle(path, replace(toy.manifest, fragments=fragments), toy.graphs, toy.weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: replace(r, output=TensorSpec("odds", (11,))), r"gives .*\(11,\)\), expected \(12,\) points"),
        (lambda r: replace(r, input=TensorSpec("features0", (4, 8, 8))), r"takes .*4, 8, 8.*, expected .*8, 8, 8"),
        (lambda r: replace(r, input=TensorSpec("input", (8, 8, 8))), "takes .*'input'.*, expected .*'features0'"),
        (lambda r: replace(r, stage=1), "fragments lack .* have .*1, None, 'fp32', 'router'"),
        (lambda r: replace(r, precision="twin"), "have .*0, None, 'twin', 'router'.* that don't belong"),
        (lambda r: (r, r), "have .*'router'.* that don't belong"),
        (lambda r: replace(r, bindings={}), "initialiser 'router.b' has no binding"),
    ],
)
def test_router_that_does_not_fit_is_refused(toy, tmp_path, change, message):
    with pytest.raises(BundleError, match=message):
        changed(toy, tmp_path / "x.stretto", change)


def test_router_whose_names_are_those_of_another_part_is_refused(toy, tmp_path):
    member = "graphs/router.onnx"
    graphs = toy.graphs | {member: toy.graphs[member].replace(b"router.pool", b"stage1.conv")}
    with pytest.raises(BundleError, match=r"'stage1.conv' is also defined in"):
        write_bundle(tmp_path / "x.stretto", toy.manifest, graphs, toy.weights)
