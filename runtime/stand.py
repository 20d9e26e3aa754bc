"""Where samples of a request stand, and since when, as plain data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from ..policies.load import UNKNOWN, Load
from ..policies.situation import Evidence, FloatArray, Step
from .inputs import Samples
from .menu import Exit, Menu
from .thread_clock import thread_clock

Reached = tuple[Evidence, ...]  # by one sample, oldest first
NOTHING: Reached = ()


class Clocks(NamedTuple):
    """Seconds, as `time.monotonic` and `time.thread_time` give them; reading the latter can cost a turn of others."""

    wall: Callable[[], float] = monotonic
    thread: Callable[[], float] = thread_clock


class Moment(NamedTuple):
    """Seconds by the wall clock, and by the clock of the thread that asks."""

    at_s: float
    cpu_s: float


@dataclass(slots=True)
class Stand:
    """Where samples of a request stand, and since when.

    Args:
        x: what the next step takes, (samples, …).
        menu: what is possible.
        at_s: when they got here, by the wall clock: at the last exit, or when the request arrived.
        cpu_s: the same by the clock of the thread that runs them.
        awake_cpu_s: by that clock, since when the thread has been running without a sleep, as far as is known.
        load: as known at the last decision.
        predicted_ms: (steps, levels of the model) what the model said there.
        passed: exits on the way of the step that is running, with their logits, (samples, classes).
        spent_mj: what the steps of each of these samples took by the profile, those that ended early included.
        chances: (samples, points) how likely each point is right, as a router said; None: it wasn't asked.
    """

    x: Samples
    menu: Menu
    at_s: float
    cpu_s: float
    awake_cpu_s: float
    load: Load = UNKNOWN
    predicted_ms: FloatArray | None = field(default=None, repr=False)
    passed: list[tuple[Exit, FloatArray]] = field(default_factory=list, repr=False)
    spent_mj: float = 0.0
    chances: FloatArray | None = field(default=None, repr=False)


class Start(NamedTuple):
    """A stand as it was at its request's first decision; see `Stand`."""

    menu: Menu
    at_s: float
    cpu_s: float
    awake_cpu_s: float
    load: Load
    predicted_ms: FloatArray | None


class Note(NamedTuple):
    """What the model is yet to be told of: a step, or a path of them, that began at `start` and ended at `end`.

    `graphs`: that it ran.
    """

    step: Step
    start: Start
    end: Moment
    graphs: int
    cut_off: bool
    whole_path: bool


def start_of(stand: Stand) -> Start:
    """The stand as it is."""
    return Start(stand.menu, stand.at_s, stand.cpu_s, stand.awake_cpu_s, stand.load, stand.predicted_ms)
