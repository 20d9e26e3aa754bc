"""The Open Inference Protocol v2 in JSON: what a request says, what an answer looks like. No web framework in here.

Specification: https://github.com/kserve/open-inference-protocol. A network has one input, "input", of FP32, or of UINT8
for pixels that the bundle's preprocessing turns into numbers. What the protocol leaves to us are the parameters: a
request may give `budget_ms` and `energy_mj`, of each sample; an answer says how it was reached. `covered`: by the
promise of the bundle's calibration, which is false of all where the server doesn't use it.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ..answer import Answer
from ..errors import StrettoError
from ..manifest import InputSpec, Manifest

INPUT = "input"
# datatype → typecode of `array`, which takes numbers only, and for bytes only whole ones in range
DATATYPES = {"FP32": "f", "FP64": "f", "UINT8": "B"}
# what an answer says of each sample: name → datatype, value
COLUMNS: dict[str, tuple[str, Callable[[Answer], Any]]] = {
    "label": ("BYTES", lambda answer: answer.label),
    "width": ("FP32", lambda answer: answer.point.width),
    "depth": ("INT64", lambda answer: answer.point.depth),
    "precision": ("BYTES", lambda answer: answer.point.precision),
    "confidence": ("FP32", lambda answer: answer.confidence),
    "stopped_by": ("BYTES", lambda answer: answer.stopped_by),
    "energy_mj": ("FP32", lambda answer: answer.energy_mj),
    "covered": ("BOOL", lambda answer: bool(answer.covered)),
}
OUTPUTS = ("scores", *COLUMNS)
_OF_ONE = ("scores", "label")  # where the parameters say the rest


class RequestError(StrettoError):
    """A request that gets no answer: HTTP status, why in a word (for metrics), and the sentence for the caller."""

    def __init__(self, message: str, status: int = 400, reason: str = "invalid"):
        super().__init__(message)
        self.status, self.reason = status, reason


@dataclass(frozen=True, slots=True)
class InferRequest:
    """`x`: (samples, …) float32 numbers or uint8 pixels; `outputs`: names asked for, in order, None for the usual."""

    x: NDArray[Any]
    budget_ms: float | None = None
    energy_mj: float | None = None
    id: str | None = None
    outputs: tuple[str, ...] | None = None


def parse_request(body: bytes, spec: InputSpec) -> InferRequest:
    """What the body of an infer request asks.

    Raises:
        RequestError: not JSON, or anything in it missing, unknown or out of range.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body isn't JSON: {error}") from error
    request = _record(value, "request", ("inputs",), ("id", "parameters", "outputs"))
    parameters = _record(request.get("parameters", {}), "parameters", (), ("budget_ms", "energy_mj"))
    return InferRequest(
        x=_input(request["inputs"], spec),
        budget_ms=_positive(parameters, "budget_ms", "milliseconds"),
        energy_mj=_positive(parameters, "energy_mj", "millijoules"),
        id=_id(request.get("id")),
        outputs=_outputs(request.get("outputs")),
    )


def encode_answer(
    request: InferRequest,
    answers: Sequence[Answer],
    model: str,
    version: str,
    latency_ms: float,
    deadline_met: bool,
) -> bytes:
    """The body of the reply. The time and whether it met the deadline are the whole request's."""
    usual = _OF_ONE if len(answers) == 1 else OUTPUTS
    reply = {
        "model_name": model,
        "model_version": version,
        "parameters": _summary(answers) | {"latency_ms": latency_ms, "deadline_met": deadline_met},
        "outputs": [_output(name, answers) for name in request.outputs or usual],
    }
    if request.id is not None:
        reply["id"] = request.id
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)


def model_metadata(model: str, version: str, manifest: Manifest) -> dict[str, Any]:
    """What the protocol tells about a model; -1 is the number of samples."""
    outputs = [{"name": name, "datatype": datatype, "shape": [-1]} for name, (datatype, _) in COLUMNS.items()]
    scores = {"name": "scores", "datatype": "FP32", "shape": [-1, len(manifest.classes)]}
    return {
        "name": model,
        "versions": [version],
        "platform": "stretto_bundle",
        "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, *manifest.input.shape]}],
        "outputs": [scores, *outputs],
    }


def _record(value: Any, where: str, required: Iterable[str], optional: Iterable[str]) -> dict[str, Any]:
    """An object's members but those that are null, which mean the same as none."""
    if not isinstance(value, dict):
        raise RequestError(f"{where} is {_kind(value)}; give an object")
    known = (*required, *optional)
    if unknown := [name for name in value if name not in known]:
        raise RequestError(f"{where} has {_short(unknown[0])}, which isn't known; {_allowed(known)}")
    found = {name: inner for name, inner in value.items() if inner is not None}
    if missing := [name for name in required if name not in found]:
        raise RequestError(f"{where} lacks {missing[0]!r}; {_allowed(known)}")
    return found


