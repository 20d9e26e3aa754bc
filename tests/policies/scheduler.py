"""A processor that others want too, in simulated time: slices, turns, slowdown; and a runtime that asks and tells."""

import random
from dataclasses import dataclass, field

import numpy as np
from stretto.policies.latency import Ran, TimeModel, catch_up
from stretto.policies.load import UNKNOWN, Load
from stretto.policies.situation import Step


@dataclass
class Machine:
    """Runs requests that slept before: a slice undisturbed, then turns of the others on this core, then a slice, …

    `crowd`: other tasks per core that always want to run; `slowdown`: of a step's own time, with `jitter` around it;
    `wait_ms`: that most steps wait for another thread of this process, which no load tells of.
    """

    crowd: float = 0.0
    slowdown: float = 1.0
    jitter: float = 0.04
    slice_ms: float = 2.8
    turn_ms: float = 4.0
    wait_ms: float = 0.0
    cores: float = 2.0
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    @property
    def load(self) -> Load:
        return Load(others=self.crowd * self.cores, cores=self.cores)

    def request(self, own_ms: list[float]) -> list[tuple[float, float, float]]:
        """For each of the steps, which take this long on the idle device: processor time before it, of it, wall."""
        used_ms, until_ms, ran = 0.0, self._slice(), []
        for idle_ms in own_ms:
            cpu_ms = wall_ms = idle_ms * self.slowdown * self.rng.lognormvariate(0, self.jitter)
            if self.wait_ms and self.rng.random() < 0.9:
                wall_ms += self.wait_ms * self.rng.uniform(0.95, 1.1)
            while used_ms + cpu_ms > until_ms:
                wall_ms += self._turns()
                until_ms += self._slice()
            ran.append((used_ms, cpu_ms, wall_ms))
            used_ms += cpu_ms
        return ran

    def _slice(self) -> float:
        return self.slice_ms * self.rng.uniform(0.85, 1.15)

    def _turns(self) -> float:
        """Of whoever wants this core just now."""
        turns = int(self.crowd) + (self.rng.random() < self.crowd % 1)
        return sum(self.turn_ms * self.rng.uniform(0.9, 1.1) for _ in range(turns))


@dataclass
class Runtime:
    """Asks a model before every step and every request, and tells it of both; `sees`: whether it knows the load."""

    model: TimeModel
    machine: Machine
    own_ms: list[float]
    sees: bool = True

    def __post_init__(self) -> None:
        ends = np.cumsum(self.own_ms)
        self.steps = [Step(at + 1 if at else 0, at + 1, 1.0) for at in range(len(ends))]

    @property
    def load(self) -> Load:
        return self.machine.load if self.sees else UNKNOWN

    def predict(self, own_ms: float, ran_ms: float = 0.0, legs: int = 1) -> np.ndarray:
        """(levels,) for a step that takes this long on the idle device, in the median."""
        return self.model.finish_ms(profiled(own_ms), ran_ms, self.load, np.array([legs]))[0]

    def tell(self, ran: Ran) -> None:
        """To the model, which learns from it at once."""
        self.model.observe(ran)
        catch_up(self.model)

    def request(self) -> list[Ran]:
        """One request: what the model was told of its steps, and last of all of them as one."""
        whole_ms, told = self.predict(sum(self.own_ms), legs=len(self.own_ms)), []
        for step, own_ms, times in zip(self.steps, self.own_ms, self.machine.request(self.own_ms), strict=True):
            ran_ms, cpu_ms, wall_ms = times
            predicted_ms = self.predict(own_ms, ran_ms)
            told.append(Ran(step, profiled(own_ms)[0], ran_ms, cpu_ms, wall_ms, self.load, predicted_ms=predicted_ms))
            self.tell(told[-1])
        last, wall_ms = told[-1], sum(ran.wall_ms for ran in told)
        cpu_ms = sum(ran.cpu_ms for ran in told)
        whole = last._replace(idle_ms=profiled(sum(self.own_ms))[0], ran_ms=0.0, cpu_ms=cpu_ms, wall_ms=wall_ms)
        whole = whole._replace(step=Step(0, last.step.depth, 1.0), predicted_ms=whole_ms, whole_path=True)
        told.append(whole._replace(graphs=len(self.own_ms)))
        self.tell(told[-1])
        return told

    def requests(self, count: int) -> list[list[Ran]]:
        return [self.request() for _ in range(count)]


def profiled(own_ms: float) -> np.ndarray:
    """(1, levels) of an idle device: 0.5, 0.9, 0.95, 0.99."""
    return own_ms * np.array([[1.0, 1.04, 1.06, 1.1]])


def share_in_time(told: list[Ran]) -> float:
    """Share that took at most the highest level predicted."""
    return float(np.mean([ran.wall_ms <= ran.predicted_ms[-1] for ran in told]))
