"""What easy inputs save: early exits and escalation against fixed points, on inputs that nothing was fitted to.

`stretto bench easy BUNDLE --data PATH`. Thresholds, rules and widths are chosen on held-out samples; every figure is of
the test.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ...policies.risk import TooFewSamplesError
from ...policies.situation import OperatingPoint
from ...runtime.bundle import Bundle
from ...runtime.manifest import CertifiedWay, PointRecord
from ...training.certify import Asked as Promised
from ...training.certify import Fresh, Logits, certify_points, fresh_samples, stops_of
from ...training.evaluate import logits_on
from ..report import Row, machine, print_rows, write_json
from .curves import PLAIN, Curve, Sides, all_curves, cheapest, full_point
from .drift import CHANGES, Seen, drift_rows
from .guarantee import guarantee_rows
from .picture import draw
from .router import ROUTER, chances_on, router_curve
from .rows import (
    LOST,
    MIDDLES,
    Fixed,
    batch_row,
    drawn,
    equal_macs_row,
    equal_time_rows,
    oracle,
    saved_rows,
    time_row,
)
from .times import Bench, in_batches

CHANGED = 3000  # inputs that are blurred and noised, at most
INPUTS = 1000  # that are timed beside the full network, at most
DRIFT_RISKS = (0.01, 0.02, 0.05)  # the first that certifies early exits is watched
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is measured. `splits`: whose samples choose and certify; `samples`: of the test, None for all."""

    bundle: Path
    data: str
    splits: tuple[str, ...] = ("calibration",)
    test: tuple[str, ...] = ("test",)
    samples: int | None = None


class Known(NamedTuple):
    """Of the samples that choose (fit) and of the test's: logits by point, and labels; `pixels`: the test's.

    `chances`: of both, what a router says; None: there is none.
    """

    points: tuple[PointRecord, ...]
    logits: tuple[Logits, Logits]
    labels: Sides
    pixels: NDArray[np.uint8]
    chances: Sides | None = None


