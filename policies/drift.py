"""Has the early answers' agreement with the full network left the range that calibration found? The alarm that says so.

Page's cumulative sum for a rate: a disagreement adds `up`, an agreement takes 1 away, never below 0, and the alarm
comes at `limit`. It walks on whole numbers, so the chance of a false alarm is worked out exactly, not simulated, and
the limit is the lowest that keeps the chance that was asked for.

References: Page, Continuous Inspection Schemes, Biometrika 1954; Reynolds and Stoumbos, A CUSUM Chart for Monitoring a
Proportion when Inspecting Continuously, Journal of Quality Technology 1999 (the Bernoulli CUSUM as a Markov chain);
Moustakides, Optimal Stopping Times for Detecting Changes in Distributions, Annals of Statistics 1986 (that for the drop
it is made for, nothing with as rare false alarms is quicker in the worst case).
"""

from dataclasses import dataclass, field
from functools import lru_cache
from math import inf, log, log1p
from typing import Literal, NamedTuple

import numpy as np

from .situation import FloatArray


class Chart(NamedTuple):
    """What a disagreement adds where an agreement takes 1 away, and the sum that raises the alarm; whole numbers."""

    up: int
    limit: int


@dataclass(slots=True)
class Drift:
    """Told of each request that ran to the end in the background; raises the alarm once too many disagreed.

    The alarm stays until a new `Drift` is made, as only a new calibration says that thresholds hold again.

    Args:
        agreement: share of early answers that agree with the full network, as calibrated, in (0, 1). Where few samples
            say so: the lower end of its interval, 1 − `highest_rate(disagreed, samples)`, so that chance in the
            calibration isn't taken for drift.
        within: requests in which a drop should be found; the chart is made for the smallest drop that can be, of which
            it finds 5 in 6 by then. With the values given here that is one from 0.99 to 0.94; to 0.93 it finds 93 %, to
            0.9 nearly all, half of them after 55 requests.
        false_alarm: share of streams of `horizon` requests with an alarm though agreement is as calibrated or better,
            at most; in (0, 1).
        horizon: requests.
        tightened: the threshold to use from the alarm on, such as the one certified for a smaller loss; infinity is
            never to stop early.

    Attributes:
        state: "fine" or "alarm".
        told: how many requests it was told of.
        since: of these, those since the sum was last 0: where the drop began, if there is one.
        disagreed: how many of `since` disagreed.

    Raises:
        ValueError: a value is out of range.
    """

    agreement: float
    within: int = 200
    false_alarm: float = 0.05
    horizon: int = 10_000
    tightened: float | tuple[float, ...] = inf
    state: Literal["fine", "alarm"] = field(default="fine", init=False)
    told: int = field(default=0, init=False)
    since: int = field(default=0, init=False)
    disagreed: int = field(default=0, init=False)
    _chart: Chart = field(init=False, repr=False)
    _sum: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, share in (("agreement", self.agreement), ("false_alarm", self.false_alarm)):
            if not 0 < share < 1:
                raise ValueError(f"{name} is {share}; give a share in (0, 1)")
        if not 1 <= self.within <= self.horizon:
            raise ValueError(f"within is {self.within} and horizon {self.horizon}; give 1 <= within <= horizon")
        self._chart = chart_for(1 - self.agreement, self.within, self.false_alarm, self.horizon)

    def tell(self, agreed: bool) -> None:
        """One shadowed request: whether the early answer was the full network's; ignored once there is an alarm."""
        if self.state == "alarm":
            return
        self.told += 1
        self._sum = self._sum - 1 if agreed else self._sum + self._chart.up
        if self._sum <= 0:
            self._sum = self.since = self.disagreed = 0
            return
        self.since += 1
        self.disagreed += not agreed
        if self._sum >= self._chart.limit:
            self.state = "alarm"

    @property
    def threshold(self) -> float | tuple[float, ...] | None:
        """What to tighten to; None while all is fine."""
        return self.tightened if self.state == "alarm" else None

    @property
    def warning(self) -> str | None:
        """One sentence; None while all is fine."""
        if self.state == "fine":
            return None
        usual = self.since * (1 - self.agreement)
        return (
            f"{self.disagreed} of the last {self.since} shadowed requests disagreed with the full network, where "
            f"{usual:.1f} would be usual; inputs aren't like the calibration samples any more"
        )


@lru_cache(maxsize=64)
def chart_for(disagreement: float, within: int, false_alarm: float, horizon: int) -> Chart:
    """The chart that keeps `false_alarm` exactly, made for the smallest drop that `within` requests can show.

    Args:
        disagreement: the usual rate, in (0, 1); at any lower one there are fewer false alarms.
        within, false_alarm, horizon: as in `Drift`.
    """
    worse = _findable_rate(disagreement, log(horizon / false_alarm) / within)
    per_disagreement, per_agreement = log(worse / disagreement), log1p(-disagreement) - log1p(-worse)
    up = max(1, round(per_disagreement / per_agreement))
    low, high = 0, 1
    while alarm_chance(disagreement, Chart(up, high), horizon, false_alarm) > false_alarm:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if alarm_chance(disagreement, Chart(up, middle), horizon, false_alarm) > false_alarm:
            low = middle
        else:
            high = middle
    return Chart(up, high)


def alarm_chance(disagreement: float, chart: Chart, requests: int, enough: float = 1.0) -> float:
    """Probability of an alarm within so many requests from a sum of 0 on, exactly, or any number above `enough`.

    At the usual rate this is the chance of a false alarm; at a higher one that the drop is found in time.
    """
    up, limit = chart
    at: FloatArray = np.zeros(limit)  # probability of each sum, without those that raised the alarm
    at[0] = 1.0
    for _ in range(requests):
        after = np.append((1 - disagreement) * at[1:], 0.0)
        after[0] += (1 - disagreement) * at[0]
        after[up:] += disagreement * at[: max(limit - up, 0)]
        at = after
        if enough < 1 and 1 - at.sum() > enough:
            break
    return max(0.0, 1 - float(at.sum()))


def _findable_rate(disagreement: float, per_request: float) -> float:
    """The rate at which a request tells `per_request` nats in the mean against the usual rate, or nearly 1."""
    low, high = disagreement, 1 - 1e-9
    for _ in range(60):
        middle = (low + high) / 2
        told = middle * log(middle / disagreement) + (1 - middle) * (log1p(-middle) - log1p(-disagreement))
        low, high = (middle, high) if told < per_request else (low, middle)
    return high
