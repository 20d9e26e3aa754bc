"""Weights in few bytes, given back bit for bit: tables of values, and Huffman codes of what points into them.

The file is a head (magic, CRC-32 of the rest, the header's two sizes), a header (deflated JSON, one record an array),
and the streams of each array in turn: scale, gaps, table, numbers, as far as it has them. A stream is deflated, or as
it is if that isn't longer. What is in them:

- numbers: as they are; or, with a table of their distinct values, symbols that point into it, several to a byte.
- gaps: where most numbers are zero, only the others are there, each after a byte that says how many zeros are before
  it; 255 stands for as many zeros and no number. Of Han's fillers it differs in that those are numbers too.
- scale: one number a row, which what was read so far is multiplied by.

Reference: Han et al., Deep Compression, ICLR 2016: section 2 for gaps, 3 for tables, 4 for Huffman codes.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .manifest import Arrays, typed
from .streams import FILLER, SYMBOLS_MAX, Reader, expand, find_gaps, look_up, pack, per_byte, shortest

NUMBERS_MAX = 1 << 28  # in all arrays together: a gibibyte of float32, hundreds of times a network for small devices
HEADER_BYTES_MAX = 16 << 20
DIMENSIONS_MAX = 32  # numpy's own limit before version 2
DTYPES = ("f4", "f2", "i1", "f8", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
_HEAD = struct.Struct("<4sIII")
_MAGIC = b"stw1"


class Record(NamedTuple):
    """How one array is stored. Types in numpy's letters, little-endian: `dtype` the array's, `kept` of what is stored.

    `scale`: type of the factors of its rows, empty without; `steps`: how many bytes of gaps, -1 without; `values`: size
    of the table, 0 without; `packed`: symbols to a byte; `sizes`: of its streams, as stored.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: str
    steps: int
    kept: str
    values: int
    packed: int
    sizes: tuple[int, ...]


class _Way(NamedTuple):
    """How an array's numbers can be stored; the first four as in `Record`."""

    steps: int
    kept: str
    values: int
    packed: int
    streams: list[bytes]


_RECORDS = tuple[tuple[str, str, tuple[int, ...], str, int, str, int, int, tuple[int, ...]], ...]


def encode(arrays: Mapping[str, NDArray[Any]], scales: Mapping[str, NDArray[Any]] = MappingProxyType({})) -> bytes:
    """The arrays in the fewest bytes of the ways above; the same arrays give the same bytes.

    Args:
        arrays: of integers or floats.
        scales: (rows,) by name of a float32 array, (rows, …), which is whole numbers times these, at most 256 different
            ones, bit for bit.

    Raises:
        ValueError: an array isn't what its scale says or of another type, there are more numbers than `NUMBERS_MAX`, or
            a scale's array isn't there.
    """
    for name in sorted(scales.keys() - arrays.keys()):
        raise ValueError(f"array {name!r}: has a scale, but isn't there")
    made = [_encoded(name, np.asarray(array, order="C"), scales.get(name)) for name, array in arrays.items()]
    _check_numbers(record.shape for record, _ in made)
    header = json.dumps([record for record, _ in made], separators=(",", ":")).encode()
    if len(header) > HEADER_BYTES_MAX:
        raise ValueError(f"the header of {len(made)} arrays has {len(header)} bytes, allowed are {HEADER_BYTES_MAX}")
    squeezed = shortest(header)
    body = b"".join([squeezed, *(stream for _, streams in made for stream in streams)])
    return _HEAD.pack(_MAGIC, zlib.crc32(body), len(squeezed), len(header)) + body


def decode(raw: bytes) -> tuple[Arrays, dict[str, NDArray[np.float32]]]:
    """The arrays that were encoded, in their order, and the scales that they were encoded with.

    Raises:
        ValueError: these aren't bytes that `encode` gave; says array, what was found and what was expected.
    """
    reader, records = _opened(raw)
    arrays: Arrays = {}
    scales: dict[str, NDArray[np.float32]] = {}
    for record in records:
        try:
            arrays[record.name], scale = _decoded(record, reader)
        except ValueError as error:
            raise ValueError(f"array {record.name!r}: {error}") from error
        if scale is not None:
            scales[record.name] = scale
    if reader.left:
        raise ValueError(f"{reader.left} bytes after the last array, expected none")
    return arrays, scales


