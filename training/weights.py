"""Reading weights that somebody else saved into a network, without running anything that the file says."""

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".tar")
SUFFIXES = (".safetensors", ".npz", *PICKLED)
# Where training scripts put the state dict, and what wrappers put before every key.
WRAPPING_KEYS = ("state_dict", "model")
WRAPPING_PREFIXES = ("module.", "_orig_mod.")
# Counted by batch norms for a purpose that hardly any has (momentum=None); older files don't hold it.
UNNEEDED = "num_batches_tracked"


def load_weights(model: nn.Module, path: str | Path, *, skip_mismatched: bool = False) -> tuple[str, ...]:
    """Copy a file's state dict into `model`: every key there, of the same shape, and no other.

    Args:
        path: `.safetensors`, `.npz` (an array for every key) or torch's own (`.pt`, `.pth`, …, read with
            `weights_only=True`); the state dict itself, or under `state_dict` or `model`, with or without a `module.`
            before each key. Batch counters may be missing.
        skip_mismatched: leave parameters as they are whose shapes differ in the first axis alone (the outputs), as a
            classifier's do for another number of classes.

    Returns:
        The names of the parameters that were skipped.

    Raises:
        ValueError: the file can't be read, holds something else, or doesn't fit; lists what is missing or unexpected
            and which shapes differ. The model is unchanged then.
    """
    path = Path(path)
    weights = _strip_prefixes(_read(path))
    wanted = model.state_dict()
    skipped = _outputs_differing(weights, wanted) if skip_mismatched else ()
    kept = {name: tensor for name, tensor in weights.items() if name not in skipped}
    _check_fit(path, kept, {name: tensor for name, tensor in wanted.items() if name not in skipped})
    model.load_state_dict(kept, strict=False)
    return skipped


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file of weights")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        weights: Any = _read_safetensors(path)
    elif suffix == ".npz":
        weights = _read_npz(path)
    elif suffix in PICKLED:
        weights = _unwrap(_read_torch(path))
    else:
        raise ValueError(f"{path}: weights of kind '{suffix}' aren't known; allowed are {', '.join(SUFFIXES)}")
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(f"{path}: holds a {type(weights).__name__}, not a filled state dict of names and tensors")
    other = [f"{name} ({type(value).__name__})" for name, value in weights.items() if not isinstance(value, Tensor)]
    if other:
        raise ValueError(f"{path}: not a state dict: {_some(other)} aren't tensors; save model.state_dict()")
    return weights


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error


def _read_npz(path: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not an .npz archive, or cut off; write it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(np.array(archive[name])) for name in archive.files}
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: can't be read as arrays of numbers ({error})") from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"{path}: not a torch file, or it holds Python objects besides tensors, which could run code and aren't "
            f"loaded; where you trust it, load it yourself and save model.state_dict() or a .safetensors\n{error}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: can't be read as a torch file ({error})") from error


def _unwrap(loaded: Any) -> Any:
    for key in WRAPPING_KEYS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            return loaded[key]
    return loaded


def _strip_prefixes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    stripped = dict(weights)
    for prefix in WRAPPING_PREFIXES:
        if all(name.startswith(prefix) for name in stripped):
            stripped = {name.removeprefix(prefix): tensor for name, tensor in stripped.items()}
    return stripped


def _outputs_differing(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[str, ...]:
    return tuple(
        name
        for name, tensor in weights.items()
        if name in wanted
        and tensor.shape != wanted[name].shape
        and tensor.dim() == wanted[name].dim() > 0
        and tensor.shape[1:] == wanted[name].shape[1:]
    )


def _check_fit(path: Path, weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    missing = [name for name in wanted if name not in weights and not name.endswith(UNNEEDED)]
    unexpected = [name for name in weights if name not in wanted]
    shapes = [
        f"{name} {tuple(weights[name].shape)} in the file, {tuple(wanted[name].shape)} in the network"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    parts = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    faults = [f"{len(names)} {what}: {_some(names)}" for what, names in parts if names]
    if faults:
        raise ValueError(
            f"{path} doesn't fit the network: {'; '.join(faults)}. Build the network that it was saved from; a "
            "classifier for another number of classes alone can be skipped (skip_mismatched)"
        )


def _some(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
