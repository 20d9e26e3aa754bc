"""How long will it take now? Told of every step that ran, asked when a request would reach its exits."""

from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .load import Load
from .situation import FloatArray, Step

IntArray = NDArray[np.integer]


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
        graphs: how many it ran, one after the other.
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
    graphs: int = 1


class Study(Protocol):
    """What a time model works out when nobody waits for it; it holds copies of all that it looks at."""

    def work_out(self) -> None:
        """The long part, some milliseconds. It changes nothing of the model, which is asked and told meanwhile."""

    def put_in_place(self) -> None:
        """From now on the model predicts from what was worked out; as short as `observe`."""


class TimeModel(Protocol):
    """Predicts finish times from the profile, what ran lately, and the load. Pure: told the time, never asking for it.

    Not safe from several threads at once; who owns it takes care. `finish_ms` belongs to the hot path: some 20 µs, and
    the same array again where nothing has changed. `observe` is called soon after requests, and takes about as long. A
    model that needs longer to learn gives that as a `Study`.

    `levels`: (levels,) of the quantiles that it gives, ascending, 0.5 and 0.99 among them; `looks_at_load`: whether it
    does, so that somebody should; `learns`: whether it wants to be told of what ran.
    """

    levels: tuple[float, ...]
    looks_at_load: ClassVar[bool]
    learns: ClassVar[bool] = True

    def finish_ms(self, idle_ms: FloatArray, ran_ms: float, load: Load, legs: IntArray | None = None) -> FloatArray:
        """(steps, levels) when each step's exit would be reached, from now.

        Args:
            idle_ms: (steps, levels of the profile) the same on the idle device.
            ran_ms: processor time that the request has used since its thread last slept.
            load: as known now.
            legs: (steps,) how many graphs each of them runs, one after the other; 1 each where it isn't given. An array
                `idle_ms` that is given again comes with the same ones.
        """

    def observe(self, ran: Ran) -> None:
        """Takes note of a step that ran, or of a whole path of them, told as one step."""

    def study(self) -> Study | None:
        """What the notes so far make worth working out; None, the default: nothing. Takes as long as `observe`.

        Whoever owns the model asks after each request, and does the long part where it delays none:

            with lock: study = model.study()
            if study is not None:
                study.work_out()
                with lock: study.put_in_place()

        Not again before the last one is in place. Whether that takes place or not, and when, is no matter of right and
        wrong: meanwhile the model predicts from what it knew before.
        """
        return None


def catch_up(model: TimeModel) -> None:
    """All that there is to study, at once: for replays, where nobody waits."""
    while (study := model.study()) is not None:
        study.work_out()
        study.put_in_place()
