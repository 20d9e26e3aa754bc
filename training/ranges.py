"""Which numbers activations have: the lowest and the highest, on calibration data."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..runtime.manifest import Arrays
from ..runtime.onnx_fragment import graph_input, header
from .int8_plan import Plan
from .onnx_graph import Parts

Range = tuple[float, float]  # lowest and highest number that an activation is expected to have
CHUNK = 8  # samples that run at once: every activation of them is in memory
# Of the samples' own lowest and highest numbers, the quantile that is taken as the range. The most extreme sample's
# range (1.0) would make the steps between all numbers larger.
LEVEL = 0.95


def activation_ranges(parts: Parts, plans: Sequence[Plan], batches: Iterable[NDArray[np.float32]]) -> dict[str, Range]:
    """The range of every activation that becomes uint8 along one width.

    Args:
        parts: the float32 graphs and their weights.
        plans: of one width's fragments, from the stem on.
        batches: (n, *input) calibration data, samples of every kind.

    Raises:
        ValueError: there is no data.
    """
    source = plans[0].fragment.input.name
    names = sorted({of for plan in plans for of in plan.ranged.values()} - {source})
    session = _session(parts, plans, names)
    found: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
    for batch in batches:
        for start in range(0, len(batch), CHUNK):
            x = batch[start : start + CHUNK]
            for name, values in zip([source, *names], [x, *session.run(names, {source: x})], strict=True):
                found[name].append(_extremes(values))
    if not found:
        raise ValueError("calibration has no data, which int8 needs for the ranges of activations")
    return {name: _range(np.concatenate(parts)) for name, parts in found.items()}


def _extremes(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(samples, 2): each sample's lowest and highest number."""
    flat = values.reshape(len(values), -1)
    return np.stack([flat.min(axis=1), flat.max(axis=1)], axis=1)


def _range(extremes: NDArray[np.float32]) -> Range:
    low, high = np.quantile(extremes[:, 0], 1 - LEVEL), np.quantile(extremes[:, 1], LEVEL)
    return float(low), float(high)


def _session(parts: Parts, plans: Sequence[Plan], names: Sequence[str]) -> onnxruntime.InferenceSession:
    """All of the fragments as one graph that gives the named tensors."""
    import onnx

    first = plans[0].fragment
    graphs = [parts.graphs[plan.fragment.member] for plan in plans]
    start, source = header(parts.ir_version, parts.opset, "ranges"), graph_input(first.input.name, first.input.shape)
    model = onnx.load_from_string(b"".join([start, *graphs, source]))
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    bindings = {name: binding for plan in plans for name, binding in plan.fragment.bindings.items()}
    arrays: Arrays = {name: binding.array(parts.weights) for name, binding in bindings.items()}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    options.add_external_initializers(list(arrays), values)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
