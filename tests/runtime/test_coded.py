"""Arrays come back bit for bit, in about the bytes that their entropy says, and damage is never taken for arrays."""

import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from stretto.runtime.coded import DTYPES, HEADER_BYTES_MAX, NUMBERS_MAX, decode, encode
from stretto.runtime.streams import find_gaps, per_byte, shortest

HEAD = struct.Struct("<4sIII")
ODD = np.array([0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1e-45, 3e38], np.float32)


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    return (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


def round_trip(array: np.ndarray, scale: np.ndarray | None = None) -> bytes:
    """The bytes of one array, after it was seen that they give it back."""
    scales = {} if scale is None else {"w": scale}
    raw = encode({"w": array}, scales)
    arrays, found = decode(raw)
    assert list(arrays) == ["w"] and same(arrays["w"], array)
    assert arrays["w"].flags.c_contiguous and arrays["w"].flags.aligned
    assert found.keys() == scales.keys() and all(same(found[name], scales[name]) for name in found)
    return raw


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_array_comes_back_bit_for_bit(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    shape = data.draw(arrays_of.array_shapes(min_dims=0, min_side=0, max_side=12))
    round_trip(data.draw(arrays_of.arrays("<" + dtype, shape)))


@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(0, 3000), values=st.integers(1, 300), share=st.sampled_from([0.0, 0.001, 0.02, 0.3, 1.0]),
    dtype=st.sampled_from(["<f4", "<f2", "<i1"]), halved=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_arrays_of_few_values_and_many_zeros_come_back(count, values, share, dtype, halved, seed):
    rng = np.random.default_rng(seed)
    table = rng.standard_normal(values) * 50
    table = (table.astype(np.float16) if halved else table).astype(dtype)
    round_trip(np.where(rng.random(count) < share, table[rng.integers(values, size=count)], 0).astype(dtype))


@pytest.mark.parametrize("values", [1, 2, 3, 5, 6, 7, 16, 17, 255, 256, 257])
def test_alphabets_of_every_size_come_back_also_with_zeros_between(values):
    rng = np.random.default_rng(values)
    table = rng.standard_normal(values).astype(np.float32)
    numbers = np.concatenate([table, table[rng.integers(values, size=5000)]])
    coded = len(round_trip(numbers))
    bits = 32 if values > 256 else np.log2(values)
    assert coded <= 5000 * bits / 8 * 1.05 + 4 * values + 120
    round_trip(np.where(rng.random(len(numbers)) < 0.05, numbers, 0).astype(np.float32))


@pytest.mark.parametrize("before", [0, 1, 254, 255, 256, 509, 510, 511, 70_000])
def test_gaps_that_a_byte_does_not_hold_come_back(before):
    numbers = np.zeros(3 * before + 700, np.float32)
    numbers[[before, 2 * before + 1, 3 * before + 2]] = 1.5, -0.5, 1e-9
    assert len(round_trip(numbers)) < 160


@pytest.mark.parametrize(
    "odd", [ODD, ODD[:7].astype(np.float16), np.resize(ODD, (100, 8)), np.full(9, np.nan, np.float32)]
)
def test_numbers_that_do_not_equal_themselves_or_equal_another_come_back(odd):
    round_trip(odd)


def test_nan_that_16_bits_would_change_comes_back():
    round_trip(np.array([0x7F800001, 0xFFC00001, 0x7FC00000], np.uint32).view(np.float32))


def test_names_and_their_order_come_back():
    arrays = {name: np.full(2, n, np.int8) for n, name in enumerate(["b", "", "a.weight", "é/\ud800"])}
    found, _ = decode(encode(arrays))
    assert list(found) == list(arrays) and all(same(found[name], arrays[name]) for name in arrays)
    assert decode(encode({})) == ({}, {})


def test_transposed_and_big_endian_arrays_come_back_as_numbers():
    numbers = np.arange(12, dtype=">f4").reshape(3, 4).T
    (found,) = decode(encode({"w": numbers}))[0].values()
    assert found.dtype == np.float32 and np.array_equal(found, numbers)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(0, 9), columns=st.integers(0, 40), levels=st.integers(1, 128),
    share=st.sampled_from([0.0, 0.05, 1.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_whole_numbers_times_a_scale_a_row_come_back_with_the_scale(rows, columns, levels, share, seed):
    rng = np.random.default_rng(seed)
    scale = rng.standard_normal(rows).astype(np.float32) * rng.choice([0, 1e-30, 1, 1e30], rows).astype(np.float32)
    codes = rng.integers(-levels, levels, (rows, columns, 1)) * (rng.random((rows, columns, 1)) < share)
    round_trip(codes.astype(np.float32) * scale[:, None, None], scale)


def test_signs_take_a_bit_each_and_integers_of_four_bits_half_a_byte():
    rng = np.random.default_rng(0)
    scale = rng.random(200).astype(np.float32)
    for codes, bits in ((rng.choice([-1, 1], (200, 500)), 1), (rng.integers(-8, 8, (200, 500)), 4)):
        assert len(round_trip(codes.astype(np.float32) * scale[:, None], scale)) < 100_000 * bits / 8 + 4 * 200 + 250


def test_rows_of_zeros_come_back_whatever_the_sign_of_the_zeros():
    scale = np.array([0, 0, 2, -2], np.float32)
    round_trip(np.array([[0, 0], [-0.0, 0], [-0.0, 4], [-0.0, 0.0]], np.float32), scale)


@pytest.mark.parametrize(
    ("array", "scale", "message"),
    [
        (np.full((2, 3), 0.5, np.float32), [1, 0.5], r"array 'w': row 0 has .*0\.5.* isn't a whole number times its"),
        (np.ones((2, 3), np.float32), [1, 0], r"row 1 has .*1\.0.* times its scale .*0\.0.*; 3 of 6 numbers aren't"),
        (np.ones((2, 3), np.float32), [1, np.nan], "row 1 has"),
        (np.arange(257, dtype=np.float32)[None], [1], "array 'w': is 257 whole numbers times scales, .* at most 256"),
        (np.ones((2, 3), np.float32), [1], r"is float32 \(2, 3\) with a scale \(1,\), expected float32 and a number a"),
        (np.ones((2, 3), np.int8), [1, 1], r"is int8 \(2, 3\) with"),
        (np.float32(1), [1], r"is float32 \(\) with a scale"),
    ],
)
def test_array_that_is_not_what_its_scale_says_is_named(array, scale, message):
    with pytest.raises(ValueError, match=message):
        encode({"w": np.asarray(array)}, {"w": np.array(scale, np.float32)})


def test_scale_without_an_array_and_other_types_are_refused():
    with pytest.raises(ValueError, match="array 'v': has a scale, but isn't there"):
        encode({"w": np.ones(2, np.float32)}, {"v": np.ones(2, np.float32)})
    with pytest.raises(ValueError, match="array 'w': is of bool, expected integers or floats"):
        encode({"w": np.ones(2, bool)})


def test_more_numbers_than_can_be_read_back_are_not_encoded(monkeypatch):
    monkeypatch.setattr("stretto.runtime.coded.NUMBERS_MAX", 5)
    with pytest.raises(ValueError, match="the arrays have 6 numbers, expected at most 5"):
        encode({"a": np.ones(3, np.int8), "b": np.ones(3, np.int8)})


@pytest.mark.parametrize(("share", "values"), [(0.08, 32), (0.3, 16), (0.02, 256)])
def test_pruned_and_clustered_weights_take_about_their_entropy(share, values):
    rng = np.random.default_rng(0)
    table, count = rng.standard_normal(values).astype(np.float32), 300_000
    numbers = np.where(rng.random(count) < share, table[rng.integers(values, size=count)], 0).astype(np.float32)
    of_places = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    entropy_bytes = count * (of_places + share * np.log2(values)) / 8
    assert entropy_bytes < len(round_trip(numbers)) < 1.05 * entropy_bytes + 4 * values


def test_skewed_symbols_take_about_their_entropy_too():
    rng = np.random.default_rng(0)
    numbers = (np.round(rng.standard_normal(200_000) * 2) + 0).astype(np.float32) * np.float32(0.1)
    _, counts = np.unique(numbers, return_counts=True)
    shares = counts / counts.sum()
    assert len(round_trip(numbers)) < 1.05 * 200_000 * -(shares * np.log2(shares)).sum() / 8 + 100


def example() -> bytes:
    """A file in which every kind of stream is."""
    rng = np.random.default_rng(0)
    scale, codes = rng.random(4).astype(np.float32), rng.integers(-3, 4, (4, 90)).astype(np.float32)
    few = rng.standard_normal(5).astype(np.float32)[rng.integers(5, size=200)]
    arrays = {
        "plain": rng.standard_normal(40).astype(np.float32),
        "half": rng.standard_normal(30).astype(np.float16).astype(np.float32),
        "few": few,
        "sparse": np.where(rng.random((20, 10)) < 0.1, few.reshape(20, 10), 0).astype(np.float32),
        "scaled": codes * scale[:, None],
        "sparse and scaled": codes * scale[:, None] * (rng.random((4, 90)) < 0.1),
        "int8": rng.integers(-128, 128, 50).astype(np.int8),
    }
    return encode(arrays, {"scaled": scale, "sparse and scaled": scale})


def resealed(raw: bytes) -> bytes:
    magic, _, *sizes = HEAD.unpack_from(raw)
    return HEAD.pack(magic, zlib.crc32(raw[HEAD.size :]), *sizes) + raw[HEAD.size :]


def damaged(data: st.DataObject) -> bytes:
    raw = bytearray(example())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    return bytes(raw[: data.draw(st.none() | st.integers(0, len(raw)))])


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_flipped_and_cut_bytes_never_give_other_arrays(data):
    raw = damaged(data)
    if raw != example():
        with pytest.raises(ValueError):
            decode(raw)


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_damage_that_the_checksum_does_not_show_gives_arrays_or_a_value_error(data):
    raw = damaged(data)
    try:
        arrays, _ = decode(resealed(raw) if len(raw) >= HEAD.size else raw)
    except ValueError as error:
        assert str(error)
    else:
        assert sum(array.size for array in arrays.values()) <= NUMBERS_MAX


@pytest.mark.parametrize("length", [0, 3, 15, 16, 17, 60, -1])
def test_cut_file_is_refused(length):
    with pytest.raises(ValueError, match=r"expected|says"):
        decode(example()[:length])


def forged(header: bytes, body: bytes = b"", size: int | None = None) -> bytes:
    stored = shortest(header)
    return resealed(HEAD.pack(b"stw1", 0, len(stored), len(header) if size is None else size) + stored + body)


def four(**changes: Any) -> dict[str, Any]:
    """Four numbers by a table of two."""
    return {
        "name": "w", "dtype": "f4", "shape": [4], "scale": "", "steps": -1, "kept": "f4", "values": 2, "packed": 1,
        "sizes": [8, 4], **changes,
    }  # fmt: skip


def file_of(*records: dict[str, Any], body: bytes) -> bytes:
    return forged(json.dumps([list(record.values()) for record in records]).encode(), body)


TABLE = np.array([0.5, 2], np.float32).tobytes()
BOMB = zlib.compress(bytes(1 << 20), 9, -15)


def test_the_record_that_is_changed_below_is_read():
    assert decode(file_of(four(), body=TABLE + b"\0\1\1\0"))[0]["w"].tolist() == [0.5, 2, 2, 0.5]


@pytest.mark.parametrize(
    ("changes", "streams", "message"),
    [
        ({"dtype": "f3"}, b"", r"array 'w': dtype is 'f3', expected \('f4'"),
        ({"dtype": "O"}, b"", r"dtype is 'O'"),
        ({"shape": [-1]}, b"", r"shape is \(-1,\), expected"),
        ({"shape": [1] * 33}, b"", r"shape is "),
        ({"shape": [2**20, 2**20], "steps": -1}, b"", "the arrays have 1099511627776 numbers, expected at most"),
        ({"shape": [0, 2**28, 2**28]}, b"", "numbers, expected at most"),
        ({"kept": "i1"}, b"", r"kept is 'i1', expected \('f4', 'f2'\)"),
        ({"dtype": "f2", "kept": "f4"}, b"", r"kept is 'f4', expected \('f2',\)"),
        ({"scale": "i1"}, b"", "scale is 'i1', expected f4 or f2 for rows of f4"),
        ({"scale": "f4", "shape": []}, b"", "scale is 'f4'"),
        ({"steps": 5}, b"", "steps is 5, expected -1 to 4"),
        ({"values": 257}, b"", "values is 257, expected 0 to 256"),
        ({"values": -1}, b"", "values is -1"),
        ({"packed": 7}, b"", "packed is 7, expected 1 or 8"),
        ({"packed": 0}, b"", "packed is 0"),
        ({"values": 0, "sizes": [4]}, b"", "packed is 1, expected 0 or 0"),
        ({"sizes": [8]}, b"", r"sizes is \(8,\), expected 2 numbers"),
        ({"sizes": [8, -4]}, b"", r"sizes is \(8, -4\)"),
        ({"name": 1}, b"", r"header\[0\]\[0\] is 1, expected str"),
        ({"sizes": [True, 4]}, b"", r"header\[0\]\[8\]\[0\] is true, expected int"),
        ({}, TABLE + b"\0\1\2\0", "array 'w': symbols: a byte is 2, expected below 2^1"),
        ({"packed": 8, "values": 1, "sizes": [4, 1]}, b"\0\0\0\0\1", r"a byte is 1, expected below 1^8"),
        ({}, TABLE + b"\0\1\1", "array 'w': symbols: 3 bytes are left, expected 4"),
        ({}, TABLE + b"\0\1\1\0\0", "1 bytes after the last array, expected none"),
        ({"sizes": [8, 3]}, TABLE + b"\7\2\3", "symbols: can't be inflated"),
        ({"sizes": [8, len(BOMB)]}, TABLE + BOMB, "symbols: 1033 bytes inflate to 5 and no end, expected 4"),
        ({"sizes": [8, 3]}, TABLE + zlib.compress(b"", 9, -15) + b"\0", "1 bytes after them, expected 4"),
        ({"steps": 2, "sizes": [2, 8, 2]}, b"\1\2" + TABLE + b"\0\1", "gaps: they reach 5 numbers, expected at most"),
        ({"steps": 1, "sizes": [1, 8, 0]}, b"\xff" + TABLE, "gaps: they reach 255 numbers, expected at most 4"),
    ],
)  # fmt: skip
def test_what_a_record_may_not_say_is_named(changes, streams, message):
    with pytest.raises(ValueError, match=message.replace("^", r"\^")):
        decode(file_of(four(**changes), body=streams))


def test_array_that_is_there_twice_is_refused():
    with pytest.raises(ValueError, match="array 'w': it is there twice"):
        decode(file_of(four(), four(), body=b""))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (lambda: b"PK\3\4" + bytes(20), r"it has 24 bytes and begins with b'PK\\x03\\x04', expected 16 and b'stw1'"),
        (lambda: example() + b"\0", r"its CRC-32 is [0-9a-f]{8}, its head says"),
        (lambda: forged(b"{}"), r"header is \{\}, expected"),
        (lambda: forged(b"[["), "Expecting value"),
        (lambda: forged(b"[" * 100_000), "its header is nested too deeply"),
        (lambda: forged(b"\xff[]"), "can't decode byte 0xff"),
        (lambda: forged(b"[]", size=HEADER_BYTES_MAX + 1), "its header has 16777217 bytes, expected at most 16777216"),
        (lambda: forged(bytes(1 << 20), size=9), "header: .* inflate to 10 and no end, expected 9"),
    ],
)
def test_head_and_header_that_are_something_else_are_refused(raw: Callable[[], bytes], message: str):
    with pytest.raises(ValueError, match=message):
        decode(raw())


def test_symbols_of_a_byte_are_as_many_as_fit():
    assert [per_byte(values) for values in (1, 2, 3, 4, 5, 6, 7, 16, 17, 256)] == [8, 8, 5, 4, 3, 3, 2, 2, 1, 1]


def test_gaps_are_the_zeros_before_each_number():
    assert list(find_gaps(np.array([0, 2, 257, 512, 1022]))) == [0, 1, 254, 254, 255, 254]
    assert list(find_gaps(np.array([255, 766]))) == [255, 0, 255, 255, 0]


def test_a_shape_of_absurdly_many_axes_is_refused_at_once() -> None:
    """Its size would be a number of a hundred thousand digits."""
    header = json.dumps([["w", "f4", [9] * 100_000, "", -1, "f4", 0, 0, [4]]]).encode()
    body = zlib.compress(header, 9, wbits=-15) + b"abcd"
    raw = struct.pack("<4sIII", b"stw1", zlib.crc32(body), len(body) - 4, len(header)) + body
    with pytest.raises(ValueError, match=r"array 'w': shape is .* and 99996 axes more"):
        decode(raw)
