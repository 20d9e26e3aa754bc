"""Routing: a router on the stem says of every operating point how likely it is right on this input, before the rest.

References: Li et al., Dynamic Slimmable Network, CVPR 2021, whose gate chooses the width of each input by its first
features; Bolukbasi et al., Adaptive Neural Networks for Efficient Inference, ICML 2017.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from .alert import Alert
from .exits import Rule
from .heading import Heading
from .situation import Situation, Step, Stop


@dataclass(frozen=True, slots=True)
class Route:
    """Runs the router first, then heads for the soonest exit that is as likely right on this input as is `enough`.

    What the router says is in `Situation.accuracy` from then on, so `then` decides as ever, for this input instead of
    for all. Where no exit is as likely right, it is the likeliest one in time.

    A router is run in one precision, and so is what follows it: that whose most accurate exit is soonest. Where there
    isn't time for both the router and the soonest exit, by their highest quantiles, nothing is routed, and `then`
    decides by what exits are like for all inputs. It also goes without where nothing offers a router.

    Args:
        enough: `min_accuracy` of budgets that say none, in (0, 1].
        then: decides everything else.
    """

    looks_at_load: ClassVar[bool] = False  # but through the times that are predicted
    routes: ClassVar[bool] = True
    enough: float = 0.9
    then: Heading = field(default_factory=Alert)

    def __post_init__(self) -> None:
        if not 0 < self.enough <= 1:
            raise ValueError(f"enough is {self.enough}; say how likely right an answer must be, in (0, 1]")

    @property
    def rule(self) -> Rule | None:
        """What may stop at an exit."""
        return self.then.rule

    def next(self, situation: Situation) -> Step | Stop:
        """As of `then`, or the router."""
        looks = [step for step in situation.steps if not step.depth]
        if not looks:
            return self.then.next(_with_budget(situation, self.enough) if situation.routed else situation)
        latest_ms, rest = situation.finish_ms[:, -1].tolist(), _exits_of(situation, None)
        ways = []
        for look in looks:
            mine = _exits_of(situation, look.precision)
            if not mine:  # the engine failed at all of them
                continue
            best = max(mine, key=lambda at: (situation.accuracy[at], -latest_ms[at]))
            before_ms = latest_ms[situation.steps.index(look)] + self.then.margin_ms
            if before_ms + min(latest_ms[at] for at in mine) <= situation.slack_ms:
                ways.append((before_ms + latest_ms[best], look))
        return min(ways)[1] if ways else self.then.next(_only(situation, rest))


def routes(policy: object) -> bool:
    """Whether a policy wants to be offered routers."""
    return bool(getattr(policy, "routes", False))


def _exits_of(situation: Situation, precision: str | None) -> list[int]:
    """The places of the steps to exits, in one precision or in any."""
    steps = enumerate(situation.steps)
    return [at for at, step in steps if step.depth and precision in (None, step.precision)]


def _with_budget(situation: Situation, enough: float) -> Situation:
    if situation.budget.min_accuracy is not None:
        return situation
    return replace(situation, budget=replace(situation.budget, min_accuracy=enough))


def _only(situation: Situation, places: list[int]) -> Situation:
    """With the steps at these places alone."""
    at = np.array(places, np.intp)
    energy_mj = None if situation.energy_mj is None else situation.energy_mj[at]
    return replace(
        situation,
        steps=tuple([situation.steps[place] for place in places]),
        finish_ms=situation.finish_ms[at],
        accuracy=situation.accuracy[at],
        energy_mj=energy_mj,
    )
