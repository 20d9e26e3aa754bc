"""Is what `stretto calibrate` promises kept? Shown by drawing calibration sets anew from a pool, again and again."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...policies.risk import TooFewSamplesError, certify_ways
from ...runtime.manifest import PointRecord
from ...training.certify import LOSSES, Logits, Way, stops_of, thresholds
from ..report import Row

DRAWS = 500
SAMPLES = 2000
DELTA = 0.05
_WITHIN = 1.645  # standard errors that a share of draws may be above δ by chance


@dataclass(frozen=True, slots=True)
class Promise:
    """One that is drawn for. `ways`: "full width" or "all widths", which share δ."""

    method: str
    loss: str
    epsilon: float
    ways: str


PROMISES = tuple(
    Promise(method, loss, epsilon, ways)
    for method in ("ltt", "ucb", "naive")
    for loss, epsilon in (("disagreement", 0.02), ("accuracy", 0.02))
    for ways in ("full width", "all widths")
)


def guarantee_rows(
    points: Sequence[PointRecord], logits: Logits, labels: NDArray[np.int64], network: str, tell: Any
) -> list[Row]:
    """A row for each of `PROMISES`: the share of draws in which a threshold that was certified loses more.

    Each draw, with replacement, is judged by what its thresholds lose on the whole pool: `logits`, `labels`.
    """
    reference = max((record for record in points if record.precision == "fp32"), key=lambda r: (r.width, r.depth))
    grid = thresholds("probability", reference.depth)
    full = logits[reference.point].argmax(axis=1)
    early = {way: answers for way, (_, answers) in stops_of(points, logits, "probability", grid).items()}
    rows = []
    for done, promise in enumerate(PROMISES):
        tell("guarantee", done, len(PROMISES))
        chosen = [way for way in early if promise.ways == "all widths" or way[0] == reference.width]
        losses = {way: LOSSES[promise.loss](early[way], full, labels) for way in chosen}
        rows.append(_row(promise, losses, grid, network))
    tell("guarantee", len(PROMISES), len(PROMISES))
    return rows


def _row(promise: Promise, losses: Mapping[Way, NDArray[Any]], grid: Sequence[float], network: str) -> Row:
    rng, pool = np.random.default_rng(0), len(next(iter(losses.values())))
    risks = {way: table.mean(axis=0) for way, table in losses.items()}
    violated, certified, refused = 0, 0, 0
    for _ in range(DRAWS):
        drawn = rng.integers(0, pool, SAMPLES)
        tables = {way: table[drawn] for way, table in losses.items()}
        try:
            found = certify_ways(tables, grid, promise.epsilon, DELTA, promise.method, promise.loss)
        except TooFewSamplesError:
            refused += 1
            continue
        used = {way: risks[way][len(each.thresholds) - 1] for way, each in found.items() if each.thresholds}
        certified += bool(used)
        violated += any(risk > promise.epsilon for risk in used.values())
    most = DELTA + _WITHIN * sqrt(DELTA * (1 - DELTA) / DRAWS)
    return Row(
        f"{promise.method}, {promise.loss} at most {promise.epsilon:g}, {promise.ways}: draws that lose more",
        network, violated / DRAWS, "", at_most=None if promise.method == "naive" else most,
        control={**asdict(promise), "delta": DELTA, "draws": DRAWS, "samples": SAMPLES, "pool": pool,
                 "certified": certified / DRAWS, "refused": refused / DRAWS},
        note="δ 0.05 and its binomial error" if promise.method != "naive" else "promises nothing",
    )  # fmt: skip
