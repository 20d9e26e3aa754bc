"""What exports of a network and of a bundle share: checks of what is asked, int8, and what every point is worth."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..policies.situation import OperatingPoint
from ..runtime.bundle import Bundle
from ..runtime.engines import make_engine
from ..runtime.manifest import PointRecord
from .calibrate import fit_temperature
from .evaluate import Batch, accuracy, point_logits
from .onnx_graph import Parts
from .quantize import LARGEST, LARGEST_REDUCED, with_int8

Loader = Iterable[tuple[Any, Any]]
Tell = Callable[[str, int, int], None]
PRECISIONS = {"fp32": "onnx", "int8": "onnx", "bf16": "openvino"}  # and the engines that their accuracy is measured by
CODED = {"coded": True}  # what provenance says of a bundle in as few bytes as can be


def check_folder(path: Path) -> None:
    """A bundle can be written there.

    Raises:
        ValueError: its folder isn't there.
    """
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; make it first")


def check_precisions(precisions: Sequence[str], calibration: Loader | None, reduce_range: bool) -> None:
    """They can be asked for, with these.

    Raises:
        ValueError: they can't; says what is allowed.
    """
    unknown = [precision for precision in precisions if precision not in PRECISIONS]
    if unknown or "fp32" not in precisions or len(set(precisions)) < len(precisions):
        raise ValueError(f"precisions are {tuple(precisions)}; give fp32, and any others of {', '.join(PRECISIONS)}")
    if "int8" in precisions and calibration is None:
        raise ValueError("int8 needs calibration data, which gives the ranges of activations; pass calibration")
    if reduce_range and "int8" not in precisions:
        raise ValueError(
            f"reduce_range is of int8's weights, precisions are {tuple(precisions)}; add int8, or leave it"
        )


def check_readings(held_out: Loader, calibration: Loader | None, precisions: Sequence[str], ranged: int) -> None:
    """What is read several times can be: an iterator would be empty from the second time on.

    `ranged`: how many widths int8's ranges are looked for at.

    Raises:
        ValueError: it can't; names what and how often.
    """
    engines = len({PRECISIONS[precision] for precision in precisions})
    check_reading("held_out", held_out, engines)
    check_reading("calibration", calibration, engines + ranged)


def check_reading(name: str, loader: Loader | None, times: int) -> None:
    """A loader can be read as often as it is needed.

    Raises:
        ValueError: it can't; names it and how often.
    """
    if times > 1 and isinstance(loader, Iterator):
        raise ValueError(
            f"{name} is a {type(loader).__name__}, which can be gone through once, and is needed {times} times; "
            "give a DataLoader or a list of batches"
        )


def check_engines(draft: Bundle) -> None:
    """This machine can measure every precision.

    Raises:
        ValueError: it can't; names the precision and the engine.
    """
    for precision in draft.manifest.precisions:
        engine = make_engine(PRECISIONS[precision], draft)
        runs = engine.runs(precision)
        engine.close()
        if not runs:
            raise ValueError(
                f"{precision} can't be measured: engine {engine.name!r} doesn't run it on this processor; export where "
                "it does, or leave it out"
            )


def quantized(parts: Parts, calibration: Loader, reduce_range: bool, tell: Tell) -> Parts:
    """With the int8 form of every graph; `reduce_range`: its weights in 7 bits."""
    largest = LARGEST_REDUCED if reduce_range else LARGEST
    return with_int8(parts, lambda: (x for x, _ in arrays(calibration)), largest, partial(tell, "ranging"))


def measured(draft: Bundle, held_out: Loader, calibration: Loader | None, tell: Tell) -> tuple[PointRecord, ...]:
    """The points with accuracy and temperature, as the compiled graphs answer."""
    logits, labels = every_logits(draft, held_out, partial(told, "evaluating", tell=tell))
    temperatures = dict.fromkeys(logits, 1.0)
    if calibration is not None:
        aside, theirs = every_logits(draft, calibration, partial(told, "calibrating", tell=tell))
        temperatures = {point: fit_temperature(z, theirs) for point, z in aside.items()}
    records = []
    for record in draft.manifest.points:
        right = accuracy(logits[record.point], labels)
        records.append(replace(record, accuracy=right, temperature=temperatures[record.point]))
    return tuple(records)


def every_logits(
    draft: Bundle, loader: Loader, read: Callable[[Loader], Iterator[Batch]]
) -> tuple[dict[OperatingPoint, NDArray[np.float32]], NDArray[np.int64]]:
    """Every point's logits, by the engine that runs its precision, and the labels."""
    found: dict[OperatingPoint, NDArray[np.float32]] = {}
    for engine in dict.fromkeys(PRECISIONS[precision] for precision in draft.manifest.precisions):
        some = draft.only([precision for precision, by in PRECISIONS.items() if by == engine])
        logits, labels = point_logits(some, read(loader), engine=engine)
        found |= logits
    return found, labels


def told(what: str, loader: Loader, tell: Tell) -> Iterator[Batch]:
    """The batches, counted; how many there will be isn't known of a loader without a length."""
    total = len(loader) if isinstance(loader, Sized) else 0
    done = 0
    for done, batch in enumerate(arrays(loader), start=1):
        yield batch
        tell(what, done, max(done, total))


def arrays(loader: Loader) -> Iterator[Batch]:
    """The batches as numpy's arrays."""
    for x, y in loader:
        pair = (v.detach().cpu() if isinstance(v, torch.Tensor) else v for v in (x, y))
        x, y = (np.asarray(v) for v in pair)
        yield np.ascontiguousarray(x, dtype=np.float32), y.astype(np.int64)
