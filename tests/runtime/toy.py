"""A small real bundle, made without torch, and what its steps must answer, computed in numpy.

stem: 3x3 convolution, relu · stages 1 to depths-1: 3x3 convolution with a folded norm, relu (stage 1 first cuts the
stem's channels) · exits, and a router: global average pool, linear layer. The weights are random but seeded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from stretto.policies.situation import Step
from stretto.runtime.bundle import write_bundle
from stretto.runtime.manifest import Binding, Fragment, InputSpec, Manifest, PointRecord, TensorSpec

Floats = NDArray[np.float32]
Ranges = tuple[tuple[int, int], ...]
Made = tuple[Fragment, bytes]


@dataclass(frozen=True)
class Toy:
    """The bundle's file, the parts it was written from, and a reference that shares no code with the runtime."""

    path: Path
    manifest: Manifest
    graphs: dict[str, bytes]
    weights: dict[str, NDArray]

    @property
    def channels(self) -> int:
        """Channels at full width."""
        return self.weights["stem.bias"].size

    def steps(self) -> list[Step]:
        """Every step and span that a session could ask for."""
        ends = [(first, depth) for depth in range(1, self.manifest.depths + 1) for first in range(depth + 1)]
        axes = product(ends, self.manifest.widths, self.manifest.precisions)
        return [Step(first, depth, width, precision) for (first, depth), width, precision in axes]

    def samples(self, count: int, seed: int = 0) -> Floats:
        """(count, *shape) numbers as the network takes them."""
        return np.random.default_rng(seed).standard_normal((count, *self.manifest.input.shape), np.float32)

    def features(self, x: Floats, stage: int, width: float) -> Floats:
        """What the body of `stage` gives for the samples `x`; stage 0 is the stem."""
        if stage == 0:
            return _convolve(x, self.weights["stem.weight"], self.weights["stem.bias"])
        before = self.features(x, stage - 1, width)
        outs, ins = _indices(stage, self.channels, width), _indices(stage - 1, self.channels, width)
        weight = self.weights[f"stage{stage}.weight"][np.ix_(outs, ins)]
        scale = self.weights[f"stage{stage}.scale.{width}"][:, None, None, None]
        return _convolve(before[:, : len(ins)], weight * scale, self.weights[f"stage{stage}.bias.{width}"])

    def logits(self, x: Floats, depth: int, width: float) -> Floats:
        """(samples, classes) at exit `depth`."""
        stage = min(depth, self.manifest.depths - 1)
        kept = _indices(stage, self.channels, width) if stage else slice(None)
        weight = self.weights[f"exit{depth}.weight"][:, kept].astype(np.float32)
        return self.features(x, stage, width).mean((2, 3)) @ weight.T + self.weights[f"exit{depth}.bias"]

    def odds(self, x: Floats) -> Floats:
        """(samples, points) that the router says."""
        return self.features(x, 0, 1.0).mean((2, 3)) @ self.weights["router.weight"].T + self.weights["router.bias"]

    def before(self, x: Floats, step: Step) -> Floats:
        """What `step` takes: the samples, or the features that the previous step left."""
        return x if step.first == 0 else self.features(x, min(step.first, self.manifest.depths) - 1, step.width)

    def answer(self, x: Floats, step: Step) -> tuple[Floats, Floats | None]:
        """What a step gives for the samples `x` (not for its own input): logits, and features but at the end."""
        final = step.depth == self.manifest.depths
        return self.logits(x, step.depth, step.width), None if final else self.features(x, step.depth, step.width)


