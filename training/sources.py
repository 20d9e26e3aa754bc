"""What can be exported: a checkpoint or a bundle, told apart by what is inside."""

import zipfile
from pathlib import Path, PurePosixPath

from ..runtime.archive import MANIFEST
from ..runtime.bundle import Bundle
from .checkpoint import READ_ERRORS
from .precisions import Tell
from .requantize import export_bundle
from .task import export_checkpoint

PICKLE = "data.pkl"  # in every zip that torch writes, inside a folder


def export_source(
    source: str | Path,
    out: str | Path,
    data_path: str,
    *,
    weights: str | None = None,
    precisions: tuple[str, ...] = ("fp32",),
    reduce_range: bool = False,
    splits: tuple[str, ...] | None = None,
    spare: float | None = None,
    coded: bool = False,
    tell: Tell | None = None,
) -> Bundle:
    """`export_bundle` of a bundle, `export_checkpoint` of a checkpoint, whose defaults are float32 and test.

    Raises:
        ValueError: `source` is neither, or as those two.
    """
    if is_bundle(source):
        return export_bundle(
            Bundle.open(source), out, data_path, weights=weights, precisions=precisions, reduce_range=reduce_range,
            splits=splits, spare=spare, coded=coded, tell=tell,
        )  # fmt: skip
    return export_checkpoint(
        source, out, data_path, weights=weights or "float32", precisions=precisions, reduce_range=reduce_range,
        splits=splits or ("test",), spare=spare or 0.0, coded=coded, tell=tell,
    )  # fmt: skip


def is_bundle(path: str | Path) -> bool:
    """Whether a file is a bundle rather than a checkpoint; whether it is a sound one shows when it is read.

    Raises:
        ValueError: there is no such file, or it is neither.
    """
    names = _members(path)
    if MANIFEST in names or any(PurePosixPath(name).name == PICKLE for name in names):
        return MANIFEST in names
    raise ValueError(f"{path}: a zip, but not a bundle, which has {MANIFEST}, nor a checkpoint, which has {PICKLE}")


def _members(path: str | Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as file:
            return file.namelist()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; give a checkpoint or a bundle") from error
    except READ_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path}: not a bundle nor a checkpoint, or damaged at its end: {reason}") from error
