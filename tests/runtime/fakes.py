"""What makes sessions predictable in tests: times that are set instead of measured, an engine that remembers."""

from itertools import product
from threading import Event

from stretto.policies.situation import Step
from stretto.runtime.bundle import Bundle
from stretto.runtime.energy import Power
from stretto.runtime.engines.cut import CutOff
from stretto.runtime.profile import Profile
from stretto.runtime.steps import all_steps

LEVELS = (0.5, 0.9, 0.99)


def expected_ms(step: Step, stage_ms: float = 1e6) -> float:
    """`stage_ms` times width for each stage, the stem being part of the first."""
    return (step.depth - max(step.first - 1, 0)) * step.width * stage_ms


def set_profile(bundle: Bundle, stage_ms: float = 1e6, batches: tuple[int, ...] = (1,), watts: float = 5.0) -> Profile:
    """Says `expected_ms` per step and sample, at all levels: a second per thousand, far from what the toy takes."""
    times = {
        (step, batch): {"back_to_back": (expected_ms(step, stage_ms) * batch,) * len(LEVELS)}
        for step, batch in product(all_steps(bundle.manifest), batches)
    }
    return Profile(
        device="a desk",
        bundle=bundle.sha256,
        engine="onnx",
        threads=1,
        source="measured",
        created="2026-01-01T00:00:00+00:00",
        levels=LEVELS,
        batches=batches,
        times=times,
        power=Power(watts, "a guess"),
    )


class Recorder:
    """An engine around another one that notes every run: `runs` is a list of (step, samples)."""

    name, threads, in_caller = "onnx", 1, True

    def __init__(self, engine):
        self._engine, self.runs, self.closed = engine, [], False

    def load(self, step):
        self._engine.load(step)

    def run(self, step, x, cut=None):
        self.runs.append((step, len(x)))
        return self._engine.run(step, x, cut)

    def close(self):
        self.closed = True
        self._engine.close()


class Clock:
    """Stands in for the module `time`: seconds that only pass when told to."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s

    perf_counter = thread_time = __call__

    def sleep(self, seconds):
        self.now_s += seconds


class SetPace:
    """An engine that answers zeros after `expected_ms` times the number of samples have passed on `clock`."""

    name, threads, in_caller = "onnx", 1, True

    def __init__(self, bundle, clock, stage_ms):
        self._classes, self._clock, self._stage_ms = len(bundle.manifest.classes), clock, stage_ms
        self.runs = []

    def load(self, step):
        """Nothing to load."""

    def run(self, step, x, cut=None):
        self.runs.append(step)
        self._clock.sleep(expected_ms(step, self._stage_ms) * len(x) / 1e3)
        return x.reshape(len(x), -1)[:, : self._classes] * 0, x

    def close(self):
        """Nothing to free."""


class Held:
    """An engine whose steps to `depth` wait for `release`, or until they are cut off; the others answer at once.

    `entered`: one of them waits; `obeys`: whether it can be cut off.
    """

    name, threads, in_caller = "onnx", 1, True

    def __init__(self, bundle, depth, obeys=True):
        self._classes, self._depth, self._obeys = len(bundle.manifest.classes), depth, obeys
        self.entered, self.release, self.ended = Event(), Event(), Event()
        self.runs = []

    def load(self, step):
        """Nothing to load."""

    def run(self, step, x, cut=None):
        self.runs.append(step)
        if step.depth == self._depth and not self.release.is_set():
            if cut is not None and self._obeys:
                cut.ended_by(self.release.set)
            self.entered.set()
            assert self.release.wait(30)
            self.ended.set()
            if cut is not None and cut.asked and self._obeys:
                raise CutOff
        return x.reshape(len(x), -1)[:, : self._classes] * 0, x

    def close(self):
        """Nothing to free."""


class Faulty(Recorder):
    """Fails at the steps that `fails` says."""

    def __init__(self, engine, fails):
        super().__init__(engine)
        self.fails = fails

    def run(self, step, x, cut=None):
        if self.fails(step):
            raise RuntimeError(f"no luck with {step.depth}")
        return super().run(step, x, cut)
