"""Reading photos laid out as `<split>/<class>/…` in a folder or a zip. Nothing is ever extracted."""

import contextlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

Tree = dict[str, dict[str, list[str]]]
Arrays = dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]

SPLITS = ("train", "validation", "test")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
LITTER = ("__MACOSX", "Thumbs.db", "desktop.ini")
DEFAULT_SIZE = 224
# Photos that happen to share a camera's resolution would fill the memory at their native size.
LARGEST_NATIVE = 256
CHUNK = 64
# Up to this side most of the work is Python's own, and threads only fight for the interpreter: 60,000 JPEGs of 32×32
# took 9.9 s with one thread, 14.1 s with two; 3,780 photos of 240 pixels 9.0 s and 5.4 s (2 cores).
THUMBNAIL = 64


class _SizesDiffer(Exception):
    """Images that were expected to share one size don't."""


@dataclass(frozen=True, slots=True)
class _Source:
    """`entries`: path inside, with `/`, folders ending in one → what `read` takes."""

    path: Path
    entries: dict[str, str]
    read: Callable[[str], bytes]


def read_images(
    path: Path, size: int | None, progress: Callable[[int, int], None] | None = None
) -> tuple[tuple[str, ...], Arrays]:
    """Class names, sorted, and per split the pixels (N, 3, H, W) uint8 and labels (N,) int64, in order of the names.

    Whatever lies outside `train/`, `validation/` and `test/` is not looked at, nor are hidden files and what macOS and
    Windows leave behind; one folder around it all is allowed. For `size` and `progress` see `load_data`.

    Raises:
        ValueError: no train/ or test/, an empty class, a class that train lacks, a file that isn't a readable image.
    """
    with _open(path) as source:
        tree = _arrange(source)
        classes = _classes(path, tree)
        pixels = _read_all(source, tree, size, progress)
    label = {name: index for index, name in enumerate(classes)}
    labels = {split: [label[name] for name in tree[split] for _ in tree[split][name]] for split in tree}
    return classes, {split: (pixels[split], np.array(labels[split], dtype=np.int64)) for split in tree}


@contextlib.contextmanager
def _open(path: Path) -> Iterator[_Source]:
    if path.is_dir():
        yield _Source(path, _walk(path), lambda name: (path / name).read_bytes())
        return
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path}: can't be opened as a zip ({error})") from error
    with archive:
        # Some tools write backslashes or a leading slash; names with '..' end up under no split and are passed over.
        entries = {name.replace("\\", "/").lstrip("/").removeprefix("./"): name for name in archive.namelist()}
        yield _Source(path, entries, archive.read)


def _walk(root: Path) -> dict[str, str]:
    entries: dict[str, str] = {}
    for folder, folders, files in os.walk(root, followlinks=True):
        relative = Path(folder).relative_to(root)
        entries |= {name: name for name in ((relative / file).as_posix() for file in files)}
        entries |= {f"{name}/": name for name in ((relative / child).as_posix() for child in folders)}
    return entries


def _arrange(source: _Source) -> Tree:
    """{split: {class: names, sorted}}, empty classes included."""
    tree: Tree = {}
    names = sorted(name for name in source.entries if name and not _is_litter(name))
    wrapper = _wrapper(names)
    for name in names:
        split, *inner = name.removeprefix(wrapper).split("/")
        if split not in SPLITS or not inner:
            continue
        classes = tree.setdefault(split, {})
        if len(inner) > 1:
            classes.setdefault(inner[0], [])
        if inner[-1] and _is_image(source.path, name, in_class=len(inner) > 1):
            classes[inner[0]].append(name)
    missing = [split for split in ("train", "test") if split not in tree]
    if missing:
        tops = sorted({name.removeprefix(wrapper).split("/")[0] for name in names} - {""})
        raise ValueError(
            f"{source.path}: no folder {' and no folder '.join(f'{split}/' for split in missing)} "
            f"(it has {', '.join(tops[:10]) or 'nothing'}); the layout is train/<class>/… and test/<class>/…"
        )
    return {split: tree[split] for split in SPLITS if split in tree}


def _is_litter(name: str) -> bool:
    return any(part.startswith(".") or part in LITTER for part in name.split("/"))


def _wrapper(names: list[str]) -> str:
    """The one folder around everything, with its slash, or an empty string."""
    tops = {name.split("/")[0] for name in names if "/" in name}
    return "" if len(tops) != 1 or tops & set(SPLITS) else f"{tops.pop()}/"


