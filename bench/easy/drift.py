"""How soon blurred and noised inputs are noticed, and how seldom clean ones are taken for such, on streams."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...policies.cusum import Chart
from ...policies.drift import Drift
from ...runtime.manifest import CertifiedWay
from ...runtime.shadow import HORIZON, SHARE, drift_of
from ..report import Row

STREAMS = 200
SOON = 200  # shadowed requests within which a change is to be noticed
BEFORE = 100  # clean shadowed ones that come first
ENOUGH = 0.95  # share of streams

BLUR = 1 / 32  # to either side, of the image's: the mean of 3 × 3 in 32 pixels
NOISE = 0.1  # standard deviation, of the range of pixels
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a certified rule did to each of some inputs: whether it stopped early, and answered as the full network."""

    early: NDArray[np.bool_]
    agreed: NDArray[np.bool_]


class Found(NamedTuple):
    """Of each stream, shadowed requests from the change to the alarm, infinity for none; the share by early stops."""

    after: NDArray[np.float64]
    by_early: float


def blurred(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images, (N, C, H, W), each pixel the mean of its neighbourhood, at the edges of itself again."""
    height, width = pixels.shape[2:]
    reach = max(1, round(BLUR * min(height, width)))
    side = 2 * reach + 1
    wide = np.pad(pixels, ((0, 0), (0, 0), (reach,) * 2, (reach,) * 2), mode="edge").astype(np.float32)
    total = np.zeros(pixels.shape, np.float32)
    for down in range(side):
        for right in range(side):
            total += wide[:, :, down : down + height, right : right + width]
    return np.round(total / side**2).astype(np.uint8)


def noised(pixels: NDArray[np.uint8], seed: int = 0) -> NDArray[np.uint8]:
    """Images with independent normal noise on every number."""
    noise = np.random.default_rng(seed).normal(0, NOISE * 255, pixels.shape)
    return np.clip(np.round(pixels + noise), 0, 255).astype(np.uint8)


CHANGES: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {"blurred": blurred, "noised": noised}


def noticed(way: CertifiedWay, samples: int, clean: Seen, changed: Seen, tell: Tell, what: str) -> Found:
    """Streams of clean inputs, and from some moment on of changed ones, each drawn at random.

    Where the alarm comes before the change, that stream counts as not noticed.
    """
    after, early = np.full(STREAMS, np.inf), 0
    for stream in range(STREAMS):
        tell(what, stream, STREAMS)
        rng, drift = np.random.default_rng(stream), drift_of(way, samples, SHARE)
        if _run(drift, clean, BEFORE, rng) is None:
            shadowed = _run(drift, changed, 5 * SOON, rng)
            after[stream] = np.inf if shadowed is None else shadowed
            early += drift.warning is not None and "disagreed" not in drift.warning
    tell(what, STREAMS, STREAMS)
    return Found(after, early / STREAMS)


def _run(drift: Drift, seen: Seen, shadowed: int, rng: np.random.Generator) -> int | None:
    """Tells of so many shadowed requests and of all between them; how many it took to the alarm, None without one."""
    each = round(1 / SHARE)
    for number in range(shadowed):
        drawn = rng.integers(0, len(seen.early), each)
        for early in seen.early[drawn].tolist():
            drift.tell_early(early)
        drift.tell_agreed(bool(seen.agreed[drawn[-1]]))
        if drift.state == "alarm":
            return number + 1
    return None


def false_alarms(way: CertifiedWay, samples: int, clean: Seen, tell: Tell) -> float:
    """Share of streams of `HORIZON` clean shadowed requests, and all between them, in which an alarm is raised."""
    drift = drift_of(way, samples, SHARE)
    alarmed = np.zeros(STREAMS, bool)
    share_early = float(clean.early.mean())
    rates = (1 - float(clean.agreed.mean()), share_early, 1 - share_early)
    trials = (HORIZON, round(HORIZON / SHARE), round(HORIZON / SHARE))
    for number, (watch, rate, count) in enumerate(zip(drift.watches, rates, trials, strict=True)):
        if watch is not None:
            alarmed |= walks(watch.chart, rate, count, np.random.default_rng(number), tell)
    return float(alarmed.mean())


def walks(chart: Chart, rate: float, trials: int, rng: np.random.Generator, tell: Tell) -> NDArray[np.bool_]:
    """(STREAMS,) whether a sum as of `policies.cusum` reaches its limit within so many independent trials."""
    up, down, limit = chart
    sums, reached = np.zeros(STREAMS, np.int64), np.zeros(STREAMS, bool)
    block = 1000
    for start in range(0, trials, block):
        tell("clean streams", start, trials)
        for moves in np.where(rng.random((min(block, trials - start), STREAMS)) < rate, up, -down):
            sums = np.maximum(sums + moves, 0)
            reached |= sums >= limit
    tell("clean streams", trials, trials)
    return reached


def drift_rows(way: CertifiedWay, samples: int, seen: dict[str, Seen], network: str, tell: Tell) -> list[Row]:
    """A row for each change, and one for none; `seen`: "clean", and each of `CHANGES`."""
    clean = seen["clean"]
    rows = []
    for change in CHANGES:
        found = noticed(way, samples, clean, seen[change], tell, change)
        middle = float(np.median(found.after))
        about = {
            "median shadowed until then": middle if np.isfinite(middle) else None,
            "by early stops": found.by_early,
        }
        for name in (change, "clean"):
            about |= {
                f"{name}: early": float(seen[name].early.mean()),
                f"{name}: agree": float(seen[name].agreed.mean()),
            }
        figure = f"inputs {change} in mid-stream: noticed within {SOON} shadowed requests"
        soon = float((found.after <= SOON).mean())
        rows.append(Row(figure, network, soon, "of streams", at_least=ENOUGH, control=about))
    quiet = 1 - false_alarms(way, samples, clean, tell)
    rows.append(Row(
        f"clean inputs: no warning in {HORIZON:,} shadowed requests", network, quiet, "of streams", at_least=ENOUGH,
        control={"streams": STREAMS, "requests": round(HORIZON / SHARE)},
    ))  # fmt: skip
    return rows
