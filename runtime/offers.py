"""What a session offers its requests: the menus for any number of samples, less what its engine failed at."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from threading import Lock
from typing import NamedTuple

from ..policies.situation import FloatArray, OperatingPoint, Step
from .engines import Engine
from .manifest import Manifest
from .menu import Menu, Menus
from .outline import Outline
from .profile import Profile
from .steps import routers

log = logging.getLogger(__name__)


class Failures(NamedTuple):
    """Of the engine at one point. `reason`: the last one's; `samples`: the fewest that it failed with."""

    times: int
    reason: str
    samples: int


class Offers:
    """Made once for a session, used from any thread.

    `failures`: by point, how often the engine failed there and its last error; a point is off the menus of as many
    samples, and more, from its first: what had no room for a hundred may well answer one.

    Args:
        fixed: requests go to one point always, so that is offered whatever it is worth.
        first: where they go first and then may start again at a greater width, as `Outline` has it.
        routed: what a router's answer is of, where they may go through one.
    """

    def __init__(
        self,
        name: str,
        manifest: Manifest,
        profile: Profile,
        engine: Engine,
        fixed: bool,
        first: OperatingPoint | None = None,
        routed: Sequence[OperatingPoint] = (),
    ):
        self._name, self._manifest, self._profile, self._engine = name, manifest, profile, engine
        self.fixed, self._first, self._routed = fixed, first, routed
        self._median = profile.levels.index(0.5)
        self.failures: dict[OperatingPoint, Failures] = {}
        self._failing = Lock()
        self._whole: frozenset[Step] = frozenset()
        self._outlined = lru_cache(maxsize=64)(self._outline)
        self._renew()

    def without(self, point: OperatingPoint, error: BaseException, samples: int) -> Menus:
        """The menus from now on, as the engine failed at a point; the first time that is logged."""
        with self._failing:
            known = self.failures.get(point, Failures(0, "", samples + 1))
            now = Failures(known.times + 1, str(error), min(known.samples, samples))
            self.failures = {**self.failures, point: now}  # readers see the one or the other
            if samples < known.samples:
                said = self._name, self._engine.name, point, samples, error
                log.error("%s: %s fails at %s, which is off the menu from %d samples on: %s", *said)
                self._renew()
        return self.menus(samples)

    def say_failures(self) -> str:
        """For an error that they caused."""
        points = "; ".join(f"{point}: {failures.reason}" for point, failures in self.failures.items())
        return f"engine {self._engine.name!r} of {self._name} failed at {points}"

    def parts(self, menu: Menu, step: Step) -> tuple[Step, ...]:
        """What to run for a step of the menu: it alone where its graph is loaded, or else its legs."""
        return (step,) if step in self._whole else menu.legs[step]

    @property
    def routers(self) -> tuple[Step, ...]:
        """What requests may begin with, that answers nothing."""
        return routers(self._manifest) if self._routed else ()

    def targets(self) -> tuple[Step, ...]:
        """What one sample may be headed for from the start or a router, by any policy but a fixed one; to be loaded."""
        outline, times = self._outlined(frozenset())
        return outline.targets(times(1), self._median)

    def load(self, steps: Iterable[Step]) -> None:
        """Gets graphs that go to their exits in one, without a look at the clock; they hold all their weights anew."""
        for step in steps:
            self._engine.load(step)
        self._whole |= frozenset(steps)
        self._outlined.cache_clear()
        self._renew()

    def _renew(self) -> None:
        self.menus = lru_cache(maxsize=64)(partial(self._make, self.failures))

    def _make(self, failures: dict[OperatingPoint, Failures], samples: int) -> Menus:
        failed = frozenset(point for point, of in failures.items() if of.samples <= samples)
        outline, times = self._outlined(failed)
        profile = self._profile
        watts, answer_ms = profile.power.watts / samples, profile.answer_ms(samples)
        return outline.menus(times(samples), self._median, self.fixed, watts, answer_ms)

    def _outline(self, failed: frozenset[OperatingPoint]) -> tuple[Outline, Callable[[int], FloatArray]]:
        """What is left without those points, and what gives its times."""
        outline = Outline(self._manifest, failed, self._whole, self._first, self._routed)
        return outline, self._profile.idle_times(outline.steps)
