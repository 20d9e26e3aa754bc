"""A bundle answers what the supernet answers, holds the weights once, and nothing of the machine that wrote it."""

import re
import zipfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch
from stretto.policies.situation import Step
from stretto.runtime.bundle import Bundle
from stretto.runtime.engines import make_engine
from stretto.runtime.engines.onnx import OnnxEngine
from stretto.runtime.errors import BundleError
from stretto.runtime.manifest import InputSpec
from stretto.training.errors import ExportError
from stretto.training.export import export
from stretto.training.nets import make_net
from stretto.training.supernet import Supernet, make_supernet
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from .odd_nets import Images, Sequences, settled

TOLERANCE = 1e-4
CASES = {
    "resnet": ((1, 8, 8), {"exits": 4}),
    "mobilenet": ((3, 16, 16), {"exits": 2, "widths": (0.25, 1.0)}),
    "lenet5": ((1, 8, 8), {"exits": 3, "widths": (0.5, 1.0)}),
    "lenet300": ((1, 8, 8), {"exits": 2, "widths": (0.5, 1.0)}),
    "images": ((3, 8, 8), {"exits": 8, "widths": (0.5, 1.0)}),
    "sequences": ((4, 16), {"exits": 3, "widths": (0.5, 1.0)}),
}
OPTIONS = {"resnet": {"blocks": 2, "base": 16}, "mobilenet": {"multiplier": 0.25}}


@dataclass(frozen=True)
class Exported:
    net: Supernet
    bundle: Bundle
    x: torch.Tensor
    y: torch.Tensor


