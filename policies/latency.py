"""How long will it take now? Told of every step that ran, asked when a request would reach its exits."""

from typing import ClassVar, NamedTuple, Protocol

from .load import Load
from .situation import FloatArray, Step


class Ran(NamedTuple):
    """A step that ran, as a time model is told of it.

    Args:
        step: which.
        idle_ms: (levels of the profile,) its own time on the idle device.
        ran_ms: processor time that its request had used before it, since it last slept.
        cpu_ms: processor time that it took; None where only the wall clock is known (a GPU, several threads).
        wall_ms: time that it took.
        load: as known when it began.
        cut_off: it was stopped before its end, so both times are only lower bounds.
        predicted_ms: (levels of the model,) what the model said before, None where it wasn't asked.
        whole_path: several steps, from a request's start to where it ended, each of which was told before.
    """

    step: Step
    idle_ms: FloatArray
    ran_ms: float
    cpu_ms: float | None
    wall_ms: float
    load: Load
    cut_off: bool = False
    predicted_ms: FloatArray | None = None
    whole_path: bool = False


class TimeModel(Protocol):
    """Predicts finish times from the profile, what ran lately, and the load. Pure: told the time, never asking for it.

    Not safe from several threads at once; who owns it takes care. Both calls belong to the hot path: some 20 µs.

    `levels`: (levels,) of the quantiles that it gives, ascending, 0.5 and 0.99 among them; `looks_at_load`: whether it
    does, so that somebody should.
    """

    levels: tuple[float, ...]
    looks_at_load: ClassVar[bool]

    def finish_ms(self, idle_ms: FloatArray, ran_ms: float, load: Load) -> FloatArray:
        """(steps, levels) when each step's exit would be reached, from now.

        Args:
            idle_ms: (steps, levels of the profile) the same on the idle device.
            ran_ms: processor time that the request has used since its thread last slept.
            load: as known now.
        """

    def observe(self, ran: Ran) -> None:
        """Takes note of a step that ran, or of a whole path of them, told as one step."""
