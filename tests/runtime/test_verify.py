"""Bundles whose hashes are right but whose contents don't fit together."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from onnx import ModelProto, helper
from stretto.policies.situation import Step
from stretto.runtime.bundle import Bundle
from stretto.runtime.errors import BundleError

from .forged import Json, forge, toy

STAGE1, EXIT1 = "graphs/stage1_0.5_fp32.onnx", "graphs/exit1_0.5_fp32.onnx"
WEIGHTS = "weights.safetensors"


def fragment_of(manifest: Json, stage: int, part: str) -> Json:
    return next(one for one in manifest["fragments"] if (one["stage"], one["part"]) == (stage, part))


def drop(key: str) -> Callable[[Json], object]:
    return lambda manifest: manifest.pop(key)


def put(value: object, *path: str | int) -> Callable[[Any], object]:
    def edit(manifest: Any) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    return edit


def rebind(**values: object) -> Callable[[Json], object]:
    return lambda manifest: fragment_of(manifest, 1, "body")["bindings"]["stage1.w"].update(values)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put(1, "surprise"), "unknown key 'surprise' in the whole"),
        (put(1, "input", "surprise"), "unknown key 'surprise' in input"),
        (drop("opset"), "missing key 'opset' in the whole"),
        (put(2, "format"), "format is 2, this version of stretto reads 1"),
        (put("3", "depths"), 'depths is "3", expected int'),
        (put(True, "depths"), "depths is true, expected int"),
        (put(None, "points", 1, "accuracy"), r"points\[1\].accuracy is null, expected float"),
        (put([[0, 1, 2]], "fragments", 0, "bindings", "stem.b", "slices"), r"slices\[0\]\[0\] is 0, expected tuple"),
        (put("tail", "fragments", 0, "part"), r"fragments\[0\].part is \"tail\", expected .*body.*head"),
        (put([1.0, 0.5], "widths"), r"widths are \(1.0, 0.5\), expected ascending"),
        (put([0.5, 1.5], "widths"), r"widths are .*, expected ascending numbers in \(0, 1\]"),
        (put(0, "depths"), "depths is 0, expected at least 1"),
        (put([], "precisions"), "precisions are"),
        (put([], "classes"), "classes is empty"),
        (put(0, "opset"), "opset 0, expected at least 1"),
        (put("uint8", "input", "dtype"), "input.dtype is 'uint8'"),
        (put([0.0] * 3, "input", "std"), "expected positive numbers"),
        (put([0.1], "input", "mean"), "input.mean has 1 values, expected 3 or none"),
        (put(1.5, "points", 0, "accuracy"), r"accuracy of .* isn't in \[0, 1\]"),
        (put(0.0, "points", 0, "temperature"), "its temperature positive"),
        (lambda manifest: manifest["points"].pop(), "points lack .* that don't belong there"),
        (lambda manifest: manifest["points"].append(manifest["points"][0]), "points lack"),
        (lambda manifest: manifest["fragments"].pop(), "fragments lack .*head"),
        (put(9, "fragments", 0, "stage"), "fragments lack"),
        (put([3, 8, 9], "input", "shape"), r"body of stage 0 .* takes .*, expected .*\(3, 8, 9\)"),
        (put("other", "fragments", 1, "input", "name"), "takes .*'other'.*, expected .*'features0'"),
        (put([-4, 8, 8], "fragments", 1, "output", "shape"), "expected a name and sizes from 1"),
        (put(["one"], "classes"), r"expected \(1,\) classes"),
    ],
)
def test_manifest_that_does_not_fit_is_refused(tmp_path, edit, message):
    with pytest.raises(BundleError, match=rf"x.stretto: member 'manifest.json': .*{message}"):
        Bundle.open(forge(tmp_path / "x.stretto", edit))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (rebind(tensor="gone"), "'stage1.w' names tensor 'gone', which the weights don't have"),
        (rebind(slices=[None]), r"cuts 1 axes, tensor 'stage1.weight' has shape \(8, 8, 3, 3\)"),
        (rebind(slices=[[[0, 9]], None, None, None]), r"keeps ranges \(\(0, 9\),\) of an axis of 8"),
        (rebind(slices=[[[-1, 3]], None, None, None]), "keeps ranges"),
        (rebind(slices=[[[3, 3]], None, None, None]), "keeps ranges"),
        (rebind(slices=[[], None, None, None]), "keeps ranges"),
        (rebind(slices=[[[0, 8]] * 1000, None, None, None]), "keeps 8000 of an axis of 8"),
        (rebind(slices=[[[0, 3]], [[0, 4]], None, None], scale=None), r"declared as type 1, shape \(4, 4, 3, 3\)"),
        (rebind(perm=[1, 0, 2]), r"has perm \(1, 0, 2\), expected an order of 4 axes"),
        (rebind(scale="stage1.bias.1.0"), r"scales axis 0 of \(4, 4, 3, 3\) by 'stage1.bias.1.0'"),
        (rebind(scale_axis=7), "scales axis 7"),
        (lambda m: fragment_of(m, 1, "body")["bindings"].pop("stage1.b"), "initialiser 'stage1.b' has no binding"),
        (
            lambda m: fragment_of(m, 1, "body")["bindings"].update(
                more=fragment_of(m, 0, "body")["bindings"]["stem.b"]
            ),
            "initialiser 'more' has a binding but isn't an external one",
        ),
    ],
)
def test_binding_that_does_not_fit_is_refused(tmp_path, edit, message):
    with pytest.raises(BundleError, match=f"member '{STAGE1}': .*{message}"):
        Bundle.open(forge(tmp_path / "x.stretto", edit))


def change_graph(member: str, change: Callable[[ModelProto], object]) -> dict[str, bytes]:
    model = ModelProto.FromString(toy().graphs[member])
    change(model)
    return {member: model.SerializeToString()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.graph.node[0].input.__setitem__(0, "stage1.conv"), "reads 'stage1.conv', which is neither"),
        (
            lambda m: m.graph.node[2].output.__setitem__(0, "other"),
            "no node makes the fragment's output 'logits1'",
        ),
        (lambda m: m.graph.node[1].output.__setitem__(0, "exit1.pool"), "'exit1.pool' is defined twice"),
        (lambda m: setattr(m.graph, "name", "mine"), "graph field 2"),
        (lambda m: setattr(m.graph.initializer[0], "data_type", 11), "declared as type 11"),
        (lambda m: m.graph.node.append(helper.make_node("Relu", ["exit1.pool"], ["stem.conv"])), "also defined in"),
        (lambda m: m.graph.node.append(helper.make_node("Relu", ["exit1.pool"], ["stage2.w"])), "is also defined"),
    ],
)
def test_graph_that_does_not_fit_is_refused(tmp_path, change, message):
    with pytest.raises(BundleError, match=rf"member 'graphs/\w+_0.5_fp32.onnx': .*{message}"):
        Bundle.open(forge(tmp_path / "x.stretto", **change_graph(EXIT1, change)))


def with_int8(sign: np.ndarray) -> bytes:
    weights = toy().weights | {"stage1.weight": np.ones((8, 8, 3, 3), np.int8), "stage1.scale.0.5": sign}
    return safetensors.numpy.save(weights)


def declared_int8(model: ModelProto) -> None:
    next(one for one in model.graph.initializer if one.name == "stage1.w").data_type = 3


def test_int8_weights_with_signs_are_taken(tmp_path):
    graphs = change_graph(STAGE1, declared_int8) | change_graph("graphs/stage1_1.0_fp32.onnx", declared_int8)
    whole = {"stage1.scale.1.0": np.int8([1, -1] * 4)}
    weights = safetensors.numpy.load(with_int8(np.int8([1, -1, 0, 1]))) | whole
    path = forge(tmp_path / "x.stretto", **graphs, **{WEIGHTS: safetensors.numpy.save(weights)})
    assert Bundle.open(path).model(Step(0, 1, 0.5)).initializers["stage1.w"].dtype == np.int8


@pytest.mark.parametrize(
    ("sign", "change", "message"),
    [
        (np.int8([1, 1, 1, 1]), lambda model: None, r"declared as type 1, .*, its binding gives int8 \(3\)"),
        (np.int8([1, 1, 2, 1]), declared_int8, "holds more than the signs -1, 0 and 1"),
        (np.ones(4, np.float32), declared_int8, "scales int8 by 'stage1.scale.0.5' of float32; only int8 goes with"),
    ],
)
def test_int8_that_does_not_fit_is_refused(tmp_path, sign, change, message):
    members = change_graph(STAGE1, change) | {WEIGHTS: with_int8(sign)}
    with pytest.raises(BundleError, match=f"member '{STAGE1}': .*{message}"):
        Bundle.open(forge(tmp_path / "x.stretto", **members))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (b"noise", "it isn't safetensors"),
        (safetensors.numpy.save({}), "names tensor"),
        (safetensors.numpy.save({"stem.weight": np.zeros((8, 3, 3, 3))}), "tensor 'stem.weight' of float64, expected"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, weights, message):
    with pytest.raises(BundleError, match=message):
        Bundle.open(forge(tmp_path / "x.stretto", **{WEIGHTS: weights}))


def test_listed_member_that_no_fragment_uses_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"member 'extra.onnx': no fragment uses it"):
        Bundle.open(forge(tmp_path / "x.stretto", **{"extra.onnx": b""}))
