"""Thresholds with a promise, for the exits of a bundle: what `stretto calibrate` does.

Where a rule stops depends on the exits' temperatures, so samples that these were fitted to are no fresh draw: on them,
a promise may hold less often than it says. An export that was told to spare a share of the calibration split fitted
temperatures, and made int8 (ranges, biases), without it, and it certifies. One that wasn't used the whole split: then a
fifth of it, drawn at random, gives new temperatures, which the new bundle keeps, and the rest certifies; but nothing in
int8, which isn't made anew here. On other splits a bundle stays as it is, and all samples certify.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import exp, inf
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ..policies import make_exit_rule
from ..policies.early import accuracy_gap, certainties, disagreement, early_labels, stop_depths
from ..policies.exits import ThresholdRule
from ..policies.risk import Certificate, certify, certify_ways, promise_of_ways
from ..policies.situation import OperatingPoint
from ..runtime.bundle import Bundle, write_bundle
from ..runtime.engines import make_engine, runnable
from ..runtime.manifest import Certified, CertifiedWay, PointRecord
from .calibrate import fit_temperature
from .data import Data, Split
from .evaluate import Tell, logits_on, read_data

SPARED = 0.8  # of the calibration split, unless it was before: one number an exit is soon fitted
MADE_FROM_CALIBRATION = ("int8",)
LOSSES: dict[str, Callable[..., NDArray[Any]]] = {
    "disagreement": lambda early, full, truth: disagreement(early, full),
    "accuracy": accuracy_gap,
}
Logits = Mapping[OperatingPoint, NDArray[np.float32]]
Way = tuple[float, str]


class Fresh(NamedTuple):
    """Samples that nothing was fitted to. `bundle`: what of it can be judged by them, with the temperatures to use.

    `fitted`: how many samples those were fitted to anew, 0 where they are the bundle's own.
    """

    bundle: Bundle
    data: Data
    samples: Split
    fitted: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be promised; `rule`: in `EXIT_RULES`, `loss`: in `LOSSES`, the rest as in `policies.risk.certify`."""

    epsilon: float = 0.01
    delta: float = 0.05
    loss: str = "disagreement"
    method: str = "ltt"
    rule: str = "probability"


def calibrate_bundle(
    bundle: Bundle,
    data_path: str,
    out: str | Path,
    asked: Asked = Asked(),
    *,
    splits: Sequence[str] = ("calibration",),
    threads: int = 1,
    engine: str = "onnx",
    tell: Tell = lambda what, done, total: None,
) -> tuple[Bundle, dict[str, Any]]:
    """Writes the bundle again with certified thresholds; gives it, and what was found as JSON-able data.

    Args:
        out: may be the bundle's own path; all of the new one is there, or none.
        splits: whose samples certify.

    Raises:
        TooFewSamplesError: whatever they lose; says how many are needed.
        ValueError: an option is out of range, the data doesn't fit the bundle or has no such splits, the network was
            trained on one, the engine doesn't run fp32, or the folder of `out` isn't there.
    """
    if not Path(out).parent.is_dir():
        raise ValueError(f"{out}: there is no folder {Path(out).parent}; make it first")
    enough = partial(_check_asked, asked)
    some, data, fresh, fitted = fresh_samples(bundle, data_path, splits, engine, threads, tell, enough)
    logits = logits_on(some, fresh.x, fresh.y, threads, _told(tell, "evaluating", fresh), engine)
    certified, rows = certify_points(some.manifest.points, logits, fresh.y, asked)
    _write(bundle, some, out, certified, {"data": data.name, "splits": list(splits)})
    report = {
        "bundle": bundle.path.name,
        "out": str(out),
        "data": data.name,
        "splits": list(splits),
        "samples": len(fresh),
        "samples_for_temperatures": fitted,
        **asdict(asked),
        "promise": certified.promise,
        "ways": rows,
        "left_out": [name for name in bundle.manifest.precisions if name not in some.manifest.precisions],
    }
    return Bundle.open(out), report


