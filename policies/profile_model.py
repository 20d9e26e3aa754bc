"""The time model that learns nothing: a step takes what the profile says, whatever happens."""

from dataclasses import dataclass
from typing import ClassVar

from .latency import IntArray, Ran, TimeModel
from .load import Load
from .situation import FloatArray


@dataclass(slots=True)
class ProfileModel(TimeModel):
    """Gives the profile's own quantiles, at the profile's own `levels`: right on an idle machine, and nowhere else."""

    levels: tuple[float, ...]
    looks_at_load: ClassVar[bool] = False
    learns: ClassVar[bool] = False

    def finish_ms(self, idle_ms: FloatArray, ran_ms: float, load: Load, legs: IntArray | None = None) -> FloatArray:
        """`idle_ms` itself."""
        return idle_ms

    def observe(self, ran: Ran) -> None:
        """Nothing changes."""
