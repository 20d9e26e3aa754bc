"""The little of ONNX's protobuf that bundles need, so that the runtime does without the `onnx` package.

Protobuf messages merge when their bytes are concatenated. A bundle's graphs are ModelProtos that hold only nodes and
initialisers; a step's model is a header and the graphs of its stages, one after the other.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; wire format:
https://protobuf.dev/programming-guides/encoding/.
"""

from collections.abc import Iterator
from dataclasses import dataclass

FLOAT, INT8 = 1, 3  # TensorProto.DataType
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL = 1  # TensorProto.DataLocation


@dataclass(frozen=True, slots=True)
class Initializer:
    """`dims` as declared; `data_type` is ONNX's number, 1 for float32; external: its data isn't in the graph."""

    name: str
    dims: tuple[int, ...]
    data_type: int
    external: bool


@dataclass(frozen=True, slots=True)
class Node:
    """Names of the tensors that one node reads and writes; optional ones that are absent are left out."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """What a fragment holds."""

    nodes: tuple[Node, ...]
    initializers: tuple[Initializer, ...]


def header(ir_version: int, opset: int, name: str) -> bytes:
    """Start of a model: versions and the graph's name."""
    opset_id = _field(1, b"") + _field(2, opset)
    return _field(1, ir_version) + _field(8, opset_id) + _field(7, _field(2, name.encode()))


def graph_input(name: str, shape: tuple[int, ...]) -> bytes:
    """Declares a float32 input, `shape` behind a free batch axis."""
    return _field(7, _field(11, _value_info(name, shape)))


def graph_output(name: str, shape: tuple[int, ...]) -> bytes:
    """Declares a float32 output, `shape` behind a free batch axis."""
    return _field(7, _field(12, _value_info(name, shape)))


def read_fragment(raw: bytes) -> Graph:
    """Nodes and initialisers of a fragment.

    Raises:
        ValueError: not protobuf, or it holds more than nodes and initialisers.
    """
    nodes, initializers = [], []
    for number, value in _fields(memoryview(raw)):
        if number != 7:
            raise ValueError(f"model field {number}; a fragment holds the graph (field 7) alone")
        for inner, content in _fields(_message(value)):
            if inner == 1:
                nodes.append(_read_node(_message(content)))
            elif inner == 5:
                initializers.append(_read_initializer(_message(content)))
            else:
                raise ValueError(f"graph field {inner}; a fragment's graph holds nodes (1) and initialisers (5) alone")
    return Graph(tuple(nodes), tuple(initializers))


def _read_node(raw: memoryview) -> Node:
    inputs, outputs, attributes, name = [], [], [], ""
    for number, value in _fields(raw):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 3:
            name = _text(value)
        elif number == 5:
            attributes.append(_message(value))
    for attribute in attributes:
        _check_attribute(attribute, name)
    return Node(tuple(filter(None, inputs)), tuple(filter(None, outputs)))


def _check_attribute(raw: memoryview, node: str) -> None:
    """Refuses subgraphs and external tensors, whose data could come from anywhere."""
    name, held = "", ""
    for number, value in _fields(raw):
        if number == 1:
            name = _text(value)
        elif number in (6, 11):
            held = "a subgraph"
        elif number in (22, 23):
            held = "a sparse tensor"
        elif number in (5, 10) and _read_initializer(_message(value)).external:
            held = "an external tensor"
    if held:
        raise ValueError(f"attribute {name!r} of node {node!r} holds {held}, which a bundle's graphs can't have")


def _read_initializer(raw: memoryview) -> Initializer:
    name, dims, data_type, external = "", [], 0, False
    for number, value in _fields(raw):
        if number == 1:
            dims += [value] if isinstance(value, int) else _packed(value)
        elif number == 2:
            data_type = _number(value)
        elif number == 8:
            name = _text(value)
        elif number == 14:
            external = _number(value) == _EXTERNAL
    return Initializer(name, tuple(dims), data_type, external)


def _fields(raw: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of every field of a message: an integer, or the bytes of what isn't one."""
    at = 0
    while at < len(raw):
        key, at = _read_varint(raw, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _read_varint(raw, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _read_varint(raw, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {at}; this isn't ONNX")
        if size > len(raw) - at:
            raise ValueError(f"field {number} says {size} bytes, {len(raw) - at} are left")
        yield number, raw[at : at + size]
        at += size


def _read_varint(raw: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise ValueError("cut off inside a number")
        byte = raw[at]
        value, at = value | (byte & 0x7F) << shift, at + 1
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number of more than ten bytes before byte {at}")


def _packed(raw: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(raw):
        value, at = _read_varint(raw, at)
        values.append(value)
    return values


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError(f"number {value} where a message was expected")
    return value


def _text(value: int | memoryview) -> str:
    return str(_message(value), "utf-8")


def _number(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes where a number was expected")
    return value & 0xFFFFFFFF  # as protobuf reads an enumeration


def _value_info(name: str, shape: tuple[int, ...]) -> bytes:
    dims = [_field(2, b"batch"), *(_field(1, size) for size in shape)]
    tensor_type = _field(1, FLOAT) + _field(2, b"".join(_field(1, dim) for dim in dims))
    return _field(1, name.encode()) + _field(2, _field(1, tensor_type))


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3 | _VARINT) + _varint(value)
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
