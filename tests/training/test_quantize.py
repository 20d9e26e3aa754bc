"""Bundles in int8: what they answer, what is stored for it, and that engines compute it in integers."""

import zipfile
from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from stretto.policies.situation import Step
from stretto.runtime.bundle import Bundle
from stretto.runtime.engines import make_engine
from stretto.runtime.engines.onnx import SETTINGS, OnnxEngine
from stretto.runtime.manifest import InputSpec
from stretto.training.export import export
from stretto.training.quantize import LARGEST, LARGEST_REDUCED, int8_weight, uint8_scale
from stretto.training.ranges import observe
from stretto.training.supernet import Supernet, make_supernet
from torch import nn

from .odd_nets import settled
from .test_export import CASES, model

BOTH = ("fp32", "int8")
INT16_LARGEST = 32767


@dataclass(frozen=True)
class Case:
    bundle: Bundle
    x: NDArray[np.float32]

    def logits(self, step: Step, engine: type[OnnxEngine] = OnnxEngine) -> NDArray[np.float32]:
        running = engine(self.bundle)
        found, _ = running.run(step, self.x)
        running.close()
        return found

    def error(self, step: Step) -> float:
        """Root mean square of what int8 changes at a step, over that of the logits."""
        found, expected = self.logits(step._replace(precision="int8")), self.logits(step)
        return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


def exported(net: Supernet, x: torch.Tensor, path: Path, **how: object) -> Case:
    batches = [(part, torch.zeros(len(part))) for part in x.split(16)]
    spec = InputSpec(tuple(x.shape[1:]))
    return Case(export(net, batches, path, input=spec, calibration=batches, precisions=BOTH, **how), x.numpy())


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """By network, each written when it is first asked for."""
    made: dict[str, Case] = {}

    def get(name: str) -> Case:
        if name not in made:
            shape, _ = CASES[name]
            net = settled(model(name), shape, exits=2, widths=(0.5, 1.0))
            made[name] = exported(net, torch.randn(32, *shape), tmp_path_factory.mktemp("int8") / f"{name}.stretto")
        return made[name]

    return get


@pytest.mark.parametrize("name", CASES)
def test_int8_answers_nearly_what_fp32_answers_at_every_point(cases, name):
    case = cases(name)
    has = case.bundle.manifest
    for width, depth in product(has.widths, range(1, has.depths + 1)):
        assert 0 < case.error(Step(0, depth, width)) < 0.12, (width, depth)


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "lenet5"])
def test_span_in_int8_equals_the_chain_of_its_steps(cases, name):
    case = cases(name)
    engine, has = make_engine("onnx", case.bundle), case.bundle.manifest
    for width in has.widths:
        features = case.x
        for depth in range(1, has.depths + 1):
            logits, features = engine.run(Step(depth if depth > 1 else 0, depth, width, "int8"), features)
        span, _ = engine.run(Step(0, has.depths, width, "int8"), case.x)
        np.testing.assert_allclose(logits, span, atol=1e-4 * np.abs(span).max())
    engine.close()


@pytest.mark.parametrize("name", CASES)
def test_int8_models_are_valid_onnx(cases, name):
    bundle = cases(name).bundle
    step = bundle.model(Step(0, bundle.manifest.depths, bundle.manifest.widths[0], "int8"))
    proto = onnx.load_from_string(step.model)
    for tensor in proto.graph.initializer:
        if tensor.name in step.initializers:
            tensor.CopyFrom(onnx.numpy_helper.from_array(step.initializers[tensor.name], tensor.name))
    onnx.checker.check_model(proto, full_check=True)


