"""The one contract between whoever runs steps and whoever decides which: plain data, no behaviour."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from .scores import FloatArray, calibrated_scores


class OperatingPoint(NamedTuple):
    """One way to answer: width in (0, 1], depth from 1 (the first exit), precision of the compiled graph."""

    width: float
    depth: int
    precision: str = "fp32"

    @property
    def whole_way(self) -> "Step":
        """The step from the input to this point's exit."""
        return Step(0, self.depth, self.width, self.precision)


class Step(NamedTuple):
    """Running stages `first` … `depth` in one go, ending at exit `depth`.

    `first` is 0 for a request that has run nothing yet, or starts again (the stem, stage 0, is then part of the step),
    and d + 1 for one that goes on from exit d. Exits between `first` and `depth` are not computed. To depth 0 runs the
    stem and the router, whose logits are no classes' but say of every point how likely it is right.
    """

    first: int
    depth: int
    width: float
    precision: str = "fp32"

    @property
    def point(self) -> OperatingPoint:
        """The operating point that this step's exit answers at."""
        return OperatingPoint(self.width, self.depth, self.precision)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one request allows. `latency_ms` counts from its arrival, infinity means no deadline.

    `energy_mj` is what each of its samples may take, and needs a policy that looks at energy. `min_accuracy`: what is
    good enough, in [0, 1].
    """

    latency_ms: float = float("inf")
    energy_mj: float | None = None
    min_accuracy: float | None = None


class Evidence(NamedTuple):
    """What one exit said about one input.

    `logits`: (classes,); `temperature`: what divides them, > 0; `top`: the number of the most probable class;
    `confidence`: its calibrated probability; `accuracy`: the exit's held-out accuracy, or on this input, where a router
    said that, in [0, 1].
    """

    point: OperatingPoint
    logits: FloatArray
    temperature: float
    top: int
    confidence: float
    accuracy: float

    @property
    def scores(self) -> FloatArray:
        """(classes,) calibrated probabilities, made anew each time, as most requests need `confidence` alone."""
        return calibrated_scores(self.logits, self.temperature)


@dataclass(slots=True)
class Situation:
    """Everything a policy may look at when it decides about one request (or a group that moves together).

    Args:
        slack_ms: deadline minus now; negative once the deadline is past, infinity without one.
        budget: what the request allowed when it arrived.
        evidence: exits reached so far, oldest first; empty before the first.
        steps: what can run now, in a fixed order; empty at the end of the network. Routers, to depth 0, are only there
            for policies with an attribute `routes` that is true.
        finish_ms: (steps, levels) time from now until that step's exit has answered, one column a quantile level.
        levels: (levels,) the quantile levels of `finish_ms`, ascending, in (0, 1).
        accuracy: (steps,) accuracy expected at that step's exit, in [0, 1]: held out, or on this input, where a router
            said that; 0 of a router.
        queue_length: other requests waiting on the same device.
        load: share of the device that others use, in [0, 1]; None where it isn't known.
        energy_mj: (steps,) energy expected from now until that step's exit; None where it isn't known, and for policies
            that don't say `looks_at_energy`.
        spent_mj: energy that was spent on it so far.
        routed: whether `accuracy` is on this input, as a router said.
    """

    slack_ms: float
    budget: Budget
    evidence: tuple[Evidence, ...]
    steps: tuple[Step, ...]
    finish_ms: FloatArray
    levels: tuple[float, ...]
    accuracy: FloatArray
    queue_length: int = 0
    load: float | None = None
    energy_mj: FloatArray | None = field(default=None)
    spent_mj: float = 0.0
    routed: bool = False


class Stop(StrEnum):
    """Why a request ends with the best answer so far; the value is what the answer's `stopped_by` says."""

    FINAL = "final"  # nothing deeper is left at this width
    TARGET = "target"  # the policy has what it wanted: nothing still reachable is expected to be better
    CONFIDENCE = "confidence"  # this exit is sure enough
    DEADLINE = "deadline"  # no further exit is expected in time
    ENERGY = "energy"  # no further exit is within the energy that is left


class Policy(Protocol):
    """Decides the next step or to stop; the same object runs embedded, in the server and in the simulator.

    `next` returns one of `situation.steps`, or the reason to stop with the best answer so far. Before the first exit
    there is no answer to stop with, so it must return a step. Pure: same situation, same choice, on any thread; about
    20 µs. One that decides by energy has an attribute `looks_at_energy` that is true. One that never looks at `load`
    may have a `looks_at_load` that is false: its first decisions are then made before requests come, and kept. One that
    of `evidence` only looks at which exits were reached may have a `looks_at_answers` that is false: whether it goes on
    from its first exit is then decided before as well. It must not go on with less slack where it stops with more.
    """

    def next(self, situation: Situation) -> Step | Stop: ...
