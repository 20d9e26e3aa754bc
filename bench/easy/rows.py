"""The figures of `bench.easy`: chosen on the samples that choose, told of the test's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...policies.situation import OperatingPoint
from ...training.certify import Logits
from ..report import Row, spread
from .curves import Curve, Pick, Sides, Times, best_within, gain
from .times import BATCH, Taken

SHARES = tuple(np.round(np.arange(0.1, 0.96, 0.05), 2).tolist())  # of the full network's MACs
Middle = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # (samples, thresholds) to (thresholds,)
MIDDLES: dict[str, Middle] = {
    "median": lambda times: np.median(times, axis=0),
    "mean": lambda times: times.mean(axis=0),
}
LOST = 0.005  # accuracy that may be lost
SAVED, GAINED, MORE, FASTER = 0.4, 0.003, 0.005, 1.3  # the goals
_RESAMPLES = 500


class Fixed(NamedTuple):
    """A point in one graph: its median time, and whether it is right on each sample."""

    point: OperatingPoint
    ms: float
    right: Sides


def saved_rows(who: str, pick: Pick, full_macs: int, reference: NDArray[np.bool_], about: str) -> list[Row]:
    """MACs saved of the full network's, and accuracy lost.

    `reference`: whether the full network, in the same precision, is right on each of the test's samples.
    """
    saved = 1 - pick.curve.macs[pick.curve.ends.test[:, pick.at]] / full_macs
    lost, none = gain(reference, pick.right), np.zeros(len(saved))
    return [
        Row(
            f"MACs saved by {who}", about, float(saved.mean()), "", at_least=SAVED, spread=gain(saved, none),
            control={"chosen": pick.says},
        ),
        Row(f"accuracy lost by {who}", about, lost["mean"], "", at_most=LOST, spread=lost),
    ]  # fmt: skip


def equal_macs_row(
    curves: Sequence[Curve], plain: Sequence[Curve], whose: str, full_macs: int, about: str, who: str = ""
) -> Row:
    """Accuracy over thresholds on the highest probability at equal MACs, mean over shares of the full network's.

    Either is the best that those that choose find within a share. `who`: what the curves are of, nothing for all;
    `whose`: what the plain thresholds are of.
    """
    found = []
    for share in SHARES:
        best, base = (best_within(group, _fit_macs, share * full_macs) for group in (curves, plain))
        if best is not None and base is not None:
            found.append((share, best, base))
    rows = [
        {
            "share": share,
            "chosen": best.says,
            "against": base.says,
            "macs": [float(pick.curve.mean_macs("test")[pick.at] / full_macs) for pick in (best, base)],
            **gain(best.right, base.right),
        }
        for share, best, base in found
    ]
    each = [np.mean([pick.right for pick in side], axis=0) for side in list(zip(*found, strict=True))[1:]]
    mean = gain(*each)
    return Row(
        f"accuracy {who}over thresholds on the highest probability {whose}, at equal MACs", about, mean["mean"], "",
        at_least=GAINED, spread=mean, control={"all": rows}, note="mean over shares of the full network's MACs",
    )  # fmt: skip


def equal_time_rows(
    curves: Sequence[Curve],
    fixed: Sequence[Fixed],
    times: Times,
    kind: str,
    middle: Middle,
    about: str,
) -> list[Row]:
    """Accuracy over the best fixed point at equal time: where those that choose gain most, and where the test least."""

    def cost(curve: Curve) -> NDArray[np.float64]:
        return middle(curve.times_ms("fit", times))

    rows: list[dict[str, Any]] = []
    for most in sorted(one.ms for one in fixed):
        base = max((one for one in fixed if one.ms <= most), key=lambda one: one.right.fit.mean())
        best = best_within(curves, cost, most)
        if best is not None:
            rows.append(
                {
                    "ms": most,
                    "chosen": best.says,
                    "against": list(base.point),
                    "fit": float(best.curve.accuracy("fit")[best.at] - base.right.fit.mean()),
                    "ms on the test": float(middle(best.curve.times_ms("test", times))[best.at]),
                    **gain(best.right, base.right.test),
                }
            )
    if not rows:
        return []
    top, least = max(rows, key=lambda row: row["fit"]), min(rows, key=lambda row: row["high"])
    figure = f"accuracy over the best fixed point at equal {kind} time"
    return [
        Row(figure, about, top["mean"], "", at_least=MORE, spread=_spread(top), control={"at": top, "all": rows}),
        Row(
            f"{figure}, where it is least: upper end of its interval", about, least["high"], "", at_least=0.0,
            spread=_spread(least), control={"at": least},
        ),
    ]  # fmt: skip


def _spread(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: row[name] for name in ("mean", "low", "high", "count")}


def time_row(who: str, pick: Pick, taken: Taken, labels: NDArray[np.int64], about: str) -> Row:
    """Median time of a request over the full network's, on the same inputs in turns."""
    pick_ms, full_ms = taken.pick_ms, taken.full_ms
    drawn = np.random.default_rng(0).integers(0, len(pick_ms), (_RESAMPLES, len(pick_ms)))
    low, high = np.quantile(np.median(pick_ms[drawn], axis=1) / np.median(full_ms[drawn], axis=1), (0.025, 0.975))
    right = np.array([answer.index for answer in taken.answers]) == labels[: len(taken.answers)]
    return Row(
        f"median time over the full network by {who}", about, float(np.median(pick_ms) / np.median(full_ms)), "×",
        at_most=1.0, spread={"low": float(low), "high": float(high), "count": len(pick_ms)},
        control={
            "full, ms": float(np.median(full_ms)),
            "mean over mean": float(pick_ms.mean() / full_ms.mean()),
            "right as foretold": float((right == pick.right[: len(right)]).mean()),
        },
    )  # fmt: skip