@pytest.mark.parametrize("name", ["resnet", "lenet5", "lenet300"])
def test_only_the_layer_that_gives_the_scores_is_computed_in_float(cases, name, tmp_path):
    bundle = cases(name).bundle
    for width in bundle.manifest.widths:
        operators = fused(bundle, Step(0, bundle.manifest.depths, width, "int8"), tmp_path / "fused.onnx")
        float_layers = operators["Conv"] + operators["FusedConv"] + operators["Gemm"] + operators["FusedGemm"]
        assert float_layers == 1, operators
        assert operators["QLinearConv"] + operators["QGemm"] > 0
        assert operators["Add"] == 0


def fused(bundle: Bundle, step: Step, path: Path) -> Counter[str]:
    """The operators that ONNX Runtime makes of a step."""
    made = bundle.model(step)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path), 3
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in made.initializers.values()]
    options.add_external_initializers(list(made.initializers), values)
    onnxruntime.InferenceSession(made.model, options, ["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "lenet300"])
def test_one_int8_tensor_serves_every_width(cases, name):
    with zipfile.ZipFile(cases(name).bundle.path) as file:
        stored = safetensors.numpy.load(file.read("weights.safetensors"))
    integers = {key: array for key, array in stored.items() if array.dtype == np.int8}
    assert integers
    for key, array in integers.items():
        tensor = key.rpartition(".int8")[0]
        assert array.shape == stored[tensor].shape  # and no other of them: keys are by tensor, not by width
    assert sum(array.nbytes for array in integers.values()) <= sum(
        array.size for key, array in stored.items() if key.endswith("weight")
    )


@settings(deadline=None, max_examples=50)
@given(
    weight=arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=4), elements=st.floats(-9, 9, width=32)),
    largest=st.sampled_from([LARGEST, LARGEST_REDUCED]),
    data=st.data(),
)
def test_int8_weight_is_the_weight_to_half_a_scale(weight, largest, data):
    axis = data.draw(st.integers(0, weight.ndim - 1))
    integers, scale = int8_weight(weight, axis, largest)
    shape = [1] * weight.ndim
    shape[axis] = -1
    assert integers.dtype == np.int8 and scale.shape == (weight.shape[axis],)
    assert np.abs(integers.astype(int)).max() <= largest
    assert (np.abs(integers * scale.reshape(shape) - weight) <= scale.reshape(shape) * 0.501).all()


@given(low=st.floats(-1e3, 1e3), high=st.floats(-1e3, 1e3))
def test_uint8_scale_reaches_both_ends_and_keeps_zero(low, high):
    low, high = min(low, high), max(low, high)
    scale, zero = uint8_scale(low, high)
    assert scale > 0 and 0 <= zero <= 255
    if high - low > 1e-3:
        assert (255 - zero) * scale >= high - scale and -zero * scale <= low + scale


def plain(weight: float, channels: int = 64) -> nn.Module:
    """Two convolutions of equal weights, without norms, and a classifier."""
    net = nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(),
        nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Conv2d):
                layer.weight.fill_(weight)
    return net


def engine_with(precise: str) -> type[OnnxEngine]:
    return type("Engine", (OnnxEngine,), {"settings": {**SETTINGS, "session.x64quantprecision": precise}})


@pytest.mark.parametrize(
    ("reduce_range", "engine"),
    [(False, OnnxEngine), (True, engine_with("0")), (False, engine_with("1")), (True, engine_with("1"))],
    ids=["as it comes", "7 bits, quick instructions", "8 bits, precise mode", "7 bits, precise mode"],
)
def test_largest_products_do_not_saturate(tmp_path, reduce_range, engine):
    """All activations 255, all weights the largest: where pairs of products are added in 16 bits, half is lost."""
    net = make_supernet(plain(0.01), torch.zeros(1, 1, 6, 6), widths=(0.5, 1.0), exits=1)
    case = exported(net, torch.ones(8, 1, 6, 6), tmp_path / "a.stretto", reduce_range=reduce_range)
    for width in net.widths:
        step = Step(0, net.depths, width)
        found, expected = case.logits(step._replace(precision="int8"), engine), case.logits(step)
        assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_two_products_of_7_bit_weights_fit_in_16_bits_and_of_8_bit_ones_do_not():
    assert 2 * 255 * LARGEST_REDUCED <= INT16_LARGEST < 2 * 255 * LARGEST


