"""Reading MNIST and what is laid out like it: four files of bytes, each with a short head (IDX)."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# by array, what the files are called, with or without .gz
FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
UNSIGNED_BYTE = 0x08


def is_idx(path: Path) -> bool:
    """Whether a folder holds such files."""
    return path.is_dir() and any(_place(path, name).exists() for name in FILES.values())


def read_idx(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays `x_train` (N, H, W), `y_train` (N,), `x_test` and `y_test` of a folder.

    Raises:
        ValueError: a file is missing, damaged, or isn't IDX of bytes; names it.
    """
    return {array: _read(_place(path, name)) for array, name in FILES.items()}


def _place(folder: Path, name: str) -> Path:
    packed = folder / f"{name}.gz"
    return packed if packed.exists() else folder / name


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: isn't there; needed are {', '.join(FILES.values())}, each may end in .gz") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: can't be unpacked ({error})") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != UNSIGNED_BYTE:
        raise ValueError(f"{path}: begins with {raw[:4].hex()}, expected IDX of unsigned bytes, 00000801 or 00000803")
    axes = raw[3]
    sizes = struct.unpack_from(f">{axes}I", raw, 4) if len(raw) >= 4 + 4 * axes else ()
    if not sizes or len(raw) != 4 + 4 * axes + math.prod(sizes):
        raise ValueError(f"{path}: {len(raw)} bytes, its head says shape {sizes}; get the file again")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(sizes)
