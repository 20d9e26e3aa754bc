"""Data for a bundle: as its own training took them and split them, which its provenance tells."""

from typing import Any

from ..runtime.bundle import Bundle
from ..runtime.manifest import InputSpec
from .data import Data, load_data_as
from .precisions import Tell


def data_of(bundle: Bundle, path: str, instead: str, tell: Tell | None = None) -> Data:
    """The data set at `path`, its images as the bundle takes them; "calibration" is what training left out.

    Args:
        instead: what to call that takes batches, where the provenance doesn't say how much training left out.

    Raises:
        ValueError: as `load_data`, the provenance lacks the share, or the data are of other classes or shapes.
    """
    has = bundle.manifest
    holdout = said_in(bundle, "holdout", float, f"{instead} the calibration data, which training left out")
    reading = None if tell is None else lambda done, total: tell("reading", done, total)
    data = load_data_as(path, has.input.shape, reading, calibration=holdout)
    if data.classes != has.classes:
        raise ValueError(f"{bundle.path}: has classes {list(has.classes)}, {path} has {list(data.classes)}")
    return data


def said_in(bundle: Bundle, name: str, kind: type, instead: str) -> Any:
    """What the provenance says under a name.

    Raises:
        ValueError: nothing, or something of another type.
    """
    value = bundle.manifest.provenance.get(name)
    if not isinstance(value, kind):
        raise ValueError(
            f"{bundle.path}: its provenance has {name} {value!r}, expected a {kind.__name__}, as stretto export writes "
            f"it from a checkpoint; {instead}"
        )
    return value


def normal_of(spec: InputSpec) -> dict[str, Any]:
    """How pixels become numbers, as `batches` takes it."""
    channels = spec.shape[0]
    return {"scale": spec.scale, "mean": spec.mean or (0.0,) * channels, "std": spec.std or (1.0,) * channels}