def _encoded(name: str, array: NDArray[Any], scale: NDArray[Any] | None) -> tuple[Record, list[bytes]]:
    dtype = array.dtype.newbyteorder("<")
    if dtype.str[1:] not in DTYPES:
        raise ValueError(f"array {name!r}: is of {array.dtype}, expected integers or floats of at most 64 bits")
    numbers, kind, first = array.astype(dtype, copy=False).reshape(-1), "", list[bytes]()
    if scale is not None:
        numbers = _codes(name, array, scale)
        kind, first = _stored(scale.astype("<f4", copy=False))
    ways = list(_ways(numbers))
    there = np.flatnonzero(_bits(numbers))
    if len(there) < len(numbers):
        gaps = find_gaps(there)
        squeezed = shortest(gaps)
        ways += [way._replace(steps=len(gaps), streams=[squeezed, *way.streams]) for way in _ways(numbers[there])]
    best = min(ways, key=lambda way: sum(map(len, way.streams)))
    streams = [*first, *best.streams]
    return Record(name, dtype.str[1:], array.shape, kind, *best[:4], tuple(map(len, streams))), streams


def _codes(name: str, array: NDArray[Any], scale: NDArray[Any]) -> NDArray[np.float32]:
    """The whole numbers that, times the scale of their row, are the array; zeros keep their sign."""
    if array.dtype != np.float32 or scale.shape != array.shape[:1] or not array.ndim:
        found = f"{array.dtype} {array.shape} with a scale {scale.shape}"
        raise ValueError(f"array {name!r}: is {found}, expected float32 and a number a row")
    rows = array.reshape(len(array), prod(array.shape[1:]))
    column = scale.astype(np.float32)[:, None]
    with np.errstate(all="ignore"):  # what comes of it is compared
        codes = np.rint(np.divide(rows, column, out=rows * np.copysign(1, column), where=column != 0))
        differ = _bits(codes * column) != _bits(rows)
    if differ.any():
        row, at = np.argwhere(differ)[0]
        raise ValueError(
            f"array {name!r}: row {row} has {rows[row, at]!r}, which isn't a whole number times its scale "
            f"{column[row, 0]!r}; {differ.sum()} of {differ.size} numbers aren't"
        )
    if (count := len(np.unique(_bits(codes)))) > SYMBOLS_MAX:
        raise ValueError(f"array {name!r}: is {count} whole numbers times scales, expected at most {SYMBOLS_MAX}")
    return codes.reshape(-1)


def _ways(numbers: NDArray[Any]) -> Iterator[_Way]:
    """As they are, and where they are of few values also by a table, its symbols packed and unpacked."""
    kept, streams = _stored(numbers)
    yield _Way(-1, kept, 0, 0, streams)
    values, symbols = np.unique(_bits(numbers), return_inverse=True)
    if 0 < len(values) <= SYMBOLS_MAX:
        kept, table = _stored(values.view(numbers.dtype))
        for packed in {1, per_byte(len(values))}:
            yield _Way(-1, kept, len(values), packed, [*table, shortest(pack(symbols, len(values), packed))])


def _stored(numbers: NDArray[Any]) -> tuple[str, list[bytes]]:
    """The numbers as a stream, in 16 bits where those are enough, and the type that they have there."""
    if numbers.dtype == np.float32:
        with np.errstate(all="ignore"):
            half = numbers.astype("<f2")
            if np.array_equal(_bits(half.astype("<f4")), _bits(numbers)):
                numbers = half
    return numbers.dtype.str[1:], [shortest(numbers.tobytes())]


def _bits(numbers: NDArray[Any]) -> NDArray[Any]:
    """To compare and sort by: -0.0 isn't 0.0, and a NaN is itself."""
    return numbers.view(f"u{numbers.itemsize}")


