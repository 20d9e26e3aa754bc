"""Fragments in int8: the same nodes with quantised tensors around them, as engines fuse them (QDQ).

Weights are int8, symmetric, one scale per output channel, and one tensor serves every width: a width cuts it, and takes
as scale what it cuts of the tensor's own scales times the factors of its norms. Activations are uint8 with one scale
and zero point a tensor and width, from calibration data. Biases and tensors between steps stay float32; engines make
integers of the biases when they load. A width's biases take back what rounding the weights adds in the mean.

Reference: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
CVPR 2018; what is fused: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.manifest import Arrays, Binding, Fragment
from .fold_graph import fold_graphs
from .int8_plan import Layer, Plan, make_plans
from .onnx_graph import Parts, external, tensors_of
from .ranges import Observed, observe

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
    folded = fold_graphs(parts)
    plans = make_plans(folded.fragments, folded.graphs)

    @cache
    def integers(tensor: str, axis: int) -> Integers:
        return int8_weight(folded.weights[tensor], axis, largest)

    widths = sorted({plan.fragment.width for plan in plans if plan.fragment.width is not None})
    observed: dict[float | None, Observed] = {}
    for done, width in enumerate(widths, start=1):
        path = [plan for plan in plans if plan.fragment.width in (None, width)]
        observed[width] = observe(folded, path, _errors(path, folded.weights, integers), batches())
        tell(done, len(widths))
    observed[None] = observed[widths[-1]]  # the stem's don't depend on the width
    made = [quantize(plan, folded.weights, observed[plan.fragment.width], integers) for plan in plans]
    weights = folded.weights | {name: array for _, _, arrays in made for name, array in arrays.items()}
    used = parts.weights.keys() | tensors_of(b for fragment, _, _ in made for b in fragment.bindings.values())
    return replace(
        parts,
        fragments=(*parts.fragments, *(fragment for fragment, _, _ in made)),
        graphs=parts.graphs | {fragment.member: graph for fragment, graph, _ in made},
        weights={name: array for name, array in weights.items() if name in used},
    )


def quantize(
    plan: Plan, weights: Arrays, observed: Observed, integers: Callable[[str, int], Integers]
) -> tuple[Fragment, bytes, Arrays]:
    """The int8 form of a plan's fragment, its graph, and the arrays that its bindings name beside `weights`.

    Args:
        observed: ranges of every tensor in `plan.ranged`, and the shifts that biases take back.
        integers: gives those of a tensor by its name, and the axis that has the scales.
    """
    writer = _Writer(plan, weights, observed, integers)
    return writer.fragment(), writer.graph(), writer.arrays


def _errors(plans: Iterable[Plan], weights: Arrays, integers: Callable[[str, int], Integers]) -> Arrays:
    """What weights are larger by in int8, by their names, where a bias can take back what comes of it."""
    errors: Arrays = {}
    for plan, layer in [(one, layer) for one in plans for layer in one.layers.values()]:
        if layer.takes_bias and (not layer.bias or plan.bias(layer, weights) is not None):
            tensor, axis = layer.binding.tensor, layer.shared_axis
            whole, scale = integers(tensor, axis)
            error = whole * _along(scale, axis, whole.ndim) - weights[tensor].astype(np.float32)
            errors[layer.weight] = layer.binding.array(weights | {tensor: error})
    return errors


def _along(vector: NDArray[np.float32], axis: int, rank: int) -> NDArray[np.float32]:
    """A vector as an array of `rank` axes that multiplies along one of them."""
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)


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
    return np.rint(weight / _along(scale, axis, weight.ndim)).astype(np.int8), scale


class _Writer:
    """Writes one fragment."""

    def __init__(
        self, plan: Plan, weights: Arrays, observed: Observed, integers: Callable[[str, int], Integers]
    ) -> None:
        self._plan, self._weights, self._shifts, self._integers = plan, weights, observed.shifts, integers
        # scale and zero point of the activations that become uint8
        self._scales = {name: uint8_scale(*observed.ranges[of]) for name, of in plan.ranged.items()}
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
        binding, bias = layer.binding, self._plan.bias(layer, self._weights)
        factor = np.ones_like(scale) if binding.scale is None else self._weights[binding.scale].astype(np.float32)
        summand = np.zeros_like(scale) if bias is None else np.abs(bias)
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
        layer = self._plan.layers.get(node.input[1]) if len(node.input) > 1 else None
        if layer is not None and layer.weight in self._shifts:
            read = [*read[:2], self._bias(layer)]
        made = [self._made(name) for name in node.output]
        return onnx.NodeProto(op_type=node.op_type, name=node.name, input=read, output=made, attribute=node.attribute)

    def _bias(self, layer: Layer) -> str:
        """The bias of a layer, less what rounding its weight adds to its outputs."""
        from onnx import TensorProto

        bias, shift = self._plan.bias(layer, self._weights), self._shifts[layer.weight]
        name, key = f"{layer.weight}.bias", f"{self._plan.own(layer.weight)}.bias"
        self.arrays[key] = ((0 if bias is None else bias) - shift).astype(np.float32)
        self._bindings[name] = Binding(key, (None,))
        self._constants[name] = external(name, TensorProto.FLOAT, shift.shape)
        return name

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