def run(
    asked: Asked,
    json: Path | None,
    picture: Path | None,
    tell: Tell = lambda what, done, total: None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Measures everything, prints a table and writes the files; the machine should have nothing else to do."""
    facts, network = machine(), asked.bundle.stem
    fresh = fresh_samples(Bundle.open(asked.bundle), asked.data, asked.splits, tell=tell)
    known = learn(fresh, asked, tell)
    curves = all_curves(known.points, known.logits, known.labels)
    if known.chances is not None:
        curves += [
            router_curve(fresh.bundle, precision, known.logits, known.labels, known.chances)
            for precision in fresh.bundle.manifest.precisions
        ]
    rows: list[Row] = []
    report: dict[str, Any] = {
        "bench": "easy",
        "bundle": {"name": asked.bundle.name, "sha256": fresh.bundle.sha256},
        "data": Path(asked.data).name,
        "splits": asked.splits,
        "test": asked.test,
        "samples": {"choose": len(known.labels.fit), "test": len(known.labels.test)},
        "machine": facts,
        "precisions": {},
    }
    for precision in fresh.bundle.manifest.precisions:
        found, about = measure_precision(fresh.bundle, known, curves, precision, network, tell)
        rows += found
        report["precisions"][precision] = about
    rows += guarantee_rows(known.points, known.logits[1], known.labels.test, network, tell)
    rows += watch(fresh.bundle, known, network, tell)
    print_rows(console or Console(), rows, "bench easy")
    report["rows"] = [row.to_json() for row in rows]
    if json is not None:
        write_json(json, report)
    if picture is not None:
        draw(report, picture)
    return report


def learn(fresh: Fresh, asked: Asked, tell: Tell) -> Known:
    """What every point answers, on both sides."""
    bundle, fit = fresh.bundle, fresh.samples
    parts = [fresh.data.split(name) for name in asked.test]
    pixels, labels = np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts])
    chosen = np.random.default_rng(0).permutation(len(labels))[: asked.samples]
    pixels, labels = pixels[chosen], labels[chosen]
    logits = (
        logits_on(bundle, fit.x, fit.y, progress=lambda done: tell("those that choose", done, len(fit))),
        logits_on(bundle, pixels, labels, progress=lambda done: tell("test", done, len(labels))),
    )
    chances = chances_on(bundle, (fit.x, pixels), tell)
    return Known(bundle.manifest.points, logits, Sides(fit.y, labels), pixels, chances)


def measure_precision(
    bundle: Bundle, known: Known, curves: Sequence[Curve], precision: str, network: str, tell: Tell
) -> tuple[list[Row], dict[str, Any]]:
    """All rows about one precision, and what the picture needs."""
    mine = [curve for curve in curves if curve.precision == precision]
    plain = [curve for curve in mine if curve.family == PLAIN]
    records = {record.point: record for record in known.points}
    last = records[full_point(records, precision)]
    right = rightness(known, last.point)
    chain = [curve for curve in plain if curve.routes[-1] == (last.point,)]
    picks = {
        "max probability at full width": cheapest(chain, right.fit, LOST),
        "the best of all": cheapest(mine, right.fit, LOST),
    }
    about = f"{network}, {precision}"
    rows = [row for who, pick in picks.items() for row in saved_rows(who, pick, last.macs, right.test, about)]
    rows.append(equal_macs_row(mine, chain, "of the full width's exits", last.macs, about))
    rows.append(equal_macs_row(mine, plain, "of any width and depth", last.macs, about))
    routed = [curve for curve in mine if curve.family == ROUTER]
    if routed:
        rows.append(equal_macs_row(routed, chain, "of the full width's exits", last.macs, about, "of the router "))
    inputs = bundle.manifest.input.prepare(known.pixels)
    with Bench(bundle.only([precision]), tell) as bench:
        points = [point for point in records if point.precision == precision]
        times = bench.times(mine, points, inputs[0])
        fixed = [Fixed(point, times.fixed[point], rightness(known, point)) for point in points]
        for kind, middle in MIDDLES.items():
            rows += equal_time_rows(mine, fixed, times, kind, middle, about)
        for who, pick in picks.items():
            rows.append(time_row(who, pick, bench.beside_full(pick, list(inputs[:INPUTS])), known.labels.test, about))
            rows.append(batch_row(who, bench.beside_full(pick, in_batches(inputs)), about))
    return rows, {
        "picks": {who: pick.says for who, pick in picks.items()},
        "fixed": [{"point": list(one.point), "ms": one.ms, "accuracy": float(one.right.test.mean())} for one in fixed],
        "lines": drawn(mine, times),
        "oracle": oracle(known.logits[1], known.labels.test, last.point, times),
    }


def rightness(known: Known, point: OperatingPoint) -> Sides:
    """Whether a fixed point answers each sample rightly."""
    return Sides(*(of[point].argmax(axis=1) == y for of, y in zip(known.logits, known.labels, strict=True)))


def watch(bundle: Bundle, known: Known, network: str, tell: Tell) -> list[Row]:
    """Streams with and without a change, watched as thresholds certified on the samples that choose have it."""
    samples, points = len(known.labels.fit), known.points
    full = max(record.width for record in points)
    for risk in DRIFT_RISKS:
        try:
            certified, _ = certify_points(points, known.logits[0], known.labels.fit, Promised(risk))
        except TooFewSamplesError:
            continue
        ways = [way for way in certified.ways if (way.width, way.precision) == (full, "fp32") and way.early > 0]
        if ways:
            break
    else:
        return []
    way, fp32 = ways[0], bundle.only(["fp32"])
    chosen = known.pixels[:CHANGED]
    pixels = {"clean": chosen} | {name: change(chosen) for name, change in CHANGES.items()}
    seen = {}
    for name, images in pixels.items():
        labels = known.labels.test[: len(images)]
        logits = logits_on(fp32, images, labels, progress=lambda done: tell("changed inputs", done, CHANGED))
        seen[name] = seen_of(way, fp32.manifest.points, logits)
    return drift_rows(way, samples, seen, f"{network}, risk {risk:g}", tell)


def seen_of(way: CertifiedWay, points: Sequence[PointRecord], logits: Logits) -> Seen:
    """What the way's threshold did to inputs with these logits."""
    mine = [record for record in points if (record.width, record.precision) == (way.width, way.precision)]
    (depths, labels), *_ = stops_of(mine, logits, PLAIN, [cast(float, way.threshold)]).values()
    final = max(record.depth for record in mine)
    full = logits[full_point(logits, "fp32")].argmax(axis=1)
    return Seen(depths[:, 0] < final, labels[:, 0] == full)
