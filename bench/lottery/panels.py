"""Accuracy by what is left and where it began, of one kind of pruning at one learning rate, over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..jobs import Record
from .variants import RANDOM, TICKET

FEW = 0.1  # share of the weights left, at and below which tickets have to win
# Student's t for 95 % intervals, of 1 degree of freedom and up; more than the last use the last, which is wider.
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one number by seed, in the seeds' order, with its mean."""

    by_seed: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.by_seed))

    @property
    def se(self) -> float | None:
        """Standard error of the mean; None of a single seed."""
        count = len(self.by_seed)
        return float(np.std(self.by_seed, ddof=1)) / count**0.5 if count > 1 else None

    @property
    def spread(self) -> dict[str, float] | None:
        """Its 95 % interval by Student's t over the seeds; None of a single seed."""
        if self.se is None:
            return None
        count = len(self.by_seed)
        half = STUDENT[min(count - 1, len(STUDENT)) - 1] * self.se
        return {"mean": self.mean, "se": self.se, "low": self.mean - half, "high": self.mean + half, "count": count}

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"by_seed": list(self.by_seed), "mean": self.mean, "se": self.se}

    def __sub__(self, other: "Estimate") -> "Estimate":
        """Paired by seed."""
        return Estimate(tuple(a - b for a, b in zip(self.by_seed, other.by_seed, strict=True)))

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.se is None else f" ±{self.se:.2f}")


@dataclass(frozen=True, slots=True)
class Panel:
    """One kind of pruning at one learning rate.

    left: by round, the share of the weights. test, calibration: accuracies in percent by variant and round; the ticket
    of round 0 is the whole network. chance: percent that a guess gets right.
    """

    kind: str
    rate: str
    lr: float
    chance: float
    left: dict[int, float]
    test: dict[str, dict[int, Estimate]]
    calibration: dict[str, dict[int, Estimate]]

    @property
    def title(self) -> str:
        return f"{self.kind} pruned, {self.rate} learning rate {self.lr:g}"

    @property
    def name(self) -> str:
        """Short, for a column."""
        return f"{self.kind}, {self.rate}"

    @property
    def whole(self) -> Estimate:
        """The whole network, trained."""
        return self.test[TICKET][0]

    @property
    def few(self) -> list[int]:
        """The rounds that leave few weights, at which other beginnings were tried."""
        return [number for number in self.test[RANDOM] if number > 0 and self.left[number] <= FEW]

    def gain(self, of: str, over: str | None, numbers: Sequence[int]) -> Estimate:
        """Points of one variant over another, or over the whole network, averaged over rounds, by seed."""
        others = [self.whole if over is None else self.test[over][number] for number in numbers]
        gains = [(self.test[of][n] - other).by_seed for n, other in zip(numbers, others, strict=True)]
        return Estimate(tuple(np.mean(gains, axis=0).tolist()))

    def to_json(self) -> dict[str, Any]:
        """Plain data: every estimate with its seeds."""
        plain = {
            split: {
                variant: {number: estimate.to_json() for number, estimate in line.items()}
                for variant, line in getattr(self, split).items()
            }
            for split in ("test", "calibration")
        }
        return {"kind": self.kind, "rate": self.rate, "lr": self.lr, "chance": self.chance, "left": self.left} | plain


def make_panel(kind: str, rate: str, lr: float, results: Sequence[Record]) -> Panel:
    """Of searches' results with several seeds, all of the same rounds and variants."""
    panel = Panel(kind, rate, lr, 100 / results[0]["classes"], {}, {}, {})
    for same in zip(*(result["found"] for result in results), strict=True):
        number, variant = same[0]["round"], same[0]["variant"]
        panel.left[number] = same[0]["left"]
        for split in ("test", "calibration"):
            line = getattr(panel, split).setdefault(variant, {})
            line[number] = Estimate(tuple(100 * finding[split] for finding in same))
    return panel