def _is_image(path: Path, name: str, in_class: bool) -> bool:
    known = name.lower().endswith(EXTENSIONS)
    if known and not in_class:
        raise ValueError(f"{path}: {name} lies in no class folder; the layout is train/<class>/… and test/<class>/…")
    if in_class and not known:
        raise ValueError(f"{path}: {name} in a class folder is no image by its name; known: {' '.join(EXTENSIONS)}")
    return known


def _classes(path: Path, tree: Tree) -> tuple[str, ...]:
    for split, classes in tree.items():
        empty = sorted(name for name, files in classes.items() if not files)
        if empty or not classes:
            raise ValueError(f"{path}: no images in {split}/{', '.join(empty)}; fill or remove the folder")
        unknown = sorted(set(classes) - set(tree["train"]))
        if unknown:
            raise ValueError(f"{path}: {split}/ has classes that train/ lacks: {', '.join(unknown)}")
    if len(tree["train"]) < 2:
        raise ValueError(f"{path}: train/ has the one class {', '.join(tree['train'])}; two are needed at least")
    return tuple(sorted(tree["train"]))


def _read_all(
    source: _Source, tree: Tree, size: int | None, progress: Callable[[int, int], None] | None
) -> dict[str, NDArray[np.uint8]]:
    first = next(files[0] for files in tree["train"].values())
    native = _read_one(source, first, None).shape[1:]
    threads = 1 if max(native) <= THUMBNAIL else os.cpu_count()
    if size is None and max(native) <= LARGEST_NATIVE:
        with contextlib.suppress(_SizesDiffer):
            return _fill(source, tree, None, native, threads, progress)
    size = size or DEFAULT_SIZE
    return _fill(source, tree, size, (size, size), threads, progress)


def _fill(
    source: _Source,
    tree: Tree,
    size: int | None,
    shape: tuple[int, ...],
    threads: int | None,
    progress: Callable[[int, int], None] | None,
) -> dict[str, NDArray[np.uint8]]:
    """Decode everything with threads (Pillow lets go of the interpreter while it decodes and resizes)."""
    names = {split: [name for files in classes.values() for name in files] for split, classes in tree.items()}
    pixels = {split: np.empty((len(names[split]), 3, *shape), dtype=np.uint8) for split in tree}
    jobs = [(pixels[split], index, name) for split in tree for index, name in enumerate(names[split])]

    def work(start: int) -> int:
        for target, index, name in jobs[start : start + CHUNK]:
            image = _read_one(source, name, size)
            if image.shape[1:] != shape:
                raise _SizesDiffer(name)
            target[index] = image
        return min(start + CHUNK, len(jobs))

    pool = ThreadPoolExecutor(threads)
    try:
        for done in pool.map(work, range(0, len(jobs), CHUNK)):
            if progress is not None:
                progress(done, len(jobs))
    finally:
        pool.shutdown(cancel_futures=True)
    return pixels


def _read_one(source: _Source, name: str, size: int | None) -> NDArray[np.uint8]:
    try:
        return decode_image(source.read(source.entries[name]), size)
    except ImportError:
        raise
    except Exception as error:  # Pillow and zipfile raise a dozen types on damaged input; all mean the same here
        raise ValueError(f"{source.path}: {name} can't be read as an image ({error}); replace or remove it") from error


def decode_image(data: bytes, size: int | None = None) -> NDArray[np.uint8]:
    """An encoded image as (3, H, W) RGB, turned as its EXIF says, transparency dropped.

    With `size`, H = W = `size`: the largest middle square, resized (bilinear, antialiased).
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("reading images needs Pillow: pip install 'stretto[train]'") from error
    with Image.open(io.BytesIO(data)) as opened:
        image = _rgb(ImageOps.exif_transpose(opened))
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def _rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I;16"):  # Pillow's own conversion clips instead of scaling
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}, whose range isn't known; store 8 or 16 bits")
    elif "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def resize_images(x: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(N, C, H, W) → (N, C, `size`, `size`), each channel by itself, as `decode_image` does it."""
    from PIL import Image, ImageOps

    if x.shape[2:] == (size, size):
        return x
    planes = x.reshape(-1, *x.shape[2:])
    fitted = [ImageOps.fit(Image.fromarray(plane), (size, size), Image.Resampling.BILINEAR) for plane in planes]
    return np.stack([np.asarray(plane) for plane in fitted]).reshape(*x.shape[:2], size, size)