def batch_row(who: str, taken: Taken, about: str) -> Row:
    """Samples a second in batches, over the full network's."""
    ratio = float(taken.full_ms.sum() / taken.pick_ms.sum())
    return Row(
        f"batch of {BATCH}: throughput over the full network by {who}", about, ratio, "×", at_least=FASTER,
        spread=spread(taken.full_ms / taken.pick_ms), control={"full, ms a batch": float(np.median(taken.full_ms))},
    )  # fmt: skip


def drawn(curves: Sequence[Curve], times: Times) -> list[dict[str, Any]]:
    """For the picture: of each family, the settings that no quicker one is as good as, on the test, quickest first."""
    lines = []
    for family in dict.fromkeys(curve.family for curve in curves):
        mine = [curve for curve in curves if curve.family == family]
        ms = np.concatenate([curve.times_ms("test", times).mean(axis=0) for curve in mine])
        right = np.concatenate([curve.accuracy("test") for curve in mine])
        order = np.lexsort((-right, ms))
        kept = [at for at, best in zip(order, np.maximum.accumulate(right[order]), strict=True) if right[at] == best]
        _, first = np.unique(right[kept], return_index=True)
        chosen = np.array(kept)[np.sort(first)]
        lines.append({"family": family, "ms": ms[chosen].tolist(), "accuracy": right[chosen].tolist()})
    return lines


def oracle(logits: Logits, labels: NDArray[np.int64], last: OperatingPoint, times: Times) -> dict[str, float]:
    """Who knows which exits of the full width are right: at the first of those, or at the first of all if none is."""
    points = [last._replace(depth=depth) for depth in range(1, last.depth + 1)]
    right = np.stack([logits[point].argmax(axis=1) == labels for point in points], axis=1)
    each = np.array([times.adaptive[(point,)] for point in points])
    return {"ms": float(each[right.argmax(axis=1)].mean()), "accuracy": float(right.any(axis=1).mean())}


def _fit_macs(curve: Curve) -> NDArray[np.float64]:
    return curve.mean_macs("fit")
