"""Training's own state on disk: resumes a run, and is what compression and export start from."""

import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from ..runtime.errors import StrettoError
from ..runtime.files import replacing
from .supernet import Supernet

FORMAT = 2
KEYS = ("format", "supernet", "state", "optimizer", "epoch", "options", "history", "about")
IF_ANY = {"limits"}  # a compressed network's, see `limits.limits_to_plain`
# all that zipfile and torch raise on malformed files, found by flipping bytes
READ_ERRORS = (
    OSError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, struct.error, ValueError, RuntimeError,
    NotImplementedError, OverflowError, LookupError, TypeError, AttributeError,
)  # fmt: skip


class CheckpointError(StrettoError):
    """A checkpoint can't be read, written, or doesn't fit; names the file and what was expected."""


def save_checkpoint(path: str | Path, net: Supernet, **state: Any) -> None:
    """Write atomically: a run that is killed meanwhile leaves the previous checkpoint as it was.

    `state`: optimizer, epoch, options, history, about, and limits if any; tensors and plain values only.

    Raises:
        CheckpointError: its folder isn't there.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise CheckpointError(f"{path}: there is no folder {path.parent}; make it first")
    content = {"format": FORMAT, "supernet": shape_of(net), "state": net.state_dict(), **state}
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content, tensors on the processor.

    Raises:
        CheckpointError: the file is missing, damaged, isn't one of ours, or holds more than tensors and plain values.
    """
    content = _read(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT or set(content) - IF_ANY != set(KEYS):
        raise CheckpointError(f"{path}: not a stretto checkpoint of format {FORMAT}: {_difference(content)}")
    return content


def _difference(content: Any) -> str:
    """What there is instead of a checkpoint's keys, or another format's number."""
    if isinstance(content, dict) and set(content) - IF_ANY == set(KEYS):
        return f"its format is {content['format']}; train again with this version"
    found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
    return f"holds {found}, expected {list(KEYS)}"


def _read(path: str | Path) -> Any:
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()  # torch doesn't look at the checksums
        if damaged is not None:
            raise CheckpointError(f"{path}: damaged: {damaged} isn't what was written")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values, which isn't loaded, as it could run code"
        ) from error
    except READ_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a readable checkpoint: {reason}") from error


def load_state(path: str | Path, net: Supernet, content: dict[str, Any]) -> None:
    """Put a checkpoint's numbers into a supernet of the same shape.

    Raises:
        CheckpointError: its widths, exits or parameters differ; names the difference. The supernet is left as it was.
    """
    for what, ours in shape_of(net).items():
        if content["supernet"].get(what) != ours:
            raise CheckpointError(
                f"{path}: was made for {what} {content['supernet'].get(what)!r}, this supernet has {ours!r}"
            )
    theirs = {name: tuple(value.shape) for name, value in content["state"].items()}
    own = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    differing = [name for name in {**own, **theirs} if own.get(name) != theirs.get(name)]
    if differing:
        first = differing[0]
        raise CheckpointError(
            f"{path}: is of another network: {len(differing)} of its tensors differ, such as {first}, "
            f"{theirs.get(first, 'not there')} there, {own.get(first, 'not there')} here"
        )
    net.load_state_dict(content["state"])


def shape_of(net: Supernet) -> dict[str, Any]:
    """The arguments of `make_supernet` that make a supernet of this shape from the same network."""
    return {
        "widths": list(net.widths),
        "exits": [cut.node for cut in net.plan.exits],
        "head": net.plan.head,
        "shared_stem": net.plan.stem.share > 0,  # one that ends at the input holds no layer
    }