class Signed(nn.Module):
    """A norm with factors of both signs, of zero, and so small that their bias is huge beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3)
        self.norm, self.head = nn.BatchNorm2d(16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(torch.relu(self.stem(x))))).mean((2, 3)))


@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_norms_of_any_sign_or_no_size_are_answered_as_in_fp32(tmp_path, weights):
    torch.manual_seed(0)
    net = settled(Signed(), (1, 8, 8), exits=1, widths=(0.5, 1.0))
    with torch.no_grad():
        for name, value in net.norms.named_parameters():
            if name.endswith("weight"):
                value.copy_(torch.tensor([1.0, -1.0, 0.0, 1e-13] * 4)[: len(value)])
            else:
                value.fill_(0.5)
    case = exported(net, torch.randn(32, 1, 8, 8), tmp_path / "a.stretto", weights=weights)
    for width in net.widths:
        assert case.error(Step(0, net.depths, width)) < 0.05


class Attentive(nn.Module):
    """Attention, whose reshaping reads sizes and joins them, and a layer whose input is a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, 16, 3, padding=1)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.place, self.placed = nn.Parameter(torch.rand(8, 16)), nn.Linear(16, 16)
        self.hidden, self.head = nn.Linear(16, 32), nn.Linear(32, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x)).transpose(1, 2) + self.placed(self.place)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(torch.relu(self.hidden(x.mean(1))))


def test_sizes_and_constants_are_no_activations(tmp_path):
    torch.manual_seed(0)
    net = settled(Attentive(), (4, 8), exits=1, widths=(0.5, 1.0))
    case = exported(net, torch.randn(32, 4, 8), tmp_path / "a.stretto")
    plans, _ = taken_apart(case.bundle, 1.0)
    for width in net.widths:
        assert case.error(Step(0, net.depths, width)) < 0.12
    sizes = {name for plan in plans for node in plan.nodes if node.op_type == "Shape" for name in node.output}
    assert sizes and not any(sizes & plan.ranged.keys() for plan in plans)


def test_a_tensor_becomes_integers_once_for_all_widths(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "stretto.training.quantize.int8_weight",
        lambda weight, *how: asked.append(id(weight)) or int8_weight(weight, *how),
    )
    net = settled(model("lenet300"), (1, 8, 8), exits=2, widths=(0.5, 1.0))
    exported(net, torch.randn(32, 1, 8, 8), tmp_path / "a.stretto")
    assert asked and len(asked) == len(set(asked))


def test_range_leaves_out_what_a_rare_sample_has(cases):
    case = cases("lenet300")
    rare = np.concatenate([np.tile(case.x, (4, 1, 1, 1)), 1000 * case.x[:1]])
    plans, parts = taken_apart(case.bundle, 1.0)
    low, high = observe(parts, plans, {}, [rare]).ranges["input"]
    assert -10 < low < 0 < high < 10


def test_ranges_without_data_are_refused(cases):
    plans, parts = taken_apart(cases("lenet300").bundle, 1.0)
    with pytest.raises(ValueError, match="calibration has no data, which int8 needs"):
        observe(parts, plans, {}, [])