def fresh_samples(
    bundle: Bundle,
    data_path: str,
    splits: Sequence[str] = ("calibration",),
    engine: str = "onnx",
    threads: int = 1,
    tell: Tell = lambda what, done, total: None,
    enough: Callable[[int, int], None] = lambda samples, ways: None,
) -> Fresh:
    """Samples that nothing of a bundle was fitted to, see above.

    Args:
        enough: told how many there are, and at how many widths and precisions, before the long work.

    Raises:
        ValueError: the data doesn't fit the bundle or has no such splits, the network was trained on one, or the engine
            doesn't run fp32.
    """
    _check_splits(splits)
    some = _certifiable(bundle, splits, engine)
    data = read_data(bundle, data_path, tell)
    has = bundle.manifest.classes
    if data.classes != has:
        raise ValueError(f"{bundle.path}: has classes {list(has)}, {data_path} has {list(data.classes)}")
    fitting, fresh = _parted(data, splits, _spared(bundle))
    enough(len(fresh), len(some.manifest.widths) * len(some.manifest.precisions))
    if fitting is None:
        return Fresh(some, data, fresh, 0)
    told = _told(tell, "temperatures", fitting)
    some = _with_temperatures(some, logits_on(some, fitting.x, fitting.y, threads, told, engine), fitting.y)
    return Fresh(some, data, fresh, len(fitting))


def certify_points(
    points: Sequence[PointRecord], logits: Logits, labels: NDArray[np.integer], asked: Asked
) -> tuple[Certified, list[dict[str, Any]]]:
    """What is certified at every width and precision with logits, and a row about each of them.

    Args:
        points: with the temperatures that the rule will find.
        logits: (samples, classes) of these points, of samples that nothing was fitted to.
        labels: (samples,) of which "disagreement" needs none.
    """
    ways = _ways(points, logits)
    reference = max((record for record in points if record.precision == "fp32"), key=lambda r: (r.width, r.depth))
    full = logits[reference.point].argmax(axis=1)
    grid = thresholds(asked.rule, reference.depth)
    stops = stops_of(points, logits, asked.rule, grid)
    losses = {way: LOSSES[asked.loss](early, full, labels) for way, (_, early) in stops.items()}
    found = certify_ways(losses, grid, asked.epsilon, asked.delta, asked.method, asked.loss)
    rows = []
    for way, (depths, early) in stops.items():
        at = max(len(found[way].thresholds) - 1, 0)
        macs = np.array([record.macs for record in ways[way]])[depths[:, at] - 1].mean()
        rows.append(
            {
                "width": way[0],
                "precision": way[1],
                "certified": found[way].threshold is not None,
                "threshold": None if grid[at] == inf else grid[at],
                "risk": float(losses[way][:, at].mean()),
                "early": float((depths[:, at] < len(ways[way])).mean()),
                "agreement": float((early[:, at] == full).mean()),
                "macs": float(macs),
                "macs_saved": float(1 - macs / reference.macs),
            }
        )
    return _certified(asked, found, rows), rows


def stops_of(
    points: Sequence[PointRecord], logits: Logits, rule: str, grid: Sequence[float]
) -> dict[Way, tuple[NDArray[np.integer], NDArray[np.integer]]]:
    """At every width and precision, (samples, thresholds) depths where the rule stops, and labels answered there."""
    found = {}
    measure = cast(ThresholdRule, make_exit_rule(rule, threshold=inf))
    for way, records in _ways(points, logits).items():
        exits = [logits[record.point] for record in records]
        certainty = certainties(measure, exits, [record.temperature for record in records])
        depths = stop_depths(certainty, np.array(grid))
        found[way] = depths, early_labels(np.stack([z.argmax(axis=1) for z in exits], axis=1), depths)
    return found


def thresholds(rule: str, depths: int) -> tuple[float, ...]:
    """Those that are tried, safest first: chosen before any sample was seen, as what is promised rests on that."""
    if rule == "patience":
        return (inf, *map(float, range(depths - 1, 0, -1)))
    return (inf, *[round(1 / (1 + exp(-log_odds)), 7) for log_odds in np.linspace(13.0, -4.0, 86).tolist()])


