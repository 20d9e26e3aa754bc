"""Fragments in int8: the same nodes with quantised tensors around them, as engines fuse them (QDQ).

Weights are int8, symmetric, one scale per output channel, and one tensor serves every width: a width cuts it, and takes
as scale what it cuts of the tensor's own scales times the factors of its norms. Activations are uint8 with one scale
and zero point a tensor and width, from calibration data. Biases and tensors between steps stay float32; engines make
integers of the biases when they load.

Reference: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
CVPR 2018; what is fused: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.manifest import Arrays, Binding, Fragment
from .int8_plan import Layer, Plan
from .onnx_graph import Parts, external
from .ranges import Range, activation_ranges

INT8 = "int8"
Integers = tuple[NDArray[np.int8], NDArray[np.float32]]  # of a weight, and the scale of each channel
# The largest weight. Processors without VNNI add pairs of products in 16 bits, where 2 · 255 · 127 doesn't fit. There
# engines use slower instructions, unless no weight is above 64: 2 · 255 · 64 = 32640 does fit.
LARGEST, LARGEST_REDUCED = 127, 64
BIAS_LARGEST = 2**30  # in units of its scale; half of what 32 bits hold, which leaves room for the sum of products


def with_int8(
    parts: Parts, batches: Callable[[], Iterable[NDArray[np.float32]]], largest: int, tell: Callable[[int, int], None]
) -> Parts:
    """Beside every float32 fragment its int8 form.

    Args:
        batches: gives calibration data, (n, *input) each, once for every width.
        largest: absolute value of the largest weight, at most 127.
        tell: how many widths are done, and of how many.
    """
    plans = [Plan(fragment, parts.graphs[fragment.member]) for fragment in parts.fragments]
    widths = sorted({plan.fragment.width for plan in plans if plan.fragment.width is not None})
    ranges: dict[float | None, dict[str, Range]] = {}
    for done, width in enumerate(widths, start=1):
        path = [plan for plan in plans if plan.fragment.width in (None, width)]
        ranges[width] = activation_ranges(parts, path, batches())
        tell(done, len(widths))
    ranges[None] = ranges[widths[-1]]  # the stem's don't depend on the width

    @cache
    def integers(tensor: str, axis: int) -> Integers:
        return int8_weight(parts.weights[tensor], axis, largest)

    made = [quantize(plan, parts.weights, ranges[plan.fragment.width], integers) for plan in plans]
    weights = parts.weights | {name: array for _, _, arrays in made for name, array in arrays.items()}
    graphs = parts.graphs | {fragment.member: graph for fragment, graph, _ in made}
    return replace(parts, fragments=(*parts.fragments, *(one for one, _, _ in made)), graphs=graphs, weights=weights)


def quantize(
    plan: Plan, weights: Arrays, ranges: Mapping[str, Range], integers: Callable[[str, int], Integers]
) -> tuple[Fragment, bytes, Arrays]:
    """The int8 form of a plan's fragment, its graph, and the arrays that its bindings name beside `weights`.

    Args:
        ranges: of every tensor in `plan.ranged`.
        integers: gives those of a tensor by its name, and the axis that has the scales.
    """
    writer = _Writer(plan, weights, {name: uint8_scale(*ranges[of]) for name, of in plan.ranged.items()}, integers)
    return writer.fragment(), writer.graph(), writer.arrays


def uint8_scale(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point for numbers from `low` to `high`; zero is taken in and is exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    return scale, round(-low / scale)


def int8_weight(weight: NDArray[Any], axis: int, largest: int) -> Integers:
    """A weight as integers from -largest to largest, and the scale of each channel along `axis`.

    `integers · scale` is the weight to half a scale; a channel of zeros has scale 1, one of hardly more the least that
    float32 has in full precision.
    """
    weight = weight.astype(np.float32)
    highest = np.abs(weight).max(axis=tuple(n for n in range(weight.ndim) if n != axis))
    least = np.finfo(np.float32).tiny
    scale = np.where(highest > 0, np.maximum(highest / largest, least), 1).astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = -1
    return np.rint(weight / scale.reshape(shape)).astype(np.int8), scale


class _Writer:
    """Writes one fragment. `scales`: scale and zero point of the activations that become uint8."""

    def __init__(
        self,
        plan: Plan,
        weights: Arrays,
        scales: Mapping[str, tuple[float, int]],
        integers: Callable[[str, int], Integers],
    ) -> None:
        self._plan, self._weights, self._scales, self._integers = plan, weights, scales, integers
        self._bindings, self._constants = dict(plan.fragment.bindings), dict(plan.constants)
        self.arrays: Arrays = {}
        self._nodes = [self._weight(layer) for layer in plan.layers.values()]
        self._nodes += self._round_trip(plan.fragment.input.name)
        for node in plan.nodes:
            self._nodes.append(self._rewired(node))
            self._nodes += [new for name in node.output for new in self._round_trip(name)]
        self._used = {name for node in self._nodes for name in node.input}

    def fragment(self) -> Fragment:
        bindings = {name: binding for name, binding in self._bindings.items() if name in self._used}
        return replace(
            self._plan.fragment, precision=INT8, member=f"graphs/{self._plan.prefix}.{INT8}.onnx", bindings=bindings
        )

    def graph(self) -> bytes:
        import onnx

        constants = [tensor for name, tensor in self._constants.items() if name in self._used]
        model = onnx.ModelProto(graph=onnx.GraphProto(node=self._nodes, initializer=constants))
        return model.SerializeToString(deterministic=True)

    def _weight(self, layer: Layer) -> Any:
        """The node that gives a layer its weight, with what that is made of."""
        from onnx import TensorProto, helper, numpy_helper

        name, binding, axis = layer.weight, layer.binding, layer.shared_axis
        integers = f"{binding.tensor}.int8.{axis}"  # tied layers may have their output channels on different axes
        scales = f"{integers}.scale"
        self.arrays[integers], self.arrays[scales] = self._integers(binding.tensor, axis)
        cut = Binding(scales, (binding.slices[axis],))
        sign, factor = self._sign_and_factor(layer, cut.array(self.arrays))
        self._bindings[f"{name}.int8"] = Binding(integers, binding.slices, binding.perm, sign, axis)
        self._bindings[f"{name}.scale"] = replace(cut, scale=factor)
        self._constants[f"{name}.int8"] = external(f"{name}.int8", TensorProto.INT8, layer.dims)
        self._constants[f"{name}.scale"] = external(f"{name}.scale", TensorProto.FLOAT, [layer.dims[layer.axis]])
        # ONNX takes zeros where there are none, but ONNX Runtime leaves a Gemm without them in float
        zeros = np.zeros(layer.dims[layer.axis], np.int8)
        self._constants[f"{name}.zero"] = numpy_helper.from_array(zeros, f"{name}.zero")
        given, made = [f"{name}.int8", f"{name}.scale", f"{name}.zero"], f"{name}.dequantized"
        return helper.make_node("DequantizeLinear", given, [made], name=made, axis=layer.axis)

    def _sign_and_factor(self, layer: Layer, scale: NDArray[np.float32]) -> tuple[str | None, str | None]:
        """Keys of the vectors that int8 weights, and that their scales are multiplied by at this width.

        The norm's factor is the scale's, its sign the weights'. A channel whose factor is so small that its bias
        wouldn't fit into an integer of its scale gets weights of zero, and a scale that the bias fits.
        """
        binding, bias = layer.binding, self._plan.fragment.bindings.get(layer.bias)
        factor = np.ones_like(scale) if binding.scale is None else self._weights[binding.scale].astype(np.float32)
        summand = np.zeros_like(scale) if bias is None else np.abs(bias.array(self._weights))
        least = summand / (BIAS_LARGEST * self._scales[layer.input][0] * scale)
        least = np.maximum(least, np.finfo(np.float32).tiny / scale)
        silent = np.abs(factor) < least
        if (factor > 0).all() and not silent.any():
            return None, binding.scale
        key = self._plan.own(layer.weight)
        self.arrays[f"{key}.sign"] = np.where(silent, 0, np.sign(factor)).astype(np.int8)
        self.arrays[f"{key}.factor"] = np.maximum(np.abs(factor), least).astype(np.float32)
        return f"{key}.sign", f"{key}.factor"

    def _rewired(self, node: Any) -> Any:
        """The node, reading and making the tensors under their new names."""
        import onnx

        read = [f"{name}.dequantized" if name in self._plan.layers else self._read(name) for name in node.input]
        made = [self._made(name) for name in node.output]
        return onnx.NodeProto(op_type=node.op_type, name=node.name, input=read, output=made, attribute=node.attribute)

    def _round_trip(self, name: str) -> list[Any]:
        """An activation to uint8 and back, if it becomes that."""
        from onnx import helper, numpy_helper

        if name not in self._scales:
            return []
        own, (scale, zero) = self._plan.own(name), self._scales[name]
        given = [f"{own}.scale", f"{own}.zero"]
        for key, value in zip(given, (np.float32(scale), np.uint8(zero)), strict=True):
            self._constants[key] = numpy_helper.from_array(np.asarray(value), key)
        there = helper.make_node("QuantizeLinear", [self._made(name), *given], [f"{own}.uint8"], name=f"{own}.there")
        back = helper.make_node("DequantizeLinear", [f"{own}.uint8", *given], [self._read(name)], name=f"{own}.back")
        return [there, back]

    def _read(self, name: str) -> str:
        """What nodes read instead of an activation. The fragment's output keeps its name, as other fragments read it,
        and is then what came back from uint8."""
        if name not in self._scales or name == self._plan.fragment.output.name:
            return name
        return f"{self._plan.own(name)}.dequantized"

    def _made(self, name: str) -> str:
        is_output = name in self._scales and name == self._plan.fragment.output.name
        return f"{self._plan.own(name)}.float" if is_output else name
