"""How well time models foretell recorded times: share under the 99 % quantile, and what its errors cost."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from ..policies.latency import Ran, TimeModel, catch_up
from ..policies.scalar import ScalarFilter
from ..policies.situation import Step
from .recordings import Leg, RecordedPath, Recording
from .report import FloatArray

LEVEL = 0.99
SLICE_MS = 3.0  # paths whose own time is longer can lose time slices, see `policies/slices.py`
STEPS, PATHS, LONG = "steps", "paths", "long paths"
TUNED = "scalar, tuned"
Times = Mapping[Step, Sequence[float]]


class Foretold(NamedTuple):
    """A step or a whole path: when, which, what the model said of it, what it took. `long`: longer than a slice."""

    phase: str
    step: Step
    whole: bool
    long: bool
    predicted_ms: float
    took_ms: float


def replay(recording: Recording, model: TimeModel, idle_ms: Times) -> list[Foretold]:
    """Asks the model before each step and each path, then tells it what they took; in the order of time.

    It learns from each at once: a runtime lets it, in the background, some requests later at most.

    `idle_ms`: (levels of the profile,) of every step, from the input in one graph.
    """
    return [foretold for path in recording.paths for foretold in _replayed(path, model, idle_ms)]


def _replayed(path: RecordedPath, model: TimeModel, idle_ms: Times) -> Iterable[Foretold]:
    whole, is_one_step = path.whole, len(path.legs) == 1
    if not is_one_step:  # not what the profile says of that step, which is run in one graph there
        idle_ms = {**idle_ms, whole.step: np.sum([idle_ms[leg.step] for leg in path.legs], axis=0)}
    whole_ms = _predicted(model, whole, idle_ms, len(path.legs))
    for leg in () if is_one_step else path.legs:
        leg_ms = _predicted(model, leg, idle_ms)
        model.observe(_ran(leg, leg_ms, idle_ms))
        catch_up(model)
        yield _foretold(path, leg, leg_ms, idle_ms, model)
    model.observe(_ran(whole, whole_ms, idle_ms)._replace(whole_path=not is_one_step, graphs=len(path.legs)))
    catch_up(model)
    yield _foretold(path, whole, whole_ms, idle_ms, model)._replace(whole=True)


def _predicted(model: TimeModel, leg: Leg, idle_ms: Times, graphs: int = 1) -> FloatArray:
    return model.finish_ms(np.array([idle_ms[leg.step]]), leg.ran_ms, leg.load, np.array([graphs]))[0]


def _ran(leg: Leg, predicted_ms: FloatArray, idle_ms: Times) -> Ran:
    idle = np.array(idle_ms[leg.step])
    return Ran(leg.step, idle, leg.ran_ms, leg.cpu_ms, leg.wall_ms, leg.load, predicted_ms=predicted_ms)


def _foretold(path: RecordedPath, leg: Leg, predicted_ms: FloatArray, idle_ms: Times, model: TimeModel) -> Foretold:
    at_level = float(predicted_ms[model.levels.index(LEVEL)])
    is_long = float(idle_ms[leg.step][0]) > SLICE_MS
    return Foretold(path.phase, leg.step, False, is_long, at_level, leg.wall_ms)


def pinball(predicted_ms: FloatArray, took_ms: FloatArray, level: float = LEVEL) -> FloatArray:
    """The loss whose mean is least at the quantile: being too low costs `level` a millisecond, too high 1 − `level`."""
    short_ms = took_ms - predicted_ms
    return np.maximum(level * short_ms, (level - 1) * short_ms)


def in_hindsight(foretold: Sequence[Foretold]) -> list[Foretold]:
    """The same with one constant for each step or path and phase of load, the best one there is."""
    groups: dict[tuple[str, Step, bool], list[float]] = defaultdict(list)
    for each in foretold:
        groups[each.phase, each.step, each.whole].append(each.took_ms)
    best = {group: float(np.quantile(took, LEVEL, method="higher")) for group, took in groups.items()}
    return [each._replace(predicted_ms=best[each.phase, each.step, each.whole]) for each in foretold]


def tuned_scalars(recording: Recording, idle_ms: Times, skip: int = 0) -> dict[str, list[Foretold]]:
    """By kind: what ALERT's filter foretells with the constants that, of a grid, are the best for it in hindsight."""
    best: dict[str, tuple[float, list[Foretold]]] = {}
    for drift, noise, gain in product((1e-4, 1e-3, 1e-2, 0.1), (1e-3, 1e-2, 0.1, 1.0, 4.0), (0.1, 0.5)):
        model = ScalarFilter(least_drift=drift, noise=noise, start_gain=gain)
        foretold = replay(recording, model, idle_ms)[skip:]
        for kind, chosen in KINDS.items():
            of_kind = [each for each in foretold if chosen(each)]
            loss_ms = mean_loss(of_kind)
            if kind not in best or loss_ms < best[kind][0]:
                best[kind] = loss_ms, of_kind
    return {kind: of_kind for kind, (_, of_kind) in best.items()}


def mean_loss(foretold: Sequence[Foretold]) -> float:
    """Milliseconds, NaN of none."""
    if not foretold:
        return float("nan")
    predicted, took = np.array([(each.predicted_ms, each.took_ms) for each in foretold]).T
    return float(pinball(predicted, took).mean())


def share_under(foretold: Sequence[Foretold]) -> float:
    """Share of times at most as long as predicted, NaN of none."""
    if not foretold:
        return float("nan")
    return float(np.mean([each.took_ms <= each.predicted_ms for each in foretold]))


KINDS: dict[str, Callable[[Foretold], bool]] = {
    STEPS: lambda each: not each.whole,
    PATHS: lambda each: each.whole,
    LONG: lambda each: each.whole and each.long,
}


def evaluate(
    recording: Recording, models: Mapping[str, Callable[[], TimeModel]], idle_ms: Times, skip: int = 0
) -> dict[str, dict[str, dict[str, Any]]]:
    """Every model on steps, paths, and paths longer than a slice.

    Args:
        models: makes each of them anew, by name; ALERT's filter tuned in hindsight is added as `TUNED`.
        idle_ms: (levels of the profile, the median first) of every step, from the input in one graph.
        skip: observations at the beginning that don't count, as a model starts to learn.

    Returns:
        By model and kind: `count`, `under` (share under the 99 % quantile), `loss_ms` (pinball), and that over a
        constant in hindsight, `over_hindsight`, and over ALERT's filter tuned in hindsight, `over_scalar`.
    """
    scalar = tuned_scalars(recording, idle_ms, skip)
    told = {name: replay(recording, make(), idle_ms)[skip:] for name, make in models.items()}
    report: dict[str, dict[str, dict[str, Any]]] = {}
    for kind, chosen in KINDS.items():
        picked = {name: [each for each in foretold if chosen(each)] for name, foretold in told.items()}
        picked[TUNED] = scalar[kind]
        scalar_ms = mean_loss(scalar[kind])
        for name, foretold in picked.items():
            report.setdefault(name, {})[kind] = _figures(foretold, scalar_ms)
    return report


def _figures(foretold: Sequence[Foretold], scalar_ms: float) -> dict[str, Any]:
    loss_ms, limit_ms = mean_loss(foretold), mean_loss(in_hindsight(foretold))
    return {
        "count": len(foretold),
        "under": share_under(foretold),
        "loss_ms": loss_ms,
        "over_hindsight": loss_ms / limit_ms if limit_ms else float("nan"),
        "over_scalar": loss_ms / scalar_ms if scalar_ms else float("nan"),
    }
