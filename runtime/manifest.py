"""What a bundle's `manifest.json` says, as plain data, and its strict form in JSON."""

import json
import math
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from ..policies.situation import OperatingPoint, Step
from .errors import InputError

FORMAT = 1
GRAPHS_OF = {"bf16": "fp32"}  # precisions without graphs of their own: an engine runs another's in them
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A float32 tensor between graphs; `shape` is without the batch axis."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What the network takes.

    `shape`: without the batch axis, channels first; `scale`: from pixel to number, 1 over the largest pixel of the
    training data, or 1; `mean`, `std`: one per channel, in numbers, or both empty.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(pixels * scale - mean) / std of one uint8 sample, `shape`, or a batch, (samples, *shape).

        Raises:
            InputError: another dtype or shape.
        """
        sample = pixels.shape[-len(self.shape) :] == self.shape and pixels.ndim - len(self.shape) in (0, 1)
        if pixels.dtype != np.uint8 or not sample:
            found = f"{pixels.dtype} {pixels.shape}"
            raise InputError(f"pixels are {found}; give uint8 {self.shape}, or (samples, *{self.shape}) for a batch")
        numbers = pixels.astype(np.float32) * np.float32(self.scale)
        if self.mean:
            per_channel = (-1, *(1,) * (len(self.shape) - 1))
            numbers -= np.asarray(self.mean, np.float32).reshape(per_channel)
            numbers /= np.asarray(self.std, np.float32).reshape(per_channel)
        return numbers


@dataclass(frozen=True, slots=True)
class PointRecord:
    """What is known of one operating point.

    `accuracy`: held-out, in [0, 1]; `macs`, `params`: from the stem to this exit; `temperature`: divides the logits
    before the softmax, 1.0 where it wasn't calibrated.
    """

    width: float
    depth: int
    precision: str
    accuracy: float
    macs: int
    params: int
    temperature: float = 1.0

    @property
    def point(self) -> OperatingPoint:
        """Which it is."""
        return OperatingPoint(self.width, self.depth, self.precision)


@dataclass(frozen=True, slots=True)
class Binding:
    """How an initialiser is made of a shared tensor: cut, scaled, transposed, as float32; of int8, as int8.

    Args:
        tensor: key in the weights.
        slices: per axis of that tensor, None for all of it, or the [start, stop) ranges kept, in this order.
        perm: order of the axes, applied last; None leaves them.
        scale: key of a vector in the weights that multiplies the cut tensor along `scale_axis`; None for none. An int8
            tensor takes int8 signs: -1, 0 or 1.
        scale_axis: axis of the cut tensor, before `perm`.
    """

    tensor: str
    slices: tuple[tuple[tuple[int, int], ...] | None, ...]
    perm: tuple[int, ...] | None = None
    scale: str | None = None
    scale_axis: int = 0

    def array(self, weights: Arrays) -> NDArray[Any]:
        """The initialiser, contiguous; shares the weights' memory where it is all of a float32 tensor."""
        kept = weights[self.tensor]
        for axis, ranges in enumerate(self.slices):
            if ranges is not None:
                kept = _keep(kept, axis, ranges)
        kept = _working(kept)
        if self.scale is not None:
            shape = [1] * kept.ndim
            shape[self.scale_axis] = -1
            kept = kept * _working(weights[self.scale]).reshape(shape)
        return np.asarray(kept if self.perm is None else kept.transpose(self.perm), order="C")


@dataclass(frozen=True, slots=True)
class Fragment:
    """One part of one stage at one width: the graph in `member`, what flows through it, where its weights come from.

    The stem is stage 0 with width None; the last stage has a head only. A router, which a bundle may have one of, takes
    what the stem gives and says of every point, in the manifest's order, how likely it is right: the log-odds of that.
    """

    stage: int
    width: float | None
    precision: str
    part: Literal["body", "head", "router"]
    member: str
    input: TensorSpec
    output: TensorSpec
    bindings: dict[str, Binding]


def graphs_of(precision: str) -> str:
    """The precision whose graphs are run for it: its own, or those of another."""
    return GRAPHS_OF.get(precision, precision)


