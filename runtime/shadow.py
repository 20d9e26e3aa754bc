"""Are answers still what calibration promised? Some are compared with the full network's, in the background.

It is told of every sample whose way has certified thresholds, and looks at two rates, see `policies.drift`: how many
stop early, and how many answer as the full fp32 network does. The latter needs that network to run, so it is looked at
for a small share of them, when the machine is idle.
"""

import logging
from collections import deque
from dataclasses import dataclass, field, is_dataclass, replace
from random import Random
from threading import Event
from typing import NamedTuple

from ..policies.binomial import highest_rate
from ..policies.drift import Drift
from ..policies.exits import Rule, RulePerWay
from ..policies.load import Load
from ..policies.situation import OperatingPoint, Policy, Stop
from .certified import certified_rule
from .inputs import Samples
from .manifest import Certified, CertifiedWay, Manifest
from .runner import Runner
from .stand import Reached
from .steps import legs
from .worker import Worker

Rules = dict[tuple[float, str], Rule]  # by width and precision

SHARE = 0.01  # of samples, unless told
HORIZON = 10_000  # compared samples in which one of 20 streams at most raises a false alarm
_TOLD_EVERY = 256  # samples, where none is compared before; waking the thread costs a request 40 µs or its core
_KEPT = 1024  # samples that it wasn't told of, at most
_WAITING = 4  # inputs that are kept until the machine is idle, at most
_PAUSE_S = 0.002  # so that the request that has just ended is with its caller
_AGAIN_S = 0.05  # until it is looked again whether the machine is idle: the sensors' period
_LOOKS = 20  # at most, for one input
_IDLE = 0.25  # tasks of others that run or want to, for each core: those of the lowest class of load in the time model
_EARLY: dict[Stop | None, bool] = {Stop.CONFIDENCE: True, Stop.FINAL: False}  # else it wasn't the rule alone

log = logging.getLogger(__name__)


def own_rules(policy: Policy, manifest: Manifest) -> tuple[Policy, Rules | None]:
    """A policy that stops as the bundle's certificate says: the same with rules that nobody else has, and these.

    Any other policy as it is, and None.
    """
    rule, certified = getattr(policy, "confidence", None), manifest.certified
    if certified is None or not isinstance(rule, RulePerWay) or not is_dataclass(policy):
        return policy, None
    if rule != certified_rule(certified):
        return policy, None
    rules = dict(rule.rules)
    return replace(policy, confidence=replace(rule, rules=rules)), rules


def shadow_for(name: str, runner: Runner, manifest: Manifest, rules: Rules | None, share: float) -> "Shadow | None":
    """Who watches over these rules of the runner's policy; None where there are none, or nothing to compare with.

    Raises:
        ValueError: `share` isn't in [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"shadow is {share}; give a share of requests in [0, 1], 0 for none")
    if rules is None or manifest.certified is None or "fp32" not in manifest.precisions or not share:
        return None
    return Shadow(name, runner, manifest, manifest.certified, rules, share)


def is_idle(load: Load) -> bool:
    """Whether hardly anybody else wants to run, as far as is known."""
    if load.throttled:
        return False
    if load.others is not None and load.machine_cores:
        return load.others <= _IDLE * load.machine_cores
    return (load.busy or 0.0) <= _IDLE


def drift_of(way: CertifiedWay, samples: int, share: float) -> Drift:
    """What is usual there, as far as so many calibration samples tell; takes a while.

    `share`: of the requests, those that are compared.
    """
    early, disagreed = round(way.early * samples), round((1 - way.agreement) * samples)
    return Drift(
        1 - highest_rate(disagreed, samples),
        early=(1 - highest_rate(samples - early, samples), highest_rate(early, samples)),
        horizon=HORIZON,
        early_horizon=round(HORIZON / share),
    )


@dataclass(slots=True)
class Watched:
    """A width and precision. `early`: of samples that `drift` wasn't told of; it is made when there are some."""

    way: CertifiedWay
    early: deque[bool | None] = field(default_factory=lambda: deque(maxlen=_KEPT))
    drift: Drift | None = None


class Sample(NamedTuple):
    """What is to be compared.

    Args:
        at: where it was answered.
        top: its label's number.
        x: (1, …) input; None where the answer is known to do no harm: the full network's own, or not the rule's.
        counts: whether its rule alone ended it.
    """

    at: Watched
    top: int
    x: Samples | None
    counts: bool


