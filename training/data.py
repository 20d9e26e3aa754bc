"""Reading data sets: pixels as uint8 and labels, in splits that share no image. Needs no torch."""

import difflib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .arrays import from_arrays, read_npz
from .idx import is_idx, read_idx
from .images import read_images, resize_images

Progress = Callable[[int, int], None]
CALIBRATION = 0.05  # share of train that is held out unless told otherwise


@dataclass(frozen=True, slots=True)
class Split:
    """Images and labels: `x` (N, C, H, W) uint8, `y` (N,) int64 from 0."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: NDArray[np.integer] | NDArray[np.bool_]) -> "Split":
        """The images at `indices` (positions or a mask), copied."""
        return Split(self.x[indices], self.y[indices])

    def parted(self, share: float, seed: int = 0) -> tuple["Split", "Split"]:
        """Two of it, drawn at random: all but a share in [0, 1), and that share.

        Raises:
            ValueError: the share is out of range, or leaves nothing.
        """
        count = len(self) - round(share * len(self))
        if not 0 <= share < 1 or count == 0:
            raise ValueError(f"{share} of {len(self)} images can't be spared; give a share in [0, 1) that leaves some")
        order = np.random.default_rng(seed).permutation(len(self))
        return self.take(np.sort(order[:count])), self.take(np.sort(order[count:]))


@dataclass(frozen=True, slots=True)
class Data:
    """A data set in disjoint splits.

    `splits`: "train", "calibration" (held out of train), "test", and "validation" where the source has one.
    `scale` takes a stored pixel to its unit range; `mean` and `std` are per channel of train, on scaled pixels
    (a constant channel has std 1).
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.splits["train"].x.shape[1:]
        return channels, height, width

    def split(self, name: str) -> Split:
        """The split called `name`.

        Raises:
            ValueError: there is none.
        """
        if name not in self.splits:
            raise ValueError(f"{self.name} has no split '{name}'; it has {', '.join(self.splits)}")
        return self.splits[name]

    def sparing(self, share: float) -> "Data":
        """With that share of the calibration split left out, for what is to be fitted to nothing that certifies."""
        return replace(self, splits={**self.splits, "calibration": self.split("calibration").parted(share)[0]})


@dataclass(frozen=True, slots=True)
class _Source:
    classes: tuple[str, ...]
    splits: dict[str, Split]
    scale: float = 1 / 255


def load_data(
    path: str | Path,
    *,
    size: int | None = None,
    calibration: float = CALIBRATION,
    seed: int = 0,
    progress: Progress | None = None,
) -> Data:
    """Read a data set and hold part of its train split out as "calibration".

    Args:
        path: a built-in name (`digits`; write `./digits` for a folder called so), a folder or zip with
            `train/<class>/…` and `test/<class>/…` (optionally `validation/<class>/…`), a folder of MNIST's four files,
            or an `.npz` with x_train, y_train, x_test, y_test (optionally x_validation, y_validation, classes).
        size: side of the square images: the shorter side is resized to it, the middle is cut out. None keeps the
            size that all images share, up to 256 pixels, and otherwise means 224.
        calibration: share of each class of train to hold out, in (0, 1); at least one image where a class has two.
        seed: chooses the held-out images. Training and everything measured on calibration must use the same one;
            the test split doesn't depend on it.
        progress: called with (images read, images in all) while photos are decoded.

    Raises:
        ValueError: the source is missing, damaged or laid out differently; the message names the file.
    """
    if not 0 < calibration < 1:
        raise ValueError(f"calibration {calibration} isn't a share between 0 and 1 (both excluded)")
    if size is not None and size < 1:
        raise ValueError(f"size {size} isn't a number of pixels; give 1 or more, or none for the images' own size")
    source = _read(path, size, progress)
    splits = _hold_out(source.splits, calibration, seed, str(path))
    mean, std = _statistics(splits["train"].x, source.scale)
    return Data(Path(path).stem, source.classes, splits, source.scale, mean, std)


def load_data_as(
    path: str | Path, shape: tuple[int, ...], progress: Progress | None = None, calibration: float = CALIBRATION
) -> Data:
    """`load_data` with images of `shape`, (C, H, W), as a checkpoint or a bundle takes them; resized if it is square.

    Raises:
        ValueError: as `load_data`, or the images are of another shape.
    """
    square = len(shape) == 3 and shape[1] == shape[2]
    data = load_data(path, size=shape[1] if square else None, calibration=calibration, progress=progress)
    if data.input_shape != shape:
        raise ValueError(f"{path}: images (C, H, W) are {data.input_shape}, {shape} is needed; give such images")
    return data


def _read(path: str | Path, size: int | None, progress: Progress | None) -> _Source:
    if str(path) in BUILTIN:
        return _resized(BUILTIN[str(path)](), size)
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder{_nearest(str(path))}; built-in data: {', '.join(BUILTIN)}")
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    if path.is_file() and path.suffix.lower() == ".npz":
        return _resized(_as_source(*read_npz(path)), size)
    if is_idx(path):
        return _resized(_as_source(*from_arrays(path, read_idx(path))), size)
    if path.is_dir() or zipfile.is_zipfile(path):
        return _as_source(*read_images(path, size, progress))
    raise ValueError(
        f"{path}: neither a zip nor an .npz (or damaged at its end); give a folder or zip with train/ and test/, "
        f"an .npz, or a built-in name ({', '.join(BUILTIN)})"
    )


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, BUILTIN, n=1)
    return f" (did you mean the built-in '{close[0]}'?)" if close else ""


def _as_source(classes: tuple[str, ...], splits: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]) -> _Source:
    return _Source(classes, {name: Split(x, y) for name, (x, y) in splits.items()})


def _resized(source: _Source, size: int | None) -> _Source:
    if size is None:
        return source
    splits = {name: Split(resize_images(split.x, size), split.y) for name, split in source.splits.items()}
    return _Source(source.classes, splits, source.scale)


def _digits() -> _Source:
    """scikit-learn's 1,797 handwritten digits, 8×8, pixels 0–16; a fifth of each class is test, always the same."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the built-in digits need scikit-learn: pip install 'stretto[train]'") from error
    digits = load_digits()
    everything = Split(digits.images.astype(np.uint8)[:, None], digits.target.astype(np.int64))
    test = _stratified(everything.y, 0.2, seed=0)
    splits = {"train": everything.take(~test), "test": everything.take(test)}
    return _Source(tuple(str(name) for name in digits.target_names), splits, 1 / 16)


BUILTIN = {"digits": _digits}


def _stratified(y: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """(N,) mask of `share` of each class, chosen by `seed`: at least one of a class, never its last one."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(y), dtype=np.bool_)
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held[members[:count]] = True
    return held


def _hold_out(splits: dict[str, Split], share: float, seed: int, path: str) -> dict[str, Split]:
    train = splits["train"]
    held = _stratified(train.y, share, seed)
    if not held.any():
        raise ValueError(f"{path}: no class of train has two images, so none can be held out for calibration")
    return {**splits, "train": train.take(~held), "calibration": train.take(held)}


def _statistics(x: NDArray[np.uint8], scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std per channel of scaled pixels, from histograms: exact, and small in memory."""
    counts = np.zeros((x.shape[1], 256))
    for start in range(0, len(x), 256):
        for channel, pixels in enumerate(x[start : start + 256].swapaxes(0, 1)):
            counts[channel] += np.bincount(pixels.reshape(-1), minlength=256)
    shares, values = counts / counts.sum(axis=1, keepdims=True), np.arange(256) * scale
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())
