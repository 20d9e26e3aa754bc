"""Training's own state on disk: resumes a run, and is what compression and export start from."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from ..runtime.errors import StrettoError
from .supernet import Supernet

FORMAT = 1
KEYS = ("format", "supernet", "state", "optimizer", "epoch", "options", "history", "about")


class CheckpointError(StrettoError):
    """A checkpoint can't be read or doesn't fit; names the file and what was expected."""


def save_checkpoint(path: str | Path, net: Supernet, **state: Any) -> None:
    """Write atomically: a run that is killed meanwhile leaves the previous checkpoint as it was.

    `state`: optimizer, epoch, options, history, about; tensors and plain values only.
    """
    path = Path(path)
    content = {"format": FORMAT, "supernet": _shape_of(net), "state": net.state_dict(), **state}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content.

    Raises:
        CheckpointError: the file is missing, damaged, holds anything but tensors and plain values, or isn't one of ours.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: not a readable checkpoint (tensors and plain values only): {reason}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or set(content) != set(KEYS):
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{path}: not a stretto checkpoint of format {FORMAT}: holds {found}, expected {list(KEYS)}"
        )
    return content


def load_state(path: str | Path, net: Supernet, content: dict[str, Any]) -> None:
    """Put a checkpoint's numbers into a supernet of the same shape.

    Raises:
        CheckpointError: its widths, exits or parameters differ; names the difference.
    """
    if content["supernet"] != _shape_of(net):
        raise CheckpointError(f"{path}: made for {content['supernet']}, this supernet has {_shape_of(net)}")
    try:
        net.load_state_dict(content["state"])
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its parameters don't fit this network: {error}") from error


def _shape_of(net: Supernet) -> dict[str, Any]:
    exits = [cut.node for cut in net.plan.exits]
    return {"widths": list(net.widths), "exits": exits, "head": net.plan.head}