def toy_bundle(
    path: Path,
    widths: Sequence[float] = (0.5, 1.0),
    depths: int = 3,
    classes: int = 4,
    shape: tuple[int, int, int] = (3, 8, 8),
    channels: int = 8,
    precisions: Sequence[str] = ("fp32",),
    temperature: float = 1.0,
    seed: int = 0,
    compiled: Sequence[str] | None = None,
    router: bool = False,
    provenance: Mapping[str, object] = MappingProxyType({}),
) -> Toy:
    """Writes the bundle to `path`. `channels` at full width, times any width, must be even.

    Precisions are names only: each computes in float32, those in `compiled` (None: all) by graphs of their
    own. The points' accuracy rises with width and depth to 0.9.
    """
    weights = _weights(widths, depths, classes, shape[0], channels, np.random.default_rng(seed))
    made: list[Made] = []
    for precision in precisions if compiled is None else compiled:
        made.append(_stem(shape, channels, precision))
        for width, stage in product(widths, range(1, depths + 1)):
            size = (channels, *shape[1:])
            made += [_body(stage, width, precision, size)] if stage < depths else []
            made.append(_head(stage, depths, width, precision, size, classes))
    if router:
        made.append(_router(shape, channels, len(widths) * depths * len(precisions), weights, seed))
    manifest = Manifest(
        network="toy",
        classes=tuple(f"class {n}" for n in range(classes)),
        input=InputSpec(shape, scale=1 / 255, mean=(0.5,) * shape[0], std=(0.25,) * shape[0]),
        widths=tuple(widths),
        depths=depths,
        precisions=tuple(precisions),
        ir_version=10,
        opset=20,
        points=tuple(
            PointRecord(
                width, depth, precision, accuracy=0.3 + 0.3 * width + 0.3 * depth / depths,
                macs=int(1e6 * width**2 * depth), params=int(1e4 * width**2 * depth), temperature=temperature,
            )
            for width, depth, precision in product(widths, range(1, depths + 1), precisions)
        ),
        fragments=tuple(fragment for fragment, _ in made),
        provenance={"made by": "tests/runtime/toy.py", "seed": seed, **provenance},
        members={},
    )  # fmt: skip
    graphs = {fragment.member: graph for fragment, graph in made}
    write_bundle(path, manifest, graphs, weights)
    return Toy(Path(path), manifest, graphs, weights)


def _weights(
    widths: Sequence[float], depths: int, classes: int, inputs: int, channels: int, random: np.random.Generator
) -> dict[str, NDArray]:
    def normal(*shape: int) -> Floats:
        return random.standard_normal(shape, np.float32) / np.float32(np.sqrt(np.prod(shape[1:]) or 1))

    weights: dict[str, NDArray] = {"stem.weight": normal(channels, inputs, 3, 3), "stem.bias": normal(channels)}
    for stage in range(1, depths):
        weights[f"stage{stage}.weight"] = normal(channels, channels, 3, 3)
        for width in widths:
            kept = len(_indices(stage, channels, width))
            weights[f"stage{stage}.scale.{width}"] = 1 + normal(kept) ** 2
            weights[f"stage{stage}.bias.{width}"] = normal(kept)
    for depth in range(1, depths + 1):
        weights[f"exit{depth}.weight"] = normal(classes, channels).astype(np.float16 if depth == 1 else np.float32)
        weights[f"exit{depth}.bias"] = normal(classes)
    return weights


