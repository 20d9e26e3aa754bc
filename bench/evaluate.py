"""What `stretto eval` reports: every operating point of a bundle on labelled data, and adaptive execution."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from math import sqrt
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ..policies.escalate import Escalate, first_of
from ..policies.exits import Rule, as_rule
from ..policies.fixed import Fixed
from ..policies.route import Route, routes
from ..policies.situation import OperatingPoint, Policy
from ..runtime.answer import Answer
from ..runtime.bundle import Bundle
from ..runtime.certified import certified_rule
from ..runtime.engines import Engine, make_engine, runnable
from ..runtime.manifest import Manifest
from ..runtime.options import CALIBRATED, chosen_profile, chosen_rule
from ..runtime.profile import Profile
from ..runtime.session import Session
from ..training.evaluate import BATCH, Tell, accuracy, logits_on, read_splits

CONFIDENCE = 0.9  # unless told, where nothing was certified
Asked = float | tuple[float, ...] | Literal["calibrated"] | None


class Adaptive(NamedTuple):
    """Requests without a deadline, as a policy has them.

    `width`: where they go unless an exit before is sure, or where they look first; None where any may be chosen;
    `says`: the policy's rule and its threshold, as the report has them; empty for none.
    """

    width: float | None
    precision: str
    policy: Policy
    says: dict[str, Any]


def evaluate_bundle(
    path: Path,
    data_path: str,
    splits: tuple[str, ...],
    threads: int,
    confidence: Asked,
    tell: Tell,
    engine: str = "onnx",
) -> dict[str, Any]:
    """Accuracy, MACs, parameters and latency of every point; accuracy and time when each exit may be sure enough.

    The points are those that the engine runs; their latencies are the profile's, see `stretto profile`. Adaptive
    execution is measured here, one request after the other without a deadline, in turns with the full network.

    Args:
        confidence: that each exit needs; None for the bundle's certified thresholds, 0.9 where it has none.
    """
    opened = Bundle.open(path)
    data, pixels, labels = read_splits(opened, data_path, splits, tell)
    logits = logits_on(opened, pixels, labels, threads, lambda done: tell("evaluating", done, len(labels)), engine)
    runner = make_engine(engine, opened, threads)
    try:
        has = runnable(runner, opened)
        profile = chosen_profile("auto", has, runner)
        adaptive = _adaptive(has, runner, profile, pixels, labels, confidence, tell)
    finally:
        runner.close()
    points = [record.point for record in has.manifest.points]
    return {
        "bundle": path.name,
        "data": data,
        "splits": list(splits),
        "samples": len(labels),
        "profile": profile.source,
        "points": [_point(has, profile, point, accuracy(logits[point], labels)) for point in points],
        "promise": None if has.manifest.certified is None else has.manifest.certified.promise,
        "adaptive": adaptive,
    }


def _point(bundle: Bundle, profile: Profile, point: OperatingPoint, right: float) -> dict[str, Any]:
    record = bundle.point(point.width, point.depth, point.precision)
    return {
        "width": point.width,
        "depth": point.depth,
        "precision": point.precision,
        "accuracy": right,
        "macs": record.macs,
        "params": record.params,
        "latency_ms": {"p50": profile.whole_way_ms(point, 0.5), "p99": profile.whole_way_ms(point)},
    }


def contestants(bundle: Bundle, confidence: Asked) -> list[Adaptive]:
    """The full network, then every width and precision with a rule, escalation, and the router where there is one.

    Of certified thresholds, the widths and precisions that have one.

    Raises:
        ValueError: the confidence is out of range, or the calibrated one of a bundle that has none.
    """
    has = bundle.manifest
    full = _to_the_end(has, has.widths[-1], "fp32" if "fp32" in has.precisions else has.precisions[0], None, {})
    if confidence == CALIBRATED:
        chosen_rule(confidence, bundle)  # which refuses a bundle that has none
    elif confidence is not None or has.certified is None:
        threshold = CONFIDENCE if confidence is None else confidence
        return [full, *_alike(has, threshold), *_across(bundle, threshold)]
    return [full, *_certified(has)]


def _alike(has: Manifest, confidence: float | tuple[float, ...]) -> Iterator[Adaptive]:
    rule, says = as_rule(confidence), {"rule": "probability", "threshold": confidence}
    for precision, width in product(has.precisions, has.widths):
        yield _to_the_end(has, width, precision, rule, says)


def _across(bundle: Bundle, confidence: float | tuple[float, ...]) -> Iterator[Adaptive]:
    """What may answer at any width."""
    has = bundle.manifest
    if not isinstance(confidence, tuple) and len(has.widths) > 1:
        for precision in has.precisions:
            first = OperatingPoint(has.widths[0], has.depths, precision)
            says = {"rule": "escalation", "threshold": confidence}
            yield Adaptive(first.width, precision, Escalate(first, confidence), says)
    if bundle.routed:
        routing = Route()
        says = {"rule": "router", "threshold": routing.enough}
        yield Adaptive(None, ", ".join(has.precisions), routing, says)


def _to_the_end(has: Manifest, width: float, precision: str, rule: Rule | None, says: dict[str, Any]) -> Adaptive:
    return Adaptive(width, precision, Fixed(OperatingPoint(width, has.depths, precision), rule), says)


def _certified(has: Manifest) -> Iterator[Adaptive]:
    if has.certified is not None:
        rules = certified_rule(has.certified).rules
        for way in (way for way in has.certified.ways if way.precision in has.precisions):
            says = {"rule": has.certified.rule, "threshold": way.threshold}
            yield _to_the_end(has, way.width, way.precision, rules[way.width, way.precision], says)


def _adaptive(
    bundle: Bundle,
    runner: Engine,
    profile: Profile,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    confidence: Asked,
    tell: Tell,
) -> list[dict[str, Any]]:
    """A row for each contestant, the full network first; they take turns in every sample."""
    asked = contestants(bundle, confidence)
    answers: list[list[Answer]] = [[] for _ in asked]
    times_ms: list[list[float]] = [[] for _ in asked]
    with ExitStack() as stack:
        sessions = [stack.enter_context(Session(bundle, runner, one.policy, profile)) for one in asked]
        for i, image in enumerate(pixels):
            x = bundle.manifest.input.prepare(image)
            for turn in range(len(asked)):
                at = (turn + i) % len(asked)
                start = time.perf_counter()
                answers[at].append(cast(Answer, sessions[at].infer(x)))
                times_ms[at].append((time.perf_counter() - start) * 1e3)
            if i % BATCH == 0 or i + 1 == len(labels):
                tell("adaptive", i + 1, len(labels))
    full = np.array([answer.index for answer in answers[0]])
    rows = [
        _row(bundle, one.policy, labels, full, given, np.array(ms))
        for one, given, ms in zip(asked, answers, times_ms, strict=True)
    ]
    named = [{"width": one.width, "precision": one.precision, **one.says} for one in asked]
    return [name | row for name, row in zip(named, rows, strict=True)]


def _row(
    bundle: Bundle,
    policy: Policy,
    labels: NDArray[np.int64],
    full: NDArray[np.int64],
    answers: list[Answer],
    times_ms: NDArray[Any],
) -> dict[str, Any]:
    """`full`: what the full network answers."""
    found = np.array([answer.index for answer in answers])
    share = float((found == labels).mean())
    ends = [answer.exits[-1] for answer in answers]
    return {
        "accuracy": share,
        "accuracy_error": sqrt(share * (1 - share) / len(found)),
        "disagreement": float((found != full).mean()),
        "macs": float(np.mean([macs_of(bundle, policy, answer) for answer in answers])),
        "exits": {str(depth): ends.count(depth) / len(ends) for depth in range(1, bundle.manifest.depths + 1)},
        "depth": float(np.mean(ends)),
        "latency_ms": {"mean": float(times_ms.mean()), "p50": float(np.median(times_ms))},
    }


def macs_of(bundle: Bundle, policy: Policy, answer: Answer) -> int:
    """Of all that was computed for an answer, without a deadline."""
    (width, _, precision), exits = answer.point, answer.exits
    macs = bundle.point(width, exits[-1], precision).macs
    again = next((at for at in range(1, len(exits)) if exits[at] <= exits[at - 1]), None)
    first = first_of(policy)
    if again is not None and first is not None:
        macs += bundle.point(first.width, exits[again - 1], first.precision).macs
    return macs + (bundle.manifest.provenance["router"]["macs"] if routes(policy) else 0)