class Shadow:
    """For one session. `drift`: why thresholds don't hold any more, once the alarm was raised.

    From then on nothing stops early, at any width, as the inputs aren't what thresholds were certified for; that stays
    until the session is loaded anew.

    Its thread starts with the first samples, and is the one owner of all but what `told` changes.

    Args:
        rules: of the runner's policy, taken away at an alarm: a request under way finds none at its next exit.
        share: of the samples, those that are compared, in (0, 1]: one in each block of so many, at a random place.
    """

    def __init__(
        self,
        name: str,
        runner: Runner,
        manifest: Manifest,
        certified: Certified,
        rules: Rules,
        share: float = SHARE,
        seed: int = 0,
    ):
        self.drift: str | None = None
        self._compared = self._agreed = 0
        self._name, self._runner, self._rules, self._share = name, runner, rules, share
        self._samples_calibrated = certified.samples
        width = manifest.widths[-1]
        self._full, self._legs = OperatingPoint(width, manifest.depths), legs(manifest, width, "fp32")
        self._watched = [Watched(way) for way in certified.ways if way.threshold is not None]
        self._at = {
            OperatingPoint(watched.way.width, depth, watched.way.precision): watched
            for watched in self._watched
            for depth in range(1, manifest.depths + 1)
        }
        self._places, self._blocks = Random(seed), 0
        self._told, self._due = 0, self._next_due()
        self._waiting: deque[Sample] = deque(maxlen=_WAITING)
        self._worker, self._closing = Worker(f"stretto-shadow-{name.removesuffix('.stretto')}"), Event()
        self._is_awake = self._has_failed = False

    def told(self, x: Samples, reached: Reached, stopped_by: Stop | None, at: int = 0) -> None:
        """From any thread, as in `Shadowing`; a count that is missed now and then does no harm."""
        watched = self._at.get(reached[-1].point) if reached else None
        if watched is None:
            return
        early = _EARLY.get(stopped_by)
        watched.early.append(early)
        self._told = told = self._told + 1
        if told >= self._due:
            self._due = self._next_due()
            point, top = reached[-1].point, reached[-1].top
            is_known = early is None or point == self._full
            copy = None if is_known else x[at : at + 1].copy()
            self._waiting.append(Sample(watched, top, copy, counts=early is not None))
            self._wake()
        elif told % _TOLD_EVERY == 0:
            self._wake()

    @property
    def found(self) -> tuple[int, int, str | None]:
        """How many samples were compared, how many of them agreed, and `drift`."""
        return self._compared, self._agreed, self.drift

    def close(self, timeout_s: float = 1.0) -> bool:
        """Whether its thread ended in time; what waits is dropped."""
        self._closing.set()
        self._runner.shadow = None  # a runner that held whoever holds it would wait for the collector
        return self._worker.close(timeout_s)

    def catch_up(self) -> None:
        """Looks at all that it was told; for its thread. What fails is logged once, and left out."""
        try:
            self._look_at_early()
            while self._waiting and not self._is_over():
                self._compare(self._waiting.popleft())
        except Exception:
            if not (self._has_failed or self._closing.is_set()):
                log.exception("%s: comparing an answer with the full network's failed; said this once", self._name)
            self._has_failed = True

    def _next_due(self) -> int:
        """The number of the sample to be compared next."""
        self._blocks += 1
        return int((self._blocks - 1 + self._places.random()) / self._share) + 1

    def _wake(self) -> None:
        if not self._is_awake:
            self._is_awake = True
            self._worker.put(self._work)

    def _work(self, awake_cpu_s: float) -> None:
        self._closing.wait(_PAUSE_S)
        self._is_awake = False  # what ends from now on may come too late for this turn
        self.catch_up()

    def _is_over(self) -> bool:
        return self.drift is not None or self._closing.is_set()

    def _look_at_early(self) -> None:
        for watched in self._watched:
            while watched.early and not self._is_over():
                drift = self._drift_at(watched)
                drift.tell_early(watched.early.popleft())
                self._heed(watched, drift)

    def _compare(self, sample: Sample) -> None:
        """Once the machine is idle; dropped where that takes too long."""
        for _ in range(_LOOKS):
            if not self._runner.running and is_idle(self._runner.sensors.now):
                agreed = True if sample.x is None else self._agrees(sample.x, sample.top)
                if agreed is not None:
                    self._note(sample, agreed)
                    return
            if self._closing.wait(_AGAIN_S):
                return

    def _agrees(self, x: Samples, top: int) -> bool | None:
        """Whether that is the full network's label, too; None where a request began meanwhile, which goes first."""
        running, features = self._runner.running, x
        running.add(id(self))  # to the sensors it is no load of others
        try:
            for leg in self._legs:
                if len(running) > 1:
                    return None
                logits, after = self._runner.engine.run(leg, features)
                features = features if after is None else after
        finally:
            running.discard(id(self))
        return int(logits[0].argmax()) == top

    def _note(self, sample: Sample, agreed: bool) -> None:
        if sample.counts:
            self._compared += 1
            self._agreed += agreed
        drift = self._drift_at(sample.at)
        drift.tell_agreed(agreed)
        self._heed(sample.at, drift)

    def _drift_at(self, watched: Watched) -> Drift:
        if watched.drift is None:
            watched.drift = drift_of(watched.way, self._samples_calibrated, self._share)
        return watched.drift

    def _heed(self, watched: Watched, drift: Drift) -> None:
        """At an alarm, takes the rules away and says so."""
        if drift.state == "fine":
            return
        self._rules.clear()
        self._at = {}
        self._waiting.clear()
        way = watched.way
        self.drift = f"width {way.width}, {way.precision}: {drift.warning}; nothing stops early any more"
        log.warning("%s: %s; calibrate it on such inputs: stretto calibrate", self._name, self.drift)
