"""MNIST's four files are read, packed or not; what is damaged is named."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from stretto.training.data import load_data
from stretto.training.idx import FILES, read_idx


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder: Path, packed: bool) -> dict[str, np.ndarray]:
    rng, arrays = np.random.default_rng(0), {}
    for name, file in FILES.items():
        count = 40 if "train" in name else 10
        arrays[name] = rng.integers(0, 256, (count, 5, 4), np.uint8) if name[0] == "x" else np.arange(count) % 4
        arrays[name] = arrays[name].astype(np.uint8)
        raw = idx(arrays[name])
        (folder / (f"{file}.gz" if packed else file)).write_bytes(gzip.compress(raw) if packed else raw)
    return arrays


@pytest.mark.parametrize("packed", [True, False])
def test_the_four_files_are_a_data_set(packed: bool, tmp_path: Path) -> None:
    arrays = write(tmp_path, packed)
    data = load_data(tmp_path, calibration=0.2)
    assert np.array_equal(data.split("test").x[:, 0], arrays["x_test"])
    assert len(data.split("train")) + len(data.split("calibration")) == 40
    assert data.classes == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda raw: raw[:-1], "its head says shape"),
        (lambda raw: b"\0\0\x0d" + raw[3:], "begins with 00000d"),
        (lambda raw: b"", "begins with"),
    ],
)
def test_a_damaged_file_is_named(change, match: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path, packed=False)
    place = tmp_path / FILES["y_test"]
    place.write_bytes(change(place.read_bytes()))
    with pytest.raises(ValueError, match=f"{FILES['y_test']}: .*{match}"):
        read_idx(tmp_path)


def test_a_file_that_is_missing_or_not_packed_is_named(tmp_path: Path) -> None:
    write(tmp_path, packed=True)
    place = tmp_path / f"{FILES['x_test']}.gz"
    place.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="can't be unpacked"):
        read_idx(tmp_path)
    place.unlink()
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte: isn't there; needed are"):
        read_idx(tmp_path)
