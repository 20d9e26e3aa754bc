"""What compression asks of parameters while they are trained: numbers that stay zero, and values on a grid."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .grids import Grid, grid_from_plain, grid_to_plain, zeroed
from .supernet import Supernet


@dataclass(frozen=True, slots=True)
class Limit:
    """Of one shared parameter. `kept`: of its shape, False where it is zero for good, None if nowhere; `grid`: the
    values that it may have, None for any."""

    kept: Tensor | None = None
    grid: Grid | None = None

    def nearest(self, free: Tensor) -> Tensor:
        """The values that stand for free numbers."""
        if self.grid is not None:
            return self.grid.nearest(free, self.kept)
        return zeroed(free, self.kept)

    def gradient(self, grad: Tensor, free: Tensor) -> Tensor:
        """What the free numbers learn."""
        for_kept = zeroed(grad, self.kept)
        return for_kept if self.grid is None else self.grid.gradient(for_kept, free)

    def taken(self, places: list[Tensor | None]) -> "Limit":
        """Of these places of each axis alone, None for all."""
        kept = _taken(self.kept, places)
        grid = self.grid
        if grid is not None:
            plain = grid_to_plain(grid)
            for name, value in plain.items():
                if isinstance(value, Tensor):  # codes have the parameter's axes, a scale the first of them
                    plain[name] = _taken(value, places[: value.dim()])
            grid = grid_from_plain(plain)
        return Limit(kept, grid)


Limits = Mapping[str, Limit]  # by the parameter's name in `Supernet.shared`


@contextmanager
def imposed(net: Supernet, limits: Limits) -> Iterator[None]:
    """Within this the parameters have the values that they may have; afterwards their free numbers again."""
    parameters = {name: net.shared.get_parameter(name) for name in limits}
    free = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = limits[name].nearest(parameter.data)
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = free[name]


def limit_gradients(net: Supernet, limits: Limits) -> None:
    """Make the gradients those of the free numbers."""
    for name, limit in limits.items():
        parameter = net.shared.get_parameter(name)
        if parameter.grad is not None:
            parameter.grad = limit.gradient(parameter.grad, parameter.data)


def settle(net: Supernet, limits: Limits) -> None:
    """Give the parameters the values that they may have, for good."""
    for name, limit in limits.items():
        parameter = net.shared.get_parameter(name)
        parameter.data = limit.nearest(parameter.data).contiguous(memory_format=_format_of(parameter))


def changed(limits: Limits, name: str, **parts: Any) -> dict[str, Limit]:
    """With one parameter's `kept` or `grid` replaced."""
    return {**limits, name: replace(limits.get(name, Limit()), **parts)}


def row_scales(net: Supernet, limits: Limits) -> dict[str, NDArray[np.float32]]:
    """(rows,) by parameter, of what each row's values are whole multiples; as coded bundles store them."""
    found = {}
    for name, limit in limits.items():
        scale = None if limit.grid is None else limit.grid.row_scale(net.shared.get_parameter(name).detach())
        if scale is not None:
            found[name] = scale.cpu().float().numpy()
    return found


def limits_to_plain(limits: Limits) -> dict[str, Any]:
    """Tensors and plain values, as checkpoints hold them."""
    return {
        name: {"kept": limit.kept, "grid": None if limit.grid is None else grid_to_plain(limit.grid)}
        for name, limit in limits.items()
    }


def limits_from_plain(content: Mapping[str, Any], net: Supernet) -> dict[str, Limit]:
    """The way back.

    Raises:
        ValueError: they aren't of this network's parameters, or not as `limits_to_plain` writes them; names it.
    """
    shapes = {name: parameter.shape for name, parameter in net.shared.named_parameters()}
    limits = {}
    for name, plain in content.items():
        if name not in shapes or not isinstance(plain, dict) or plain.keys() != {"kept", "grid"}:
            raise ValueError(f"limit of '{name}' isn't one of a parameter of this network with kept and grid")
        kept, grid = plain["kept"], plain["grid"]
        if kept is not None and kept.shape != shapes[name]:
            raise ValueError(f"limit of '{name}' is of shape {tuple(kept.shape)}, expected {tuple(shapes[name])}")
        limits[name] = Limit(kept, None if grid is None else grid_from_plain(grid))
    return limits


def _format_of(parameter: Tensor) -> torch.memory_format:
    channels_last = parameter.dim() == 4 and not parameter.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def _taken(value: Tensor | None, places: list[Tensor | None]) -> Tensor | None:
    for axis, chosen in enumerate(places):
        if value is not None and chosen is not None:
            value = value.index_select(axis, chosen)
    return value