def taken_apart(bundle: Bundle, width: float):
    from stretto.training.int8_plan import Plan
    from stretto.training.onnx_graph import Parts

    with zipfile.ZipFile(bundle.path) as file:
        graphs = {name: file.read(name) for name in file.namelist() if name.endswith(".onnx")}
        weights = safetensors.numpy.load(file.read("weights.safetensors"))
    has = bundle.manifest
    parts = Parts(has.fragments, graphs, weights, has.ir_version, has.opset, 0)
    path = [one for one in has.fragments if one.width in (None, width) and one.precision == "fp32"]
    return [Plan(one, graphs[one.member]) for one in path], parts


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"precisions": ("int8",), "calibration": []}, r"precisions are \('int8',\); give fp32, and any others of"),
        ({"precisions": ("fp32", "int4")}, "precisions are .*int4.*; give fp32, and any others of fp32, int8, bf16"),
        ({"precisions": ("fp32", "fp32")}, "precisions are"),
        ({"precisions": ("fp32", "int8")}, "int8 needs calibration data"),
        (
            {"reduce_range": True},
            r"reduce_range is of int8's weights, precisions are \('fp32',\); add int8, or leave it",
        ),
        (
            {"precisions": ("fp32", "int8"), "calibration": iter([])},
            "calibration is a list_iterator, which can be gone through once, and is needed 2 times; give a DataLoader",
        ),
        (
            {"precisions": ("fp32", "bf16"), "calibration": (_ for _ in ())},
            "calibration is a generator, which can be gone through once, and is needed 2 times",
        ),
    ],
)
def test_precisions_that_cannot_be_exported_are_refused(tmp_path, how, message):
    net = make_supernet(plain(0.1, 16), torch.zeros(1, 1, 6, 6), widths=(1.0,), exits=1)
    with pytest.raises(ValueError, match=message):
        export(net, [], tmp_path / "a.stretto", input=InputSpec((1, 6, 6)), **how)


def test_held_out_data_for_two_engines_can_be_read_twice(tmp_path):
    net = make_supernet(plain(0.1, 16), torch.zeros(1, 1, 6, 6), widths=(1.0,), exits=1)
    how = {"input": InputSpec((1, 6, 6)), "precisions": ("fp32", "bf16")}
    with pytest.raises(ValueError, match="held_out is a list_iterator, which can be gone through once"):
        export(net, iter([]), tmp_path / "a.stretto", **how)


def test_data_that_is_read_once_may_be_an_iterator(tmp_path):
    net = make_supernet(plain(0.1, 16), torch.zeros(1, 1, 6, 6), widths=(1.0,), exits=1)
    batch = (torch.randn(4, 1, 6, 6), torch.zeros(4))
    path = tmp_path / "a.stretto"
    export(net, iter([batch]), path, input=InputSpec((1, 6, 6)), calibration=iter([batch]))
    assert path.exists()


def test_a_machine_that_cannot_measure_int8_says_so_before_the_ranges_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(OnnxEngine, "runs", lambda self, precision: precision == "fp32")
    monkeypatch.setattr("stretto.training.precisions.with_int8", lambda *_: pytest.fail("int8 was made"))
    net = make_supernet(plain(0.1, 16), torch.zeros(1, 1, 6, 6), widths=(1.0,), exits=1)
    with pytest.raises(ValueError, match="int8 can't be measured: engine 'onnx' doesn't run it on this processor"):
        exported(net, torch.randn(8, 1, 6, 6), tmp_path / "a.stretto")


def test_bf16_points_have_the_accuracy_that_openvino_gives(tmp_path):
    pytest.importorskip("openvino", reason="bf16 runs by OpenVINO, which isn't installed")
    net = settled(model("lenet300"), (1, 8, 8), exits=2, widths=(0.5, 1.0))
    x = torch.randn(32, 1, 8, 8)
    with torch.no_grad():
        y = net(x, 1.0)[-1].argmax(1)
    how = {"input": InputSpec((1, 8, 8)), "precisions": ("fp32", "bf16")}
    try:
        bundle = export(net, [(x, y)], tmp_path / "a.stretto", **how)
    except ValueError as error:
        pytest.skip(str(error))  # names the processor's lack
    point, plain_point = bundle.point(1.0, 2, "bf16"), bundle.point(1.0, 2)
    assert plain_point.accuracy == 1.0 and 0.9 <= point.accuracy <= 1.0
    assert {fragment.precision for fragment in bundle.manifest.fragments} == {"fp32"}
