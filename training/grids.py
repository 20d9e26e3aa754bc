"""Which values a compressed parameter may have; training moves free numbers under them.

`nearest` gives the values that the network computes with, `gradient` what the free numbers learn from the gradient of
those (straight-through estimation; Bengio et al., Estimating or Propagating Gradients, 2013).
Applied to its own values `nearest` changes nothing, so that a grid can be imposed again.
"""

from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

CODES = 256  # as many as a byte tells apart
HALF_DIGITS = 11  # binary ones of a 16-bit float


class Grid(Protocol):
    """The contract; `kept` is True where a number may differ from zero, None where all may."""

    def nearest(self, free: Tensor, kept: Tensor | None) -> Tensor:
        """The values that stand for free numbers, of the same shape; zero where they aren't kept."""

    def gradient(self, grad: Tensor, free: Tensor) -> Tensor:
        """What the free numbers learn; `grad` is zero where they aren't kept."""

    def row_scale(self, values: Tensor) -> Tensor | None:
        """(rows,) of what each row's values are whole multiples, None where the values themselves are few."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """Numbers of one cluster share one value, which learns from the sum of their gradients.

    codes: of the parameter's shape, uint8: its cluster, 0 for numbers that are zero.

    Reference: Han et al., Deep Compression, ICLR 2016, section 3.
    """

    codes: Tensor

    def nearest(self, free: Tensor, kept: Tensor | None) -> Tensor:
        codes = self.codes.to(free.device)
        codes = (codes if kept is None else codes * kept.to(free.device)).flatten().long()
        counts = torch.bincount(codes, minlength=CODES).clamp_min(1)
        table = short((_sums(codes, free) / counts).to(free.dtype))
        table[0] = 0
        return table[codes].view_as(free)

    def gradient(self, grad: Tensor, free: Tensor) -> Tensor:
        codes = self.codes.to(grad.device).flatten().long()
        sums = _sums(codes, grad).to(grad.dtype)
        sums[0] = 0
        return sums[codes].view_as(grad)

    def row_scale(self, values: Tensor) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Whole:
    """Whole multiples of a scale, one for each row of axis 0, symmetric around zero: from -largest to largest.

    scale: (rows,), fixed; None takes each row's largest number for `largest`, as the export's int8 does.
    """

    largest: int
    scale: Tensor | None = None

    def nearest(self, free: Tensor, kept: Tensor | None) -> Tensor:
        free = zeroed(free, kept)
        scale = _rows(self._scale(free), free)
        codes = torch.where(scale > 0, free / scale, 0).round().clamp(-self.largest, self.largest)
        return codes * scale

    def gradient(self, grad: Tensor, free: Tensor) -> Tensor:
        reach = _rows(self._scale(free), free) * (self.largest + 0.5)
        return torch.where(free.abs() <= reach, grad, 0)

    def row_scale(self, values: Tensor) -> Tensor:
        return self._scale(values)

    def _scale(self, free: Tensor) -> Tensor:
        if self.scale is not None:
            return self.scale.to(free)
        return short(free.abs().flatten(1).amax(1) / self.largest)


@dataclass(frozen=True, slots=True)
class Signs:
    """±1 times a scale, one for each row of axis 0: the mean size of the row's numbers.

    Reference: Rastegari et al., XNOR-Net, ECCV 2016, section 3.1 (binary weights); the free numbers don't learn beyond
    ±1 (Courbariaux et al., BinaryConnect, NeurIPS 2015).
    """

    def nearest(self, free: Tensor, kept: Tensor | None) -> Tensor:
        count = free[0].numel() if kept is None else kept.to(free.device).flatten(1).sum(1).clamp_min(1)
        scale = short(zeroed(free, kept).abs().flatten(1).sum(1) / count)
        return zeroed(torch.where(free >= 0, 1.0, -1.0).to(free.dtype) * _rows(scale, free), kept)

    def gradient(self, grad: Tensor, free: Tensor) -> Tensor:
        return torch.where(free.abs() <= 1, grad, 0)

    def row_scale(self, values: Tensor) -> Tensor:
        return values.abs().flatten(1).amax(1)


@dataclass(frozen=True, slots=True)
class Halves:
    """16-bit floating point."""

    def nearest(self, free: Tensor, kept: Tensor | None) -> Tensor:
        return zeroed(free.half().to(free.dtype), kept)

    def gradient(self, grad: Tensor, free: Tensor) -> Tensor:
        return grad

    def row_scale(self, values: Tensor) -> None:
        return None


GRIDS: dict[str, type] = {"clusters": Clusters, "whole": Whole, "signs": Signs, "halves": Halves}


def grid_to_plain(grid: Grid) -> dict[str, Any]:
    """Kind and fields, tensors and plain values, as checkpoints hold them."""
    kind = next(name for name, known in GRIDS.items() if known is type(grid))
    return {"kind": kind} | {f.name: getattr(grid, f.name) for f in fields(grid)}  # type: ignore[arg-type]


def grid_from_plain(content: dict[str, Any]) -> Grid:
    """The way back.

    Raises:
        ValueError: an unknown kind, or fields that it doesn't have.
    """
    kind, given = content.get("kind"), {name: value for name, value in content.items() if name != "kind"}
    known = GRIDS.get(str(kind))
    if known is None or {f.name for f in fields(known)} != given.keys():
        raise ValueError(f"grid '{kind}' of {sorted(given)} isn't known; there are {', '.join(GRIDS)}")
    made: Grid = known(**given)
    return made


def _sums(codes: Tensor, numbers: Tensor) -> Tensor:
    """(CODES,) the sum of the numbers of each code, in 64 bits: in 32 that of a million is off by per cents."""
    empty = torch.zeros(CODES, dtype=torch.float64, device=numbers.device)
    return empty.index_add_(0, codes, numbers.flatten().double())


def zeroed(numbers: Tensor, kept: Tensor | None) -> Tensor:
    """The numbers, zero where they aren't kept."""
    return numbers if kept is None else torch.where(kept.to(numbers.device), numbers, 0.0)  # not -0, as a product is


def _rows(scale: Tensor, like: Tensor) -> Tensor:
    """A number a row as a tensor that multiplies along axis 0."""
    return scale.view(-1, *(1,) * (like.dim() - 1))


def short(numbers: Tensor) -> Tensor:
    """With as many digits as 16-bit floats have, which coded bundles store numbers in where they are in range.

    So few that a whole number of up to 13 bits times one of them is exact, and gives it back when divided.
    """
    mantissa, exponent = torch.frexp(numbers.float())
    return torch.ldexp((mantissa * 2**HALF_DIGITS).round() / 2**HALF_DIGITS, exponent).to(numbers.dtype)