def _input(inputs: Any, spec: InputSpec) -> NDArray[Any]:
    if not isinstance(inputs, list) or len(inputs) != 1:
        found = f"{len(inputs)} tensors" if isinstance(inputs, list) else _kind(inputs)
        raise RequestError(f"inputs is {found}; give an array of one tensor, {INPUT!r}")
    tensor = _record(inputs[0], "inputs[0]", ("name", "shape", "datatype", "data"), ("parameters",))
    _record(tensor.get("parameters", {}), "inputs[0].parameters", (), ())
    if tensor["name"] != INPUT:
        raise RequestError(f"inputs[0].name is {_short(tensor['name'])}; the network has one input, {INPUT!r}")
    if tensor["datatype"] not in tuple(DATATYPES):
        raise RequestError(
            f"inputs[0].datatype is {_short(tensor['datatype'])}; give FP32 or FP64 for ready numbers, UINT8 for pixels"
        )
    return _numbers(tensor["data"], tensor["datatype"], _shape(tensor["shape"], spec))


def _shape(shape: Any, spec: InputSpec) -> tuple[int, ...]:
    is_shape = isinstance(shape, list) and bool(shape) and all(type(size) is int for size in shape)
    if not is_shape or shape[0] < 1 or tuple(shape[1:]) != spec.shape:
        allowed = ", ".join(map(str, spec.shape))
        raise RequestError(f"inputs[0].shape is {_short(shape)}; give [samples, {allowed}], samples >= 1")
    return tuple(shape)


def _numbers(data: Any, datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """`data`, nested as `shape` says or flat in row-major order, as float32, or uint8 where it is pixels."""
    flat = _flat(data, shape) if isinstance(data, list) and data and isinstance(data[0], list) else data
    if not isinstance(flat, list) or len(flat) != prod(shape):
        found = f"{len(flat)} long" if isinstance(flat, list) else _kind(flat)
        raise RequestError(f"inputs[0].data is {found}; the shape {list(shape)} has {prod(shape)} numbers")
    try:
        numbers = array(DATATYPES[datatype], flat)
    except (TypeError, OverflowError) as error:
        allowed = "whole numbers from 0 to 255" if datatype == "UINT8" else "numbers"
        raise RequestError(f"inputs[0].data isn't {datatype}: {error}; give {allowed}") from error
    return np.frombuffer(numbers, numbers.typecode).reshape(shape)


def _flat(data: list[Any], shape: tuple[int, ...]) -> list[Any]:
    for axis, size in enumerate(shape[1:], start=1):
        if not all(isinstance(row, list) and len(row) == size for row in data):
            raise RequestError(f"inputs[0].data isn't nested as its shape {list(shape)} says at axis {axis}")
        data = list(chain.from_iterable(data))
    return data


def _positive(parameters: dict[str, Any], name: str, unit: str) -> float | None:
    value = parameters.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or value <= 0:
        raise RequestError(f"parameters.{name} is {_short(value)}; give {unit} > 0, or leave it out")
    return float(value)


def _id(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise RequestError(f"id is {_short(value)}; give a string")
    return value


def _outputs(outputs: Any) -> tuple[str, ...] | None:
    if outputs is None:
        return None
    if not isinstance(outputs, list):
        raise RequestError(f"outputs is {_kind(outputs)}; give an array of objects with a name")
    names = [_output_name(output, f"outputs[{n}]") for n, output in enumerate(outputs)]
    return tuple(dict.fromkeys(names))


def _output_name(output: Any, where: str) -> str:
    record = _record(output, where, ("name",), ("parameters",))
    _record(record.get("parameters", {}), f"{where}.parameters", (), ())
    if record["name"] not in OUTPUTS:
        raise RequestError(f"{where}.name is {_short(record['name'])}; {_allowed(OUTPUTS)}")
    return record["name"]


def _output(name: str, answers: Sequence[Answer]) -> dict[str, Any]:
    if name == "scores":
        scores = np.array([answer.scores for answer in answers], np.float32)
        return {"name": name, "datatype": "FP32", "shape": scores.shape, "data": scores.ravel()}
    datatype, value = COLUMNS[name]
    return {"name": name, "datatype": datatype, "shape": [len(answers)], "data": [value(answer) for answer in answers]}


def _summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """Parameters hold no arrays: all of one answer, of several what holds for all of them."""
    if len(answers) == 1:
        return {name: value(answers[0]) for name, (_, value) in COLUMNS.items()}
    return {
        "confidence": min(answer.confidence for answer in answers),
        "energy_mj": sum(answer.energy_mj for answer in answers),
        "covered": all(answer.covered for answer in answers),
    }


def _allowed(names: Iterable[str]) -> str:
    return f"allowed: {', '.join(names) or 'none'}"


def _kind(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return "an array" if isinstance(value, list) else "an object"
    return _short(value)


def _short(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 60 else f"{text[:60]}…"