def _stem(shape: tuple[int, int, int], channels: int, precision: str) -> Made:
    nodes = [
        helper.make_node("Conv", ["input", "stem.w", "stem.b"], ["stem.conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["stem.conv"], ["features0"]),
    ]
    graph = _graph(nodes, {"stem.w": (channels, shape[0], 3, 3), "stem.b": (channels,)})
    bindings = {"stem.w": Binding("stem.weight", (None,) * 4), "stem.b": Binding("stem.bias", (None,))}
    after = TensorSpec("features0", (channels, *shape[1:]))
    return Fragment(
        0, None, precision, "body", _member("stem", precision), TensorSpec("input", shape), after, bindings
    ), graph


def _body(stage: int, width: float, precision: str, size: tuple[int, int, int]) -> Made:
    ins, outs = _ranges(stage - 1, size[0], width), _ranges(stage, size[0], width)
    source, after = _features(stage - 1, width, size), _features(stage, width, size)
    name, taken, nodes, constants = f"stage{stage}", source.name, [], {}
    if stage == 1:
        cut = {"cut.start": [0], "cut.stop": [_count(ins)], "cut.axis": [1]}
        constants = {key: np.array(value, np.int64) for key, value in cut.items()}
        nodes, taken = [helper.make_node("Slice", [source.name, *cut], ["narrowed"])], "narrowed"
    nodes += [
        helper.make_node("Conv", [taken, f"{name}.w", f"{name}.b"], [f"{name}.conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", [f"{name}.conv"], [after.name]),
    ]
    graph = _graph(nodes, {f"{name}.w": (_count(outs), _count(ins), 3, 3), f"{name}.b": (_count(outs),)}, constants)
    bindings = {
        f"{name}.w": Binding(f"{name}.weight", (outs, ins, None, None), scale=f"{name}.scale.{width}"),
        f"{name}.b": Binding(f"{name}.bias.{width}", (None,)),
    }
    return Fragment(stage, width, precision, "body", _member(name, width, precision), source, after, bindings), graph


def _head(depth: int, depths: int, width: float, precision: str, size: tuple[int, int, int], classes: int) -> Made:
    stage = min(depth, depths - 1)
    source, name = _features(stage, width, size), f"exit{depth}"
    kept = _ranges(stage, size[0], width) if stage else None
    nodes = [
        helper.make_node("GlobalAveragePool", [source.name], [f"{name}.pool"]),
        helper.make_node("Flatten", [f"{name}.pool"], [f"{name}.flat"]),
        helper.make_node("Gemm", [f"{name}.flat", f"{name}.w", f"{name}.b"], [f"logits{depth}"]),
    ]
    graph = _graph(nodes, {f"{name}.w": (source.shape[0], classes), f"{name}.b": (classes,)})
    bindings = {
        f"{name}.w": Binding(f"{name}.weight", (None, kept), perm=(1, 0)),
        f"{name}.b": Binding(f"{name}.bias", (None,)),
    }
    logits, member = TensorSpec(f"logits{depth}", (classes,)), _member(name, width, precision)
    return Fragment(depth, width, precision, "head", member, source, logits, bindings), graph


def _router(shape: tuple[int, int, int], channels: int, points: int, weights: dict[str, NDArray], seed: int) -> Made:
    """Puts its weights beside the others."""
    random = np.random.default_rng([seed, 1])
    weights["router.weight"] = random.standard_normal((points, channels), np.float32)
    weights["router.bias"] = random.standard_normal(points, np.float32)
    source = _features(0, 1.0, (channels, *shape[1:]))
    nodes = [
        helper.make_node("GlobalAveragePool", [source.name], ["router.pool"]),
        helper.make_node("Flatten", ["router.pool"], ["router.flat"]),
        helper.make_node("Gemm", ["router.flat", "router.w", "router.b"], ["odds"]),
    ]
    graph = _graph(nodes, {"router.w": (channels, points), "router.b": (points,)})
    bindings = {
        "router.w": Binding("router.weight", (None, None), perm=(1, 0)),
        "router.b": Binding("router.bias", (None,)),
    }
    odds = TensorSpec("odds", (points,))
    return Fragment(0, None, "fp32", "router", "graphs/router.onnx", source, odds, bindings), graph


def _features(stage: int, width: float, size: tuple[int, int, int]) -> TensorSpec:
    channels = _count(_ranges(stage, size[0], width)) if stage else size[0]
    return TensorSpec(f"features{stage}", (channels, *size[1:]))


def _graph(
    nodes: list[NodeProto], external: dict[str, tuple[int, ...]], constants: dict[str, NDArray] | None = None
) -> bytes:
    model = ModelProto()
    model.graph.node.extend(nodes)
    for name, dims in external.items():
        tensor = model.graph.initializer.add(name=name, dims=dims, data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.safetensors")
    for name, array in (constants or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model.SerializeToString()


def _member(*parts: object) -> str:
    return f"graphs/{'_'.join(map(str, parts))}.onnx"


def _ranges(stage: int, channels: int, width: float) -> Ranges:
    """Channels kept after a stage: the leading ones, or in even stages the leading ones of each half."""
    kept = int(channels * width)
    if stage % 2 or stage == 0:
        return ((0, kept),)
    half = channels // 2
    return ((0, kept // 2), (half, half + kept // 2))


def _indices(stage: int, channels: int, width: float) -> list[int]:
    return [index for start, stop in _ranges(stage, channels, width) for index in range(start, stop)]


def _count(ranges: Ranges) -> int:
    return sum(stop - start for start, stop in ranges)


def _convolve(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """3x3 convolution with padding 1, then relu."""
    windows = sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3))
    return np.maximum(np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True) + bias[:, None, None], 0)
