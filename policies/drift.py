"""Are inputs still like those that thresholds were calibrated on? The alarm that says when they aren't."""

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from .cusum import Watch


@dataclass(slots=True)
class Drift:
    """Watches two rates, each against its calibrated range, and raises the alarm when one has left it.

    How often early answers agree with the full network is what was promised, and is known of shadowed requests alone.
    How many requests stop early is known of all of them, and moves far more when inputs are blurred or noised: sure
    exits become rare long before they become wrong. (A trial on 32-pixel photos, thresholds certified for 2 %: a blur
    of 3 × 3 pixels took agreement from 98.8 to 98.1 %, and those that stopped early from 73 to 44 %.)

    The alarm stays until a new `Drift` is made, as only a new calibration says that thresholds hold again.

    Args:
        agreement: the least share of early answers that agree with the full network, in (0, 1). Where a calibration
            says so: the lower end of its interval, 1 − `highest_rate(disagreed, samples)`, so that chance in the
            calibration isn't taken for drift.
        early: the least and the largest share of requests that stop before the final exit, each in [0, 1], where 0 is
            never too few and 1 never too many; None to watch agreement alone.
        within: requests in which a change should be found; made for the smallest change that can be. With the values
            given here, and agreement alone, a drop from 0.99 to 0.93 is found by then in 93 of 100 streams, to 0.9 in
            nearly all, in half of them after 55.
        false_alarm: share of streams of `horizon` requests with an alarm though both rates are in range, at most; in
            (0, 1).
        horizon: shadowed requests.
        early_horizon: the same of all requests that early stops are told of, which are many more.
        tightened: the threshold to use from the alarm on, such as the one certified for a smaller loss; infinity is
            never to stop early.

    Raises:
        ValueError: a value is out of range.
    """

    agreement: float
    early: tuple[float, float] | None = None
    within: int = 200
    false_alarm: float = 0.05
    horizon: int = 10_000
    early_horizon: int = 10_000
    tightened: float | tuple[float, ...] = inf
    _disagreed: Watch = field(init=False, repr=False)
    _early: Watch | None = field(default=None, init=False, repr=False)
    _late: Watch | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        least, most = self.early or (0.0, 1.0)
        if not (0 < self.agreement < 1 and 0 <= least <= most <= 1):
            raise ValueError(
                f"agreement is {self.agreement} and early {self.early}; give a share in (0, 1), and a range in [0, 1]"
            )
        self._disagreed = self._watch(1 - self.agreement, self.horizon)
        if most < 1:
            self._early = self._watch(most, self.early_horizon)
        if least > 0:
            self._late = self._watch(1 - least, self.early_horizon)

    def tell_agreed(self, agreed: bool) -> None:
        """One request that ran to the end in the background: whether the early answer was the full network's."""
        self._disagreed.tell(not agreed)

    def tell_early(self, early: bool | None) -> None:
        """One request: whether its rule ended it before the final exit; None: something else did, such as a deadline.

        The latter are to be told too. Were they left out, as many of those that would have gone on are, the share of
        early ones among the rest would rise with nothing wrong; so they count, but neither as early nor as late.
        """
        if self._early:
            self._early.tell(early is True)
        if self._late:
            self._late.tell(early is False)

    @property
    def state(self) -> Literal["fine", "alarm"]:
        """Whether an alarm was raised."""
        return "alarm" if any(watch is not None and watch.alarm for watch in self.watches) else "fine"

    @property
    def threshold(self) -> float | tuple[float, ...] | None:
        """What to tighten to; None while all is fine."""
        return self.tightened if self.state == "alarm" else None

    @property
    def warning(self) -> str | None:
        """One sentence; None while all is fine."""
        found = [
            f"{watch.events} of the last {watch.since} {what}, where {watch.since * watch.usual:.1f} would be usual"
            for watch, what in zip(self.watches, _WHAT, strict=True)
            if watch is not None and watch.alarm
        ]
        return f"inputs aren't like the calibration samples any more: {'; '.join(found)}" if found else None

    @property
    def watches(self) -> tuple[Watch, Watch | None, Watch | None]:
        """Of requests that disagree, that stop early, and that don't; None where none is looked at."""
        return self._disagreed, self._early, self._late

    def _watch(self, usual: float, horizon: int) -> Watch:
        """The false alarms allowed are shared among all."""
        return Watch(usual, self.within, self.false_alarm / (3 if self.early else 1), horizon)


_WHAT = (
    "shadowed requests disagreed with the full network",
    "requests stopped early",
    "requests went on to the final exit",
)