def model(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name in ("images", "sequences"):
        return {"images": Images, "sequences": Sequences}[name]()
    return make_net(name, 10, CASES[name][0], **OPTIONS.get(name, {}))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Bundles by network, each written when it is first asked for."""
    made: dict[str, Exported] = {}

    def get(name: str) -> Exported:
        if name not in made:
            shape, how = CASES[name]
            net = settled(model(name), shape, **how)
            x, y = torch.randn(40, *shape), torch.randint(5, (40,))
            path = tmp_path_factory.mktemp("export") / f"{name}.stretto"
            bundle = export(net, DataLoader(TensorDataset(x, y), 16), path, input=InputSpec(shape), network=name)
            made[name] = Exported(net, bundle, x, y)
        return made[name]

    return get


@pytest.mark.parametrize("name", CASES)
def test_every_step_and_span_equals_the_supernet(exported, name):
    case = exported(name)
    engine = make_engine("onnx", case.bundle)
    for width, batch in product(case.net.widths, (1, 5)):
        x = case.x[:batch]
        with torch.no_grad():
            expected = [z.numpy() for z in case.net(x, width)]
        features = {0: x.numpy()}
        for depth, z in enumerate(expected, start=1):
            for first, given in list(features.items()):
                found, after = engine.run(Step(first, depth, width, "fp32"), given)
                assert np.abs(found - z).max() <= TOLERANCE * max(1.0, np.abs(z).max()), (width, first, depth)
            if after is not None:
                features[depth + 1] = after
    engine.close()


@pytest.mark.parametrize("name", CASES)
def test_assembled_models_are_valid_onnx(exported, name):
    bundle = exported(name).bundle
    has = bundle.manifest
    for step in (Step(0, has.depths, 1.0, "fp32"), Step(1, 1, has.widths[0], "fp32")):
        assembled = bundle.model(step)
        proto = onnx.load_from_string(assembled.model)
        for tensor in proto.graph.initializer:
            if tensor.name in assembled.initializers:
                tensor.CopyFrom(onnx.numpy_helper.from_array(assembled.initializers[tensor.name], tensor.name))
        onnx.checker.check_model(proto, full_check=True)


@pytest.mark.parametrize("name", CASES)
def test_graphs_hold_no_batch_norm_and_nothing_of_this_machine(exported, name):
    with zipfile.ZipFile(exported(name).bundle.path) as file:
        graphs = [file.read(member) for member in file.namelist() if member.endswith(".onnx")]
    for graph in graphs:
        assert not re.search(rb"site-packages|\.py\b|/home|/root|/work|/tmp", graph)
        assert str(Path.cwd()).encode() not in graph
        nodes = onnx.load_from_string(graph).graph.node
        assert "BatchNormalization" not in {node.op_type for node in nodes}
        assert not any(node.doc_string or node.metadata_props for node in nodes)


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_weights_are_stored_once_and_what_one_width_alone_uses_is_counted(exported, name):
    case = exported(name)
    with zipfile.ZipFile(case.bundle.path) as file:
        stored = safetensors.numpy.load(file.read("weights.safetensors"))
    unshared = case.bundle.manifest.provenance["unshared_bytes"]
    norms = sum(4 * value.numel() for key, value in case.net.named_buffers() if key.endswith("running_mean"))
    assert sum(array.nbytes for array in stored.values()) - unshared <= sum(
        4 * value.numel() for value in case.net.shared.parameters()
    )
    assert unshared == 2 * norms  # a factor and a summand for every channel of every width's norms


@pytest.mark.filterwarnings("ignore::FutureWarning")  # inside torch's exporter, which is called directly here
def test_bundle_is_hardly_larger_than_the_plain_network_with_its_heads(exported):
    case = exported("resnet")
    plain = torch.onnx.export(case.net.shared, (case.x[:2],), dynamo=True, verbose=False).model_proto
    assert case.bundle.path.stat().st_size <= 1.1 * len(plain.SerializeToString())


def test_a_halved_bundle_answers_nearly_the_same_and_knows_its_own_accuracy(exported, tmp_path):
    case = exported("lenet300")
    batches = DataLoader(TensorDataset(case.x, case.y), 40)
    half = export(case.net, batches, tmp_path / "half.stretto", input=InputSpec((1, 8, 8)), weights="float16")
    assert half.path.stat().st_size < 0.6 * case.bundle.path.stat().st_size
    for step in (Step(0, depth, width, "fp32") for width in half.manifest.widths for depth in (1, 2)):
        found, expected = (logits(bundle, step, case.x) for bundle in (half, case.bundle))
        assert 0 < np.abs(found - expected).max() < 1e-2 * np.abs(expected).max()
        right = float((found.argmax(1) == case.y.numpy()).mean())
        assert half.point(step.width, step.depth, "fp32").accuracy == right


@pytest.mark.parametrize("name", CASES)
def test_a_coded_bundle_has_vectors_in_16_bits_and_answers_nearly_the_same(exported, name, tmp_path):
    case = exported(name)
    batches, spec = DataLoader(TensorDataset(case.x, case.y), 16), InputSpec(CASES[name][0])
    coded = export(case.net, batches, tmp_path / "coded.stretto", input=spec, network=name, coded={})
    assert coded.coding == {} and coded.manifest.provenance["coded"] is True
    for key, array in coded.weights.items():
        assert array.dtype == (np.float16 if array.ndim == 1 and array.any() else np.float32), key
        if array.ndim > 1:
            assert array.tobytes() == (case.bundle.weights[key] + 0).tobytes()  # without zeros that have a sign
    for step in (Step(0, depth, width, "fp32") for width in case.net.widths for depth in (1, case.net.depths)):
        found, expected = (logits(bundle, step, case.x) for bundle in (coded, case.bundle))
        assert np.abs(found - expected).max() < 1e-2 * np.abs(expected).max()
        right = float((found.argmax(1) == case.y.numpy()).mean())
        assert coded.point(step.width, step.depth, "fp32").accuracy == right


def signed_net() -> tuple[Supernet, dict[str, np.ndarray]]:
    """A network whose hidden layers have weights of two values an output channel, and these by name."""
    net, scales = settled(model("lenet300"), (1, 8, 8), exits=2, widths=(0.5, 1.0)), {}
    for name, layer in net.shared.named_modules():
        if isinstance(layer, nn.Linear) and layer.out_features > 10:
            scale = layer.weight.detach().abs().mean(1)
            layer.weight.data = torch.where(layer.weight < 0, -1, 1) * scale[:, None]
            scales[f"{name}.weight"] = scale.numpy()
    return net, scales


def test_weights_of_two_values_a_channel_take_a_bit_each_in_a_coded_bundle(tmp_path):
    net, scales = signed_net()
    batches, spec = [(torch.randn(8, 1, 8, 8), torch.zeros(8))], InputSpec((1, 8, 8))
    plain = export(net, batches, tmp_path / "plain.stretto", input=spec)
    coded = export(net, batches, tmp_path / "coded.stretto", input=spec, coded=scales)
    assert len(scales) == 2 and coded.coding is not None
    assert all(np.array_equal(coded.coding[name], scale) for name, scale in scales.items())
    for name in scales:
        assert np.array_equal(coded.weights[name], plain.weights[name])
    rest = sum(array.nbytes for name, array in plain.weights.items() if name not in scales)
    ones = sum(array.size / 8 + 4 * len(array) for name, array in plain.weights.items() if name in scales)
    assert coded.path.stat().st_size < ones + rest + 4000 < plain.path.stat().st_size / 5


def test_weights_that_are_not_what_coded_says_are_refused_and_leave_no_file(exported, tmp_path):
    net = exported("lenet300").net
    name, weight = next((name, value) for name, value in net.shared.named_parameters() if value.dim() == 2)
    batches = [(torch.randn(8, 1, 8, 8), torch.zeros(8))]
    with pytest.raises(BundleError, match=f"member 'weights.coded': array '{name}': row 0 has"):
        coded = {name: np.ones(len(weight), np.float32)}
        export(net, batches, tmp_path / "a.stretto", input=InputSpec((1, 8, 8)), coded=coded)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["resnet", "images"])
def test_accuracies_are_those_of_the_torch_network(exported, name):
    case = exported(name)
    for width in case.net.widths:
        with torch.no_grad():
            answers = [z.argmax(1) for z in case.net(case.x, width)]
        for depth, answer in enumerate(answers, start=1):
            point = case.bundle.point(width, depth, "fp32")
            assert point.accuracy == pytest.approx(float((answer == case.y).float().mean()))
            assert (point.macs, point.params) == (case.net.macs(width, depth), case.net.parameters_at(width, depth))


def test_calibration_changes_temperatures_only(exported, tmp_path):
    case = exported("lenet300")
    batches = [(case.x.numpy(), case.y.numpy())]
    sure = [(case.x.numpy(), logits(case.bundle, Step(0, 2, 1.0, "fp32"), case.x).argmax(1))]
    path = tmp_path / "calibrated.stretto"
    bundle = export(case.net, batches, path, input=InputSpec((1, 8, 8)), calibration=sure, network="lenet300")
    for before, after in zip(case.bundle.manifest.points, bundle.manifest.points, strict=True):
        assert before.temperature == 1.0
        assert (before.accuracy, before.macs) == (after.accuracy, after.macs)
    assert bundle.point(1.0, 2, "fp32").temperature == pytest.approx(0.05, rel=1e-3)  # it was right every time


def test_exporting_twice_gives_the_same_bytes(exported, tmp_path):
    case = exported("lenet300")
    spec, batches = InputSpec((1, 8, 8)), DataLoader(TensorDataset(case.x, case.y), 16)
    again = export(case.net, batches, tmp_path / "again.stretto", input=spec, network="lenet300")
    assert again.path.read_bytes() == case.bundle.path.read_bytes()


def test_export_leaves_mode_and_numbers_as_they_were_and_says_nothing(exported, tmp_path, capfd, recwarn):
    net = exported("lenet300").net
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    told = []
    batches = [(np.zeros((1, 1, 8, 8)), np.zeros(1))]
    tell = lambda *how: told.append(how)  # noqa: E731
    export(net, batches, tmp_path / "a.stretto", input=InputSpec((1, 8, 8)), progress=tell)
    assert net.training
    net.eval()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert capfd.readouterr() == ("", "") and not recwarn.list
    assert told == [("compiling", 0, 7), ("compiling", 7, 7), ("evaluating", 1, 1)]


def test_a_network_in_double_precision_is_exported_as_float32(tmp_path):
    net = settled(model("lenet300"), (1, 8, 8), exits=2, widths=(0.5, 1.0)).double().eval()
    batch = torch.randn(4, 1, 8, 8), torch.zeros(4)
    bundle = export(net, [batch], tmp_path / "double.stretto", input=InputSpec((1, 8, 8)))
    with torch.no_grad():
        expected = net(batch[0].double(), 0.5)[-1].numpy()
    np.testing.assert_allclose(logits(bundle, Step(0, 2, 0.5, "fp32"), batch[0]), expected, atol=TOLERANCE)


class SharedNorm(nn.Module):
    """One batch norm after four convolutions with biases of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(1 if n == 0 else 16, 16, 3, padding=1) for n in range(5))
        self.norm, self.head = nn.BatchNorm2d(16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.convs[0](x))
        for conv in self.convs[1:]:
            x = torch.relu(self.norm(conv(x)))
        return self.head(x.mean((2, 3)))


