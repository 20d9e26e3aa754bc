"""What a session offers its requests: the menus for any number of samples, less what its engine failed at."""

import logging
from functools import lru_cache, partial
from math import inf
from threading import Lock, Thread
from typing import NamedTuple

from ..policies.situation import OperatingPoint, Step
from .engines import Engine
from .manifest import Manifest
from .menu import Menu, Menus, legs, make_menus, ways
from .profile import Profile

log = logging.getLogger(__name__)


class Failures(NamedTuple):
    """Of the engine at one point. `reason`: the last one's."""

    times: int
    reason: str


class Offers:
    """Made once for a session, used from any thread.

    `failures`: by point, how often the engine failed there and its last error; a point is off the menus from its first.
    The steps from exit to exit are taken to be loaded.

    Args:
        whole: also offer what isn't worth it, see `menu.worthwhile`.
    """

    def __init__(self, name: str, manifest: Manifest, profile: Profile, engine: Engine, whole: bool):
        self._name, self._manifest, self._profile, self._engine, self._whole = name, manifest, profile, engine, whole
        self.failures: dict[OperatingPoint, Failures] = {}
        self._failing = Lock()
        self._loaded = {step for way in ways(manifest) for step in legs(manifest, *way)}
        self._loading: set[Step] = set()
        self._renew()

    def without(self, point: OperatingPoint, error: BaseException, samples: int) -> Menus:
        """The menus from now on, as the engine failed at a point; the first time that is logged."""
        with self._failing:
            known = self.failures.get(point)
            times = known.times + 1 if known else 1
            self.failures = {**self.failures, point: Failures(times, str(error))}  # readers see the one or the other
            if known is None:
                log.error("%s: %s fails at %s, which is off the menu: %s", self._name, self._engine.name, point, error)
                self._renew()
        return self.menus(samples)

    def say_failures(self) -> str:
        """For an error that they caused."""
        points = "; ".join(f"{point}: {failures.reason}" for point, failures in self.failures.items())
        return f"engine {self._engine.name!r} of {self._name} failed at {points}"

    def ready(self, menu: Menu, step: Step, deadline: float) -> Step:
        """The step itself, or only its first leg while its graph isn't loaded and there is a deadline to keep.

        The graph is then loaded beside the request, for those to come.
        """
        if step in self._loaded:
            return step
        leg = menu.leg(step)
        if leg == step or deadline == inf:  # there is no shorter way, or time enough
            self._loaded.add(step)
            return step
        if step not in self._loading:
            self._loading.add(step)
            Thread(target=self._load, args=(step,), name=f"stretto-load-{self._name}", daemon=True).start()
        return leg

    def _load(self, step: Step) -> None:
        try:
            self._engine.load(step)
        except Exception as error:  # also of an engine that was closed meanwhile
            log.warning(
                "%s: %s can't load %s, which is run exit by exit: %s", self._name, self._engine.name, step, error
            )
        else:
            self._loaded.add(step)

    def _renew(self) -> None:
        self.menus = lru_cache(maxsize=64)(partial(self._make, frozenset(self.failures)))

    def _make(self, failed: frozenset[OperatingPoint], samples: int) -> Menus:
        idle_ms = partial(self._profile.finish_ms, batch=samples)
        return make_menus(self._manifest, self._profile.levels, idle_ms, failed, self._whole)
