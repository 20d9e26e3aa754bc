"""Streams of bytes that coded arrays are made of: deflated, symbols packed in bytes, gaps between numbers."""

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

SYMBOLS_MAX = 256  # values of a byte
FILLER = 255  # a gap of as many zeros with no number after it
_WINDOW = -zlib.MAX_WBITS  # without zlib's header and checksum
_STRATEGIES = (zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_DEFAULT_STRATEGY)
# Level 9 looks for repetitions that random symbols hardly have: 5 s for a million random signs, 0.2 s at level 6, and
# Huffman codes alone are shorter than either for anything but signs, which are better packed.
_THOROUGH_BYTES = 1 << 18
_CHUNK = 1 << 16  # symbols looked up at a time, so that what is in between stays in the processor's cache


class Reader:
    """Takes streams off the front of what is left of `raw`."""

    def __init__(self, raw: bytes, at: int) -> None:
        self._raw, self._at = memoryview(raw), at

    @property
    def left(self) -> int:
        """Bytes that weren't taken yet."""
        return len(self._raw) - self._at

    def stream(self, what: str, stored: int, size: int) -> bytes:
        """The next `stored` bytes, inflated to `size` unless they are as many.

        Raises:
            ValueError: there are fewer, or they don't inflate to that.
        """
        if stored > self.left:
            raise ValueError(f"{what}: {self.left} bytes are left, expected {stored}")
        piece = self._raw[self._at : self._at + stored]
        self._at += stored
        return bytes(piece) if stored == size else _inflated(what, piece, size)


def shortest(raw: bytes) -> bytes:
    """Deflated in the best of zlib's ways; as it is where none is shorter, so that the length tells which."""
    tries = [raw]
    level = 9 if len(raw) <= _THOROUGH_BYTES else 6
    for strategy in _STRATEGIES:
        deflate = zlib.compressobj(level, zlib.DEFLATED, _WINDOW, zlib.DEF_MEM_LEVEL + 1, strategy)
        tries.append(deflate.compress(raw) + deflate.flush())
    return min(tries, key=len)


def _inflated(what: str, stored: memoryview, size: int) -> bytes:
    inflate = zlib.decompressobj(_WINDOW)
    try:
        raw = inflate.decompress(stored, size + 1)  # one more than expected shows a bomb, and is all of it
    except zlib.error as error:
        raise ValueError(f"{what}: can't be inflated ({error})") from error
    if len(raw) != size or not inflate.eof or inflate.unused_data:
        more = "" if inflate.eof else " and no end"
        extra = f", {len(inflate.unused_data)} bytes after them" if inflate.unused_data else ""
        raise ValueError(f"{what}: {len(stored)} bytes inflate to {len(raw)}{more}{extra}, expected {size}")
    return raw


def per_byte(values: int) -> int:
    """How many symbols of so many values, 1 to 256, go into a byte, at most 8."""
    return next(count for count in range(8, 0, -1) if values**count <= SYMBOLS_MAX)


def pack(symbols: NDArray[np.integer], values: int, packed: int) -> bytes:
    """Symbols below `values` as digits of a byte in that base, lowest first; the last byte's missing ones are 0."""
    padded = np.zeros((-(-len(symbols) // packed), packed), np.uint8)
    padded.reshape(-1)[: len(symbols)] = symbols
    return (padded @ values ** np.arange(packed)).astype(np.uint8).tobytes()


def look_up(table: NDArray[Any], symbols: NDArray[np.uint8], packed: int) -> NDArray[Any]:
    """The table's values that packed symbols point at, `packed` for every byte.

    Raises:
        ValueError: a byte is none that the symbols of this table give.
    """
    values = len(table)
    if len(symbols) and (largest := symbols.max()) >= values**packed:
        raise ValueError(f"symbols: a byte is {largest}, expected below {values}^{packed}")
    digits = np.arange(values**packed)[:, None] // values ** np.arange(packed) % values
    rows, found = table[digits], np.empty((len(symbols), packed), table.dtype)
    for start in range(0, len(symbols), _CHUNK):
        # "clip" changes nothing, as all are in range, but lets numpy write without a buffer
        np.take(rows, symbols[start : start + _CHUNK], 0, found[start : start + _CHUNK], "clip")
    return found.reshape(-1)


def find_gaps(there: NDArray[np.integer]) -> bytes:
    """Zeros before each number, given the ascending places of numbers."""
    fillers, rest = np.divmod(np.diff(there, prepend=-1) - 1, FILLER)
    gaps = np.full(len(there) + int(fillers.sum()), FILLER, np.uint8)
    gaps[np.cumsum(fillers + 1) - 1] = rest
    return gaps.tobytes()


def expand(gaps: NDArray[np.uint8], numbers: NDArray[Any], size: int) -> NDArray[Any]:
    """(size,) the numbers after their gaps, zeros elsewhere; the inverse of `find_gaps`.

    Raises:
        ValueError: the gaps go past the end.
    """
    filler = gaps == FILLER
    steps = gaps + ~filler  # a number takes a place itself
    if (reached := int(steps.sum(dtype=np.int64))) > size:
        raise ValueError(f"gaps: they reach {reached} numbers, expected at most {size}")
    places = np.cumsum(steps, dtype=np.int64 if size > np.iinfo(np.int32).max else np.int32)
    whole = np.zeros(size, numbers.dtype)
    whole[places[~filler] - 1] = numbers
    return whole