class WeightNorm(nn.Module):
    """A batch norm after a convolution whose weight isn't stored but computed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 16, 3), nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 3))
        self.norm, self.hidden, self.head = nn.BatchNorm2d(16), nn.Linear(16, 32), nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(torch.relu(self.stem(x)))))
        return self.head(torch.relu(self.hidden(x.mean((2, 3)))))


@pytest.mark.parametrize(("kind", "exits"), [(SharedNorm, 1), (SharedNorm, 3), (WeightNorm, 1)])
def test_norms_that_serve_several_layers_or_follow_a_computed_weight_are_folded_right(kind, exits, tmp_path):
    torch.manual_seed(0)
    net = settled(kind(), (1, 8, 8), exits=exits, widths=(0.5, 1.0))
    x = torch.randn(4, 1, 8, 8)
    bundle = export(net, [(x, torch.zeros(4))], tmp_path / "a.stretto", input=InputSpec((1, 8, 8)))
    for width in net.widths:
        with torch.no_grad():
            expected = [z.numpy() for z in net(x, width)]
        for depth, z in enumerate(expected, start=1):
            found = logits(bundle, Step(0, depth, width, "fp32"), x)
            np.testing.assert_allclose(found, z, atol=TOLERANCE * np.abs(z).max())


@pytest.mark.parametrize("first", [0, 1])
def test_graphs_that_answer_something_else_are_refused_leg_or_span(first, tmp_path, monkeypatch):
    """An engine that is off by 3e-4 of the largest logit in legs (from features) or in the span (from the input)."""
    net = settled(model("lenet300"), (1, 8, 8), exits=2, widths=(0.5, 1.0))
    run = OnnxEngine.run

    def off(self, step, x):
        found, after = run(self, step, x)
        wrong = step.depth == 2 and (step.first > 0) == (first > 0)
        return found + wrong * 3e-4 * np.abs(found).max(), after

    monkeypatch.setattr(OnnxEngine, "run", off)
    with pytest.raises(ExportError, match=r"differ from the torch network by .*e-04 of its largest logit"):
        export(net, [(torch.zeros(1, 1, 8, 8), torch.zeros(1))], tmp_path / "a.stretto", input=InputSpec((1, 8, 8)))


@pytest.mark.parametrize("how", [{"weights": "float16"}, {"coded": {}}])
def test_a_network_that_16_bits_are_too_few_for_is_refused_and_told_the_way_out(how, tmp_path):
    """Its logits are small differences of large numbers."""
    plain = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        plain[0].bias.copy_(1000 + torch.rand(16))
        plain[2].weight.copy_(torch.tensor([1.0, -1.0]).repeat(3, 8))
    net = make_supernet(plain, torch.zeros(1, 8), widths=(1.0,), exits=1)
    data = [(torch.zeros(1, 8), torch.zeros(1))]
    with pytest.raises(ExportError, match="export it in float32, not coded"):
        export(net, data, tmp_path / "a.stretto", input=InputSpec((8,)), **how)
    export(net, data, tmp_path / "a.stretto", input=InputSpec((8,)))


class NoForm(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.i0e(x)


def test_a_part_without_onnx_form_is_named_and_nothing_is_left(tmp_path):
    plain = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), NoForm(), nn.Linear(32, 3))
    net = make_supernet(plain, torch.zeros(1, 8), widths=(1.0,), exits=1)
    with pytest.raises(ExportError, match=r"w1\.0/1_head: no ONNX form: .*i0e"):
        export(net, [(torch.zeros(1, 8), torch.zeros(1))], tmp_path / "no.stretto", input=InputSpec((8,)))
    assert not list(tmp_path.iterdir())


def test_a_batch_norm_without_statistics_is_refused(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 32), nn.BatchNorm1d(32, track_running_stats=False), nn.ReLU(), nn.Linear(32, 16), nn.Linear(16, 3)
    )
    net = make_supernet(model, torch.zeros(2, 8), widths=(0.5, 1.0), exits=2)
    with pytest.raises(ExportError, match="1 has no running statistics"):
        export(net, [], tmp_path / "no.stretto", input=InputSpec((8,)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"input": InputSpec((3, 8, 8))}, r"input.shape is \(3, 8, 8\), the supernet was made for \(1, 8, 8\)"),
        ({"classes": ["a", "b"]}, "2 names of classes are given, the network has 10 logits"),
        ({"weights": "int8"}, "weights 'int8': one of float32, float16"),
        ({"path": "none/a.stretto"}, "there is no folder"),
    ],
)
def test_what_does_not_fit_is_refused_before_compiling(exported, tmp_path, changed, message):
    given = {"input": InputSpec((1, 8, 8)), "path": "a.stretto", "progress": lambda *how: pytest.fail("compiled")}
    given |= changed
    with pytest.raises(ValueError, match=message):
        export(exported("lenet300").net, [], tmp_path / given.pop("path"), **given)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((np.zeros((2, 8, 8)), np.zeros(2)), r"x \(2, 8, 8\) and y \(2,\), expected \(n, \*\(1, 8, 8\)\)"),
        ((np.zeros((2, 1, 8, 8)), np.full(2, 10)), "labels are 10 to 10, the bundle has classes 0 to 9"),
        (None, "there is no data"),
    ],
)
def test_held_out_data_that_does_not_fit_leaves_no_file(exported, tmp_path, batch, message):
    data = [] if batch is None else [batch]
    with pytest.raises(ValueError, match=message):
        export(exported("lenet300").net, data, tmp_path / "a.stretto", input=InputSpec((1, 8, 8)))
    assert not list(tmp_path.iterdir())


def logits(bundle: Bundle, step: Step, x: torch.Tensor) -> np.ndarray:
    engine = make_engine("onnx", bundle)
    found, _ = engine.run(step, x.numpy())
    engine.close()
    return found