@dataclass(frozen=True, slots=True)
class Member:
    """What a file inside the bundle must be: SHA-256 in hexadecimal, size in bytes once inflated."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class CertifiedWay:
    """A width and precision whose rule may stop early.

    `threshold`: of the rule, None to never stop; `risk`: mean loss of the calibration samples there; `early`: share of
    them that stopped before the final exit; `agreement`: share of them answered as by the full fp32 network.
    """

    width: float
    precision: str
    threshold: float | None
    risk: float
    early: float
    agreement: float


@dataclass(frozen=True, slots=True)
class Certified:
    """What `stretto calibrate` found; widths and precisions that nothing was shown of are not among `ways`.

    `rule`: in `EXIT_RULES`; `loss`, `method`, `epsilon`, `delta`, `samples`: as in `policies.risk.Certificate`;
    `promise`: one sentence.
    """

    rule: str
    loss: str
    method: str
    epsilon: float
    delta: float
    samples: int
    ways: tuple[CertifiedWay, ...]
    promise: str


_IF_ANY = {"if_any": True}  # marks a field whose key isn't there where its value is None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything about a bundle but its graphs and weights.

    `widths` ascend; depths run from 1 to `depths`; fragments are of the precisions that `graphs_of` gives.
    """

    network: str
    classes: tuple[str, ...]
    input: InputSpec
    widths: tuple[float, ...]
    depths: int
    precisions: tuple[str, ...]
    ir_version: int
    opset: int
    points: tuple[PointRecord, ...]
    fragments: tuple[Fragment, ...]
    provenance: dict[str, Any]
    members: dict[str, Member]
    format: int = FORMAT
    certified: Certified | None = field(default=None, metadata=_IF_ANY)

    @property
    def has_router(self) -> bool:
        """Whether one of the fragments is one."""
        return any(fragment.part == "router" for fragment in self.fragments)

    def router_step(self, precision: str = "fp32") -> Step:
        """Stem and router, which is the same at every width."""
        return Step(0, 0, self.widths[-1], precision)

    def to_json(self) -> bytes:
        """Compact UTF-8; the same manifest gives the same bytes."""
        return json.dumps(_plain(self), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> "Manifest":
        """Reads it back.

        Raises:
            ValueError: not JSON, a key too many or missing, or a value of another type; the message says where.
        """
        try:
            value = json.loads(raw, parse_constant=_refuse_constant, object_pairs_hook=_unique)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        found = value.get("format") if isinstance(value, dict) else None
        if isinstance(found, int) and found != FORMAT:
            raise ValueError(f"format is {found}, this version of stretto reads {FORMAT}")
        return typed(cls, value, "")


def _keep(array: NDArray[Any], axis: int, ranges: tuple[tuple[int, int], ...]) -> NDArray[Any]:
    parts = [array[(slice(None),) * axis + (slice(start, stop),)] for start, stop in ranges]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)


def _working(array: NDArray[Any]) -> NDArray[Any]:
    """As the graphs take it: int8 as it is, what is stored in fewer bits of floating point as float32."""
    return array if array.dtype == np.int8 else array.astype(np.float32, copy=False)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        if_any = _if_any(value.__class__)
        found = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        return {name: inner for name, inner in found.items() if inner is not None or name not in if_any}
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (tuple, list)) else value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} isn't JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {max(names, key=names.count)!r} twice")
    return found


def typed(hint: Any, value: Any, where: str) -> Any:
    """`value`, read from JSON, as the type that `hint` says; `where` is the path to it."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or (origin is Literal and value in args) or (hint is NoneType and value is None):
        return value
    if origin is UnionType:
        return None if value is None else typed(args[0], value, where)
    if is_dataclass(hint) and isinstance(value, dict):
        return _record(hint, value, where)
    if origin is dict and isinstance(value, dict):
        return {key: typed(args[1], inner, f"{where}[{key!r}]") for key, inner in value.items()}
    if origin is tuple and isinstance(value, list) and (args[-1] is ... or len(args) == len(value)):
        hints = [args[0]] * len(value) if args[-1] is ... else args
        return tuple(typed(hints[n], inner, f"{where}[{n}]") for n, inner in enumerate(value))
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if hint in (int, str) and type(value) is hint:
        return value
    expected = hint.__name__ if isinstance(hint, type) else str(hint).removeprefix("typing.")
    raise ValueError(f"{where or 'the whole'} is {json.dumps(value)[:60]}, expected {expected}")


def _record(cls: Any, value: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(cls)
    names = [field.name for field in fields(cls)]
    missing = set(names) - _if_any(cls) - value.keys()
    for problem, keys in (("unknown", value.keys() - set(names)), ("missing", missing)):
        if keys:
            raise ValueError(f"{problem} key {', '.join(sorted(keys))!r} in {where or 'the whole'}; it has {names}")
    found = [name for name in names if name in value]
    return cls(**{name: typed(hints[name], value[name], f"{where}.{name}".lstrip(".")) for name in found})


@cache
def _if_any(cls: Any) -> frozenset[str]:
    return frozenset(field.name for field in fields(cls) if field.metadata == _IF_ANY)
