"""What words on the command line mean, and what is said of errors."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .policies.situation import OperatingPoint

# a missing module → the extra that brings it
EXTRAS = {
    "torch": "train", "onnx": "train", "onnxscript": "train", "PIL": "train", "sklearn": "train", "fastapi": "serve",
    "uvicorn": "serve", "prometheus_client": "serve", "orjson": "serve", "matplotlib": "dev", "packaging": "dev",
    "pytorchcv": "bench", "torchvision": "bench", "openvino": "openvino",
}  # fmt: skip


def policy_of(name: str | None, point: str | None) -> "str | OperatingPoint":
    """What `load` takes as its policy."""
    if point is None:
        return name or "alert"
    if name not in (None, "fixed"):
        raise ValueError(f"--policy {name} beside --point {point}, which means fixed; leave one of them out")
    from .policies.situation import OperatingPoint

    try:
        width, depth, *precision = point.split(",")
        return OperatingPoint(float(width), int(depth), *precision)
    except (ValueError, TypeError) as error:
        raise ValueError(f"--point {point}: give WIDTH,DEPTH or WIDTH,DEPTH,PRECISION, such as 0.5,2") from error


def confidence_of(text: str | None) -> 'float | tuple[float, ...] | Literal["calibrated"] | None':
    """What `load` takes as its confidence: a number, one for each depth, or the word."""
    if text is None:
        return None
    if text == "calibrated":
        return "calibrated"
    try:
        found = numbers(text)
    except ValueError as error:
        raise ValueError(
            f"--confidence {text}: give a number in (0, 1], one for each depth such as 0.9,0.8, or calibrated"
        ) from error
    return found[0] if len(found) == 1 else found


def numbers(text: str, kind: Callable[[str], Any] = float) -> tuple[Any, ...]:
    """Several, with commas between them."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"'{text}' isn't a list of numbers such as 0.5,1.0") from error


def exits_of(text: str) -> Any:
    """ "4" is a number of exits, "0.25,0.5" shares, anything else names of layers."""
    if text.isdigit():
        return int(text)
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        return tuple(text.split(","))


def explain(error: Exception) -> str:
    """What an error says, or which extra brings the library that isn't there."""
    module = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return f"this needs {module}: pip install 'stretto[{EXTRAS[module]}]'" if module in EXTRAS else str(error)
