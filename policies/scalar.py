"""ALERT's filter: one number says how much longer than on the idle device everything takes now."""

from dataclasses import dataclass, field
from math import sqrt
from statistics import NormalDist
from typing import ClassVar

import numpy as np

from .latency import IntArray, Ran, TimeModel
from .load import Load
from .situation import FloatArray

_KEPT = 64  # answers since the last observation, beside the times that were asked about


@dataclass(slots=True)
class ScalarFilter(TimeModel):
    """Slowdown ξ = observed / profiled time as a normal distribution, followed by a Kalman filter.

    With t the profiled median, after every step that ran:

        Q ← max(Q0, α Q + (1 − α) (K y)²)    P ← (1 − K) s + Q    K ← P / (P + R)
        y ← time / t − μ                      μ ← μ + K y          s ← P

    and a step takes N(μ t, (s + R) t²): s is the variance of the state, the next observation has R more. The paper's
    prediction leaves R out (`with_noise=False`). Neither `ran_ms` nor the load is looked at.

    Args:
        start_gain: K at first.
        noise: R, variance of an observation.
        least_drift: Q0, the least variance by which the state drifts.
        memory: α, of the drift's own average.
        slowdown, variance: μ and s at first.
        median: the place of 0.5 among the profile's levels.

    Reference: Wan et al., ALERT, USENIX ATC 2020, 3.2; adaptive Q of Akhlaghi et al., 2017.
    """

    start_gain: float = 0.5
    noise: float = 0.001
    least_drift: float = 0.1
    memory: float = 0.3
    slowdown: float = 1.0
    variance: float = 0.1
    with_noise: bool = True
    looks_at_load: ClassVar[bool] = False
    levels: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
    median: int = 0
    _drift: float = field(init=False, repr=False)
    _gain: float = field(init=False, repr=False)
    _error: float = field(init=False, repr=False, default=0.0)
    _deviations: FloatArray = field(init=False, repr=False)
    _said: dict[int, tuple[FloatArray, FloatArray]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._drift, self._gain = self.least_drift, self.start_gain
        self._deviations = np.array([NormalDist().inv_cdf(level) for level in self.levels])

    def finish_ms(self, idle_ms: FloatArray, ran_ms: float, load: Load, legs: IntArray | None = None) -> FloatArray:
        """Normal quantiles, cut off at a tenth of the profiled time; not to be changed."""
        known = self._said.get(id(idle_ms))
        if known is not None and known[0] is idle_ms:
            return known[1]
        spread = sqrt(self.variance + self.noise * self.with_noise)
        slowdowns = np.maximum(self.slowdown + spread * self._deviations, 0.1)
        said = np.outer(idle_ms[:, self.median], slowdowns)
        if len(self._said) >= _KEPT:
            self._said.clear()
        self._said[id(idle_ms)] = idle_ms, said
        return said

    def observe(self, ran: Ran) -> None:
        """One step of the filter; a whole path isn't one more, and a cut-off step only counts if it took too long."""
        ratio = ran.wall_ms / float(ran.idle_ms[self.median])
        if ran.whole_path or (ran.cut_off and ratio <= self.slowdown):
            return
        self._said.clear()
        self._drift = max(
            self.least_drift, self.memory * self._drift + (1 - self.memory) * (self._gain * self._error) ** 2
        )
        predicted = (1 - self._gain) * self.variance + self._drift
        self._gain = predicted / (predicted + self.noise)
        self._error = ratio - self.slowdown
        self.slowdown += self._gain * self._error
        self.variance = predicted