def _opened(raw: bytes) -> tuple[Reader, list[Record]]:
    """The records, checked as far as they can be without the streams, and the reader at the first stream."""
    if len(raw) < _HEAD.size or raw[: len(_MAGIC)] != _MAGIC:
        raise ValueError(f"it has {len(raw)} bytes and begins with {raw[:4]!r}, expected {_HEAD.size} and {_MAGIC!r}")
    _, crc, stored, size = _HEAD.unpack_from(raw)
    if (found := zlib.crc32(memoryview(raw)[_HEAD.size :])) != crc:
        raise ValueError(f"its CRC-32 is {found:08x}, its head says {crc:08x}")
    if size > HEADER_BYTES_MAX:
        raise ValueError(f"its header has {size} bytes, expected at most {HEADER_BYTES_MAX}")
    reader = Reader(raw, _HEAD.size)
    try:
        records = [Record(*one) for one in typed(_RECORDS, json.loads(reader.stream("header", stored, size)), "header")]
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    names: set[str] = set()
    for record in records:
        if record.name in names:
            raise ValueError(f"array {record.name!r}: it is there twice")
        names.add(record.name)
        _check(record)
    _check_numbers(record.shape for record in records)
    return reader, records


def _check(record: Record) -> None:
    name, dtype, shape, scale, steps, kept, values, packed, sizes = record
    if len(shape) > DIMENSIONS_MAX or not all(0 <= size <= NUMBERS_MAX for size in shape):
        # before anything is worked out of it, which for thousands of axes would take hours
        found = f"{shape[:4]} and {len(shape) - 4} axes more" if len(shape) > DIMENSIONS_MAX else str(shape)
        allowed = f"at most {DIMENSIONS_MAX} sizes from 0 to {NUMBERS_MAX}"
        raise ValueError(f"array {name!r}: shape is {found}, expected {allowed}")
    halved, numbers = ("f2",) if dtype == "f4" else (), prod(shape)
    symbols = per_byte(values) if 0 < values <= SYMBOLS_MAX else 0
    streams = 1 + (scale != "") + (steps >= 0) + (values > 0)
    for what, value, right, expected in (
        ("dtype", dtype, dtype in DTYPES, DTYPES),
        ("kept", kept, kept in (dtype, *halved), (dtype, *halved)),
        ("scale", scale, scale == "" or (scale in ("f4", "f2") and dtype == "f4" and shape), "f4 or f2 for rows of f4"),
        ("steps", steps, -1 <= steps <= numbers, f"-1 to {numbers}"),
        ("values", values, 0 <= values <= SYMBOLS_MAX, f"0 to {SYMBOLS_MAX}"),
        ("packed", packed, packed in (min(symbols, 1), symbols), f"{min(symbols, 1)} or {symbols}"),
        ("sizes", sizes, len(sizes) == streams and min(sizes, default=0) >= 0, f"{streams} numbers of at least 0"),
    ):
        if not right:
            raise ValueError(f"array {name!r}: {what} is {value!r}, expected {expected}")


def _check_numbers(shapes: Iterator[tuple[int, ...]]) -> None:
    """An axis of no length counts as one: the others could be absurd beside it."""
    count = sum(prod(max(size, 1) for size in shape) for shape in shapes)
    if count > NUMBERS_MAX:
        raise ValueError(f"the arrays have {count} numbers, expected at most {NUMBERS_MAX}")


def _decoded(record: Record, reader: Reader) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    size, sizes = prod(record.shape), iter(record.sizes)

    def read(what: str, kept: str, count: int, dtype: str) -> NDArray[Any]:
        raw = reader.stream(what, next(sizes), count * np.dtype(kept).itemsize)
        return np.frombuffer(raw, "<" + kept).astype("<" + dtype)

    scale = read("scale", record.scale, record.shape[0], "f4") if record.scale else None
    gaps = read("gaps", "u1", record.steps, "u1") if record.steps >= 0 else None
    count = size if gaps is None else int(np.count_nonzero(gaps != FILLER))
    if record.values:
        table = read("table", record.kept, record.values, record.dtype)
        symbols = read("symbols", "u1", -(-count // record.packed), "u1")
        numbers = look_up(table, symbols, record.packed)[:count]
    else:
        numbers = read("numbers", record.kept, count, record.dtype)
    if gaps is not None:
        numbers = expand(gaps, numbers, size)
    if scale is not None:
        with np.errstate(all="ignore"):  # of a forged file
            numbers = numbers.reshape(len(scale), prod(record.shape[1:])) * scale[:, None]
    return numbers.reshape(record.shape), scale
