"""Has a rate risen above what is usual? Page's cumulative sum, whose false alarms are worked out exactly.

An event adds `up`, its absence takes `down` away, never below 0, and the alarm comes at `limit`. The sum walks on whole
numbers, a Markov chain, so the chance of a false alarm needs no simulation, and the limit is the lowest that keeps the
chance that was asked for. After some hundred trials the sums are spread as they then stay, and each further trial has
the same chance of an alarm, so that a million trials take no longer than a thousand.

References: Page, Continuous Inspection Schemes, Biometrika 1954; Reynolds and Stoumbos, A CUSUM Chart for Monitoring a
Proportion when Inspecting Continuously, Journal of Quality Technology 1999 (the Bernoulli CUSUM as a Markov chain);
Moustakides, Optimal Stopping Times for Detecting Changes in Distributions, Annals of Statistics 1986 (that for the rise
it is made for, nothing with as rare false alarms is quicker in the worst case).
"""

from dataclasses import dataclass, field
from functools import lru_cache
from math import log, log1p
from typing import NamedTuple

import numpy as np

from .situation import FloatArray

_LOOK = 100  # trials between two looks at whether the chance of a trial has settled
_SETTLED = 1e-6  # share by which it may differ from one look to the next
_GRAIN = 10  # the larger of `up` and `down` is at least about this, so that rounding leaves their ratio nearly as it is


class Chart(NamedTuple):
    """What an event adds, what its absence takes away, and the sum that raises the alarm; whole numbers."""

    up: int
    down: int
    limit: int


@dataclass(slots=True)
class Watch:
    """Told of each trial whether the event was there; raises the alarm once there are too many, and keeps it.

    Args:
        usual: rate of the event up to which all is fine, in (0, 1).
        within, false_alarm, horizon: as in `chart_for`.

    Attributes:
        alarm: whether there was one.
        since: trials since the sum was last 0: where the rise began, if there is one.
        events: how many of these had the event.
        chart: what each trial adds or takes away.
    """

    usual: float
    within: int
    false_alarm: float
    horizon: int
    alarm: bool = field(default=False, init=False)
    since: int = field(default=0, init=False)
    events: int = field(default=0, init=False)
    chart: Chart = field(init=False, repr=False)
    _sum: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self.chart = chart_for(self.usual, self.within, self.false_alarm, self.horizon)

    def tell(self, event: bool) -> None:
        """One trial; ignored once there is an alarm."""
        if self.alarm:
            return
        up, down, limit = self.chart
        self._sum += up if event else -down
        if self._sum <= 0:
            self._sum = self.since = self.events = 0
            return
        self.since += 1
        self.events += event
        self.alarm = self._sum >= limit


@lru_cache(maxsize=64)
def chart_for(usual: float, within: int, false_alarm: float, horizon: int) -> Chart:
    """The chart that keeps `false_alarm`, made for the smallest rise that `within` trials can show; takes a while.

    Args:
        usual: rate of the event, in (0, 1); at any lower one there are fewer false alarms.
        within: trials, at most `horizon`; of the rises that it is made for, it finds 5 in 6 by then.
        false_alarm: probability of an alarm within `horizon` trials at the usual rate, at most; in (0, 1).

    Raises:
        ValueError: a value is out of range.
    """
    for name, share in (("usual rate", usual), ("false_alarm", false_alarm)):
        if not 0 < share < 1:
            raise ValueError(f"{name} is {share}; give a share in (0, 1)")
    if not 1 <= within <= horizon:
        raise ValueError(f"within is {within} and horizon {horizon}; give 1 <= within <= horizon")
    up, down = _steps(usual, _findable_rate(usual, log(horizon / false_alarm) / within))
    low, high = 0, 1
    while alarm_chance(usual, Chart(up, down, high), horizon, false_alarm) > false_alarm:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if alarm_chance(usual, Chart(up, down, middle), horizon, false_alarm) > false_alarm:
            low = middle
        else:
            high = middle
    return Chart(up, down, high)


def alarm_chance(rate: float, chart: Chart, trials: int, enough: float = 1.0) -> float:
    """Probability of an alarm within so many trials from a sum of 0 on, or any number above `enough`.

    At the usual rate this is the chance of a false alarm; at a higher one that the rise is found in time. It is exact
    but for what `_SETTLED` allows.
    """
    up, down, limit = chart
    rise, fall = min(up, limit), min(down, limit)
    at: FloatArray = np.zeros(limit)  # probability of each sum, without those that raised the alarm
    at[0] = 1.0
    before = 0.0
    for trial in range(1, trials + 1):
        after = np.zeros(limit)
        after[: limit - fall] = (1 - rate) * at[fall:]
        after[0] += (1 - rate) * at[:fall].sum()
        after[rise:] += rate * at[: limit - rise]
        at = after
        if trial % _LOOK == 0:
            left = float(at.sum())
            # not from what is left before and after a trial, which hardly differ
            chance = rate * float(at[limit - rise :].sum()) / left if left else 0.0
            if 1 - left > enough:
                break
            if chance > 0 and abs(chance - before) <= _SETTLED * chance:
                return max(0.0, 1 - left * (1 - chance) ** (trials - trial))
            before = chance
    return max(0.0, 1 - float(at.sum()))


def _steps(usual: float, risen: float) -> tuple[int, int]:
    """Up and down in the ratio of the two rates' log likelihoods."""
    up, down = log(risen / usual), log1p(-usual) - log1p(-risen)
    scale = max(1 / min(up, down), _GRAIN / max(up, down))
    return round(scale * up), round(scale * down)


def _findable_rate(usual: float, per_trial: float) -> float:
    """The rate at which a trial tells `per_trial` nats in the mean against the usual rate, or nearly 1."""
    low, high = usual, 1 - 1e-9
    for _ in range(60):
        middle = (low + high) / 2
        told = middle * log(middle / usual) + (1 - middle) * (log1p(-middle) - log1p(-usual))
        low, high = (middle, high) if told < per_trial else (low, middle)
    return high
