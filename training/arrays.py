"""Reading a data set from an `.npz`: whatever common layout it has becomes uint8 (N, C, H, W) and int64 labels."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]

NEEDED = ("x_train", "y_train", "x_test", "y_test")
OPTIONAL = ("x_validation", "y_validation", "classes")
# An axis this short is taken for the channels; an image side is longer.
MAX_CHANNELS = 4


def read_npz(path: Path) -> tuple[tuple[str, ...], Arrays]:
    """Class names and, per split, pixels (N, C, H, W) uint8 in 0–255 and labels (N,) int64 from 0.

    Images may be (N, H, W), (N, H, W, C) or (N, C, H, W): integers from 0 to 255, or floats that are either in
    [0, 1] (multiplied by 255 and rounded to 8 bits) or whole numbers up to 255. Labels are integers from 0, (N,) or
    (N, 1). Without `classes` the names are the numbers. Other arrays in the file are not looked at.

    Raises:
        ValueError: an array is missing, damaged, of another shape, type or range; names the file and the array.
    """
    return from_arrays(path, _read(path))


def from_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> tuple[tuple[str, ...], Arrays]:
    """`read_npz` of arrays that were read already; `path`: what to call them by."""
    names = [name for name in ("train", "validation", "test") if f"x_{name}" in arrays]
    pixels = {name: _channels_first(f"{path}: x_{name}", arrays[f"x_{name}"]) for name in names}
    _check_alike(path, pixels)
    labels = {name: _labels(path, name, arrays[f"y_{name}"], len(pixels[name])) for name in names}
    classes = _classes(path, arrays.get("classes"), labels)
    factor = _factor(path, pixels)
    return classes, {name: (_as_uint8(pixels[name], factor), labels[name]) for name in names}


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not an .npz archive, or cut off; write it with numpy.savez")
    with np.load(path, allow_pickle=False) as archive:
        found = set(archive.files)
        needed = [*NEEDED, *(OPTIONAL[:2] if found & set(OPTIONAL[:2]) else ())]
        missing = [name for name in needed if name not in found]
        if missing:
            raise ValueError(
                f"{path}: no array {', '.join(missing)} (it has {', '.join(sorted(found)) or 'none'}); "
                f"needed are {', '.join(NEEDED)}, optional {', '.join(OPTIONAL)}"
            )
        return {name: _read_array(path, archive, name) for name in (*NEEDED, *OPTIONAL) if name in found}


def _read_array(path: Path, archive: Any, name: str) -> NDArray[Any]:
    try:
        array = archive[name]
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: array {name} can't be read ({error})") from error
    if not isinstance(array, np.ndarray):  # numpy hands back bytes where a member isn't in its format
        raise ValueError(f"{path}: {name} isn't a numpy array; write the file with numpy.savez")
    return array


def _channels_first(where: str, x: NDArray[Any]) -> NDArray[Any]:
    if x.dtype.kind not in "buif":
        raise ValueError(f"{where} has dtype {x.dtype}; images are integers or floats")
    if x.size == 0 or x.ndim not in (3, 4):
        raise ValueError(f"{where} has shape {x.shape}; allowed are (N, H, W), (N, H, W, C) and (N, C, H, W), N > 0")
    if x.ndim == 3:
        return x[:, None]
    first, last = x.shape[1] <= MAX_CHANNELS, x.shape[3] <= MAX_CHANNELS
    if first == last:
        raise ValueError(
            f"{where} has shape {x.shape}, in which the channels can't be told from the sides: exactly one of axes 1 "
            f"and 3 must be {MAX_CHANNELS} or less; write it as (N, H, W) or with a larger image"
        )
    return x if first else x.transpose(0, 3, 1, 2)


def _check_alike(path: Path, pixels: dict[str, NDArray[Any]]) -> None:
    train = pixels["train"]
    for name, x in pixels.items():
        if x.shape[1:] != train.shape[1:] or x.dtype != train.dtype:
            raise ValueError(
                f"{path}: x_{name} has images (C, H, W) = {x.shape[1:]} of {x.dtype}, x_train {train.shape[1:]} "
                f"of {train.dtype}; all splits need the same"
            )


def _factor(path: Path, pixels: dict[str, NDArray[Any]]) -> int:
    """What takes the pixels to 0–255: the same for every split, or the splits don't belong together."""
    factors = {name: _range_factor(f"{path}: x_{name}", x) for name, x in pixels.items()}
    if len(set(factors.values())) > 1:
        ranges = ", ".join(f"x_{name} {x.min():g} to {x.max():g}" for name, x in pixels.items())
        raise ValueError(f"{path}: splits have different ranges ({ranges}); write all as [0, 1] or all as 0–255")
    return factors["train"]


def _range_factor(where: str, x: NDArray[Any]) -> int:
    low, high = x.min(), x.max()
    unit = x.dtype.kind in "fb"
    if unit and low >= 0 and high <= 1:
        return 255
    whole = not unit or (np.isfinite(x).all() and (x == np.round(x)).all())
    if low >= 0 and high <= 255 and whole:
        return 1
    raise ValueError(
        f"{where} is {x.dtype} from {low:g} to {high:g}; allowed are whole numbers from 0 to 255 and floats in "
        "[0, 1]: store the pixels before any normalisation"
    )


def _as_uint8(x: NDArray[Any], factor: int) -> NDArray[np.uint8]:
    scaled = x if factor == 1 else np.round(x * np.float32(factor))
    return np.ascontiguousarray(scaled, dtype=np.uint8)


def _labels(path: Path, name: str, y: NDArray[Any], count: int) -> NDArray[np.int64]:
    if y.dtype.kind not in "iu" or y.shape not in ((count,), (count, 1)):
        raise ValueError(
            f"{path}: y_{name} has shape {y.shape} and dtype {y.dtype}; one integer for each of the {count} images of "
            f"x_{name} is needed"
        )
    return y.reshape(-1).astype(np.int64)


def _classes(path: Path, names: NDArray[Any] | None, labels: dict[str, NDArray[np.int64]]) -> tuple[str, ...]:
    trained = np.unique(labels["train"])
    count = int(trained[-1]) + 1 if names is None else names.size
    if names is not None and names.ndim != 1:
        raise ValueError(f"{path}: classes has shape {names.shape}; it is a list of names, (classes,)")
    for name, y in labels.items():
        if y.min() < 0 or y.max() >= count:
            raise ValueError(f"{path}: y_{name} goes from {y.min()} to {y.max()}; allowed is 0 to {count - 1}")
    if len(trained) < max(count, 2):
        gaps = np.flatnonzero(trained != np.arange(len(trained)))
        missing = gaps[0] if len(gaps) else len(trained)
        raise ValueError(
            f"{path}: y_train has no image of label {missing} ({len(trained)} different labels, the highest is "
            f"{trained[-1]}, classes {count}); labels count from 0 without gaps, two at least"
        )
    return tuple(str(name) for name in (range(count) if names is None else names))
