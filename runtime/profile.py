"""How long the steps of a bundle take on this device, and at what power; kept as JSON in the user's cache."""

import json
import logging
import math
import os
import platform
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np

from ..policies.situation import FloatArray, OperatingPoint, Step
from .bundle import Bundle
from .energy import Power
from .files import replacing, user_cache
from .steps import all_steps

FORMAT = 4
LIBRARIES = {"onnx": "onnxruntime", "openvino": "openvino"}  # engine → the distribution that runs its graphs
BACK_TO_BACK, PACED = PACINGS = ("back_to_back", "paced")
_USUALLY = 0.9  # of requests
_NAMED = ("device", "bundle", "engine", "threads", "source", "created", "engine_version")

log = logging.getLogger(__name__)


def _engine_version(engine: str) -> str:
    """Of the library that runs the graphs: another may take other times. An engine that isn't ours has none."""
    library = LIBRARIES.get(engine)
    return f"{library} {version(library)}" if library else engine


@dataclass(frozen=True, slots=True)
class Profile:
    """Times of the steps of one bundle on one device, and the power that they take.

    Args:
        device: `device_key()` of where it was measured.
        bundle: the bundle's `sha256`.
        engine, threads: what ran the steps.
        source: "measured", or "warm-up" for the few runs of a load that found no profile.
        created: date and time, ISO 8601 in UTC.
        levels: quantile levels, ascending, 0.5 among them.
        batches: batch sizes, ascending.
        times: (levels,) milliseconds by pacing, of every step at every batch size: from where the step starts to its
            exit, running in one graph from the input, and exit by exit from an exit. "back_to_back" is a loop, which
            flatters the caches; "paced" has pauses between requests, as real ones do.
        power: of the device while any of the steps runs.
        answers: (levels,) milliseconds by batch size, from a request's last exit until its answers are made: at each
            level the slower of the pacings; none where that isn't known.
        engine_version: library and version that ran the steps; those installed now unless given.
    """

    device: str
    bundle: str
    engine: str
    threads: int
    source: str
    created: str
    levels: tuple[float, ...]
    batches: tuple[int, ...]
    times: dict[tuple[Step, int], dict[str, tuple[float, ...]]]
    power: Power
    answers: dict[int, tuple[float, ...]] = field(default_factory=dict)
    engine_version: str = ""
    _slower: dict[Step, FloatArray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.engine_version:
            object.__setattr__(self, "engine_version", _engine_version(self.engine))

    def finish_ms(self, step: Step, batch: int = 1) -> tuple[float, ...]:
        """(levels,) milliseconds from where `step` starts to its exit: at each level the slower of the pacings.

        That is cautious by intent, as a request can't know whether it comes in a burst. Between profiled batch sizes
        it is linear; beyond the largest it grows by the last two's time per sample, or in proportion where there is
        only one; below the smallest it is the smallest's.
        """
        return tuple(_at_batch(batch, self.batches, self._known(step)).tolist())

    def answer_ms(self, batch: int = 1) -> float:
        """Milliseconds that are usually enough to make the answers of so many samples.

        Not at the highest level: what seldom happens is looked after by the steps' own quantiles.
        """
        if not self.answers:
            return 0.0
        known = np.array([self.answers[size] for size in self.batches])
        return float(_at_batch(batch, self.batches, known)[bisect_right(self.levels, _USUALLY) - 1])

    def idle_times(self, steps: Sequence[Step]) -> Callable[[int], FloatArray]:
        """What gives (steps, levels) milliseconds, as `finish_ms` does, by the batch size."""
        known = np.array([self._known(step) for step in steps]).swapaxes(0, 1)
        return partial(_at_batch, sizes=self.batches, known=known)

    def _known(self, step: Step) -> FloatArray:
        """(batches, levels) of a step, worked out once."""
        known = self._slower.get(step)
        if known is None:
            pacings = [list(self.times[step, size].values()) for size in self.batches]
            known = self._slower[step] = np.array([np.max(times, axis=0) for times in pacings])
        return known

    def whole_way_ms(self, point: OperatingPoint, level: float = 0.99) -> float:
        """Milliseconds from a request's arrival to the answer at a point, run in one step, at one of the levels.

        Raises:
            ValueError: the profile has no such level.
        """
        if level not in self.levels:
            raise ValueError(f"profile has no times at level {level:g}; it has {', '.join(map(str, self.levels))}")
        at = self.levels.index(level)
        answering = self.answers.get(self.batches[0])
        return self.finish_ms(point.whole_way)[at] + (answering[at] if answering else 0.0)

    def energy_mj(self, point: OperatingPoint, batch: int = 1) -> float:
        """Millijoules of each sample from the input to a point's exit in one step: the median time at its power."""
        return self.power.watts * self.finish_ms(point.whole_way, batch)[self.levels.index(0.5)] / batch

    def check(self, bundle: Bundle) -> None:
        """Raises ValueError unless this is a profile of `bundle` and has times of all its steps."""
        if self.bundle != bundle.sha256:
            raise ValueError(
                f"profile is of bundle {self.bundle[:12]}, not of {bundle.path.name}, {bundle.sha256[:12]}"
            )
        for step, batch in product(all_steps(bundle.manifest), self.batches):
            if (step, batch) not in self.times:
                raise ValueError(
                    f"profile has no times of {step} at batch {batch}, but {bundle.path.name} has that step"
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes JSON, all of it or nothing, making the folder if need be."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Profile":
        """Reads what `save` wrote.

        Raises:
            ValueError: it isn't a profile; names the file.
            OSError: it can't be read.
        """
        try:
            return _from_json(json.loads(Path(path).read_bytes()))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is no profile ({type(error).__name__}: {error}); run stretto profile") from error

    def to_json(self) -> dict[str, Any]:
        """Plain data; `entries` has one item for a step at a batch size."""
        entries = [
            {"first": step.first, "depth": step.depth, "width": step.width, "precision": step.precision, "batch": batch}
            | {pacing: list(quantiles) for pacing, quantiles in times.items()}
            for (step, batch), times in self.times.items()
        ]
        named = {name: getattr(self, name) for name in _NAMED}
        return {
            "format": FORMAT,
            **named,
            "power": asdict(self.power),
            "levels": list(self.levels),
            "batches": list(self.batches),
            "answers": [{"batch": batch, "quantiles": list(quantiles)} for batch, quantiles in self.answers.items()],
            "entries": entries,
        }


def profile_path(bundle: Bundle, engine: str, threads: int) -> Path:
    """Where the profile of this bundle, run so on this device, is kept."""
    return user_cache("profiles") / f"{device_key()}-{bundle.sha256[:12]}-t{threads}-{engine}.json"


def cached_profile(bundle: Bundle, engine: str, threads: int) -> Profile | None:
    """The profile kept for this bundle, run so on this device. One that can't be used is logged and passed over."""
    path = profile_path(bundle, engine, threads)
    try:
        profile = Profile.load(path)
        profile.check(bundle)
        found = (profile.device, profile.engine, profile.threads, profile.engine_version)
        expected = (device_key(), engine, threads, _engine_version(engine))
        if found != expected:
            raise ValueError(f"it was measured with {found}, this is {expected}; run stretto profile")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("profile %s is ignored: %s", path, error)
        return None
    return profile


def device_key() -> str:
    """Names this device: processor model and the number of cores that this process may use; fit for a file name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return re.sub(r"[^a-z0-9]+", "-", f"{processor()} {cores} cores".lower()).strip("-")


def processor() -> str:
    """The processor's model, as the system names it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _at_batch(batch: int, sizes: tuple[int, ...], known: FloatArray) -> FloatArray:
    """(…, levels) at a batch size, from (sizes, …, levels); see `Profile.finish_ms`."""
    if batch <= sizes[0]:
        return known[0]
    at = min(bisect_left(sizes, batch), len(sizes) - 1)  # the first that is as large, or the last
    if batch == sizes[at]:
        return known[at]
    per_sample = known[0] / sizes[0]
    if at > 0:
        per_sample = (known[at] - known[at - 1]) / (sizes[at] - sizes[at - 1])
    if batch > sizes[-1]:
        times = known[-1] + np.maximum(per_sample, 0) * (batch - sizes[-1])
    else:
        times = known[at - 1] + per_sample * (batch - sizes[at - 1])
    return np.maximum.accumulate(times, axis=-1)


def _from_json(value: dict[str, Any]) -> Profile:
    if value["format"] != FORMAT:
        raise ValueError(f"format is {value['format']}, this version of stretto reads {FORMAT}")
    levels, batches = tuple(value["levels"]), tuple(value["batches"])
    if not _ascending(levels) or not 0 < levels[0] <= 0.5 <= levels[-1] < 1 or 0.5 not in levels:
        raise ValueError(f"levels are {levels}, expected them to ascend in (0, 1), 0.5 among them")
    if not _ascending(batches) or batches[0] < 1 or not all(isinstance(size, int) for size in batches):
        raise ValueError(f"batches are {batches}, expected whole numbers from 1 that ascend")
    times = {}
    for entry in value["entries"]:
        step = Step(entry["first"], entry["depth"], entry["width"], entry["precision"])
        by_pacing = {pacing: tuple(entry[pacing]) for pacing in PACINGS if pacing in entry}
        if not by_pacing or not all(_are_quantiles(quantiles, len(levels)) for quantiles in by_pacing.values()):
            raise ValueError(f"times of {step} are {by_pacing}, expected {len(levels)} quantiles, > 0, that don't fall")
        times[step, entry["batch"]] = by_pacing
    answers = {entry["batch"]: tuple(entry["quantiles"]) for entry in value["answers"]}
    if answers and (set(answers) != set(batches) or not all(_are_quantiles(q, len(levels)) for q in answers.values())):
        raise ValueError(f"answers are {answers}, expected {len(levels)} quantiles at each of the batches {batches}")
    named, power = {name: value[name] for name in _NAMED}, Power(**value["power"])
    return Profile(**named, levels=levels, batches=batches, times=times, power=power, answers=answers)


def _ascending(values: tuple[float, ...]) -> bool:
    return bool(values) and all(before < after for before, after in pairwise(values))


def _are_quantiles(values: tuple[float, ...], count: int) -> bool:
    in_order = all(before <= after for before, after in pairwise(values))
    return len(values) == count and in_order and all(0 < value < math.inf for value in values)