def _check_splits(splits: Sequence[str]) -> None:
    if "train" in splits or not splits:
        raise ValueError(f"splits are {tuple(splits)}; give some, and none that the network was trained on")


def _check_asked(asked: Asked, samples: int, ways: int) -> None:
    """All that can be wrong with it is found before the long work."""
    make_exit_rule(asked.rule, threshold=inf)
    if asked.loss not in LOSSES:
        raise ValueError(f"there is no loss {asked.loss!r}; name one of {', '.join(LOSSES)}")
    nothing = np.zeros((samples, 1))
    certify(nothing, (inf,), asked.epsilon, asked.delta, asked.method, asked.loss, sequences=ways)


def _certifiable(bundle: Bundle, splits: Sequence[str], engine: str) -> Bundle:
    """The bundle with the precisions that the engine runs and that can be certified on these splits."""
    runner = make_engine(engine, bundle)
    has = runnable(runner, bundle)
    runner.close()
    if "fp32" not in has.manifest.precisions:
        raise ValueError(f"{bundle.path}: engine {engine!r} runs no fp32 of it, which losses are against")
    fitted = MADE_FROM_CALIBRATION if "calibration" in splits and _spared(bundle) is None else ()
    return has.only([precision for precision in has.manifest.precisions if precision not in fitted])


def _spared(bundle: Bundle) -> float | None:
    """The share of the calibration split that nothing of the bundle was fitted to; None for none."""
    return bundle.manifest.provenance.get("spared")


def _parted(data: Data, splits: Sequence[str], spared: float | None) -> tuple[Split | None, Split]:
    """What gives the temperatures, None where they stay, and what certifies."""
    chosen = {name: data.split(name) for name in splits}
    fitting = None
    if "calibration" in chosen:
        fitting, chosen["calibration"] = chosen["calibration"].parted(SPARED if spared is None else spared)
        fitting = fitting if spared is None else None
    x, y = (np.concatenate([getattr(split, name) for split in chosen.values()]) for name in ("x", "y"))
    return fitting, Split(x, y)


def _told(tell: Tell, what: str, split: Split) -> Callable[[int], None]:
    return lambda done: tell(what, done, len(split))


def _with_temperatures(some: Bundle, logits: Logits, labels: NDArray[np.int64]) -> Bundle:
    points = tuple(
        replace(record, temperature=fit_temperature(logits[record.point], labels)) for record in some.manifest.points
    )
    manifest = replace(some.manifest, points=points)
    return Bundle(some.path, manifest, some.sha256, some.graphs, some.weights, some.coding)


def _ways(points: Sequence[PointRecord], logits: Logits) -> dict[Way, list[PointRecord]]:
    """By width and precision, each with its exits by depth."""
    ways: dict[Way, list[PointRecord]] = {}
    for record in sorted(points, key=lambda record: record.depth):
        if record.point in logits:
            ways.setdefault((record.width, record.precision), []).append(record)
    return dict(sorted(ways.items()))


def _certified(asked: Asked, found: Mapping[Way, Certificate], rows: Sequence[dict[str, Any]]) -> Certified:
    names = ("width", "precision", "threshold", "risk", "early", "agreement")
    some = next(iter(found.values()))
    return Certified(
        rule=asked.rule,
        loss=asked.loss,
        method=asked.method,
        epsilon=asked.epsilon,
        delta=asked.delta,
        samples=some.samples,
        ways=tuple(CertifiedWay(**{name: row[name] for name in names}) for row in rows if row["certified"]),
        promise=promise_of_ways(found.values()),
    )


def _write(bundle: Bundle, some: Bundle, out: str | Path, certified: Certified, data: dict[str, Any]) -> None:
    """All of the bundle, with the temperatures that were used."""
    used = {record.point: record for record in some.manifest.points}
    manifest = replace(
        bundle.manifest,
        points=tuple(used.get(record.point, record) for record in bundle.manifest.points),
        certified=certified,
        provenance={**bundle.manifest.provenance, "certified_on": data},
    )
    write_bundle(out, manifest, bundle.graphs, bundle.weights, bundle.coding)
