"""Adaptive conformal correction: quantiles that are kept as often as they say, whatever the model behind them is like.

Reference: Gibbs and Candès, Adaptive Conformal Inference Under Distribution Shift, NeurIPS 2021, eq. 2.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Coverage:
    """The level to ask a model for, so that in the long run what comes stays under the answer at rate `level`.

        α ← α + γ · ((1 − level) − missed)

    Over T answers, the share missed then differs from 1 − level by at most (α's range) / (γ T). α is kept in a range,
    beyond which no model has anything to say; the paper gives an infinite answer there.

    Args:
        level: wanted, in (0, 1).
        rate: γ; what one answer moves α by.
        least, most: of α, in (0, 1).
    """

    level: float
    rate: float = 0.002
    least: float = 0.001
    most: float = 0.05
    alpha: float = 0.0

    def __post_init__(self) -> None:
        self.alpha = self.alpha or 1 - self.level

    def observe(self, missed: bool) -> None:
        """Takes note of whether what came was above the answer."""
        moved = self.alpha + self.rate * (1 - self.level - missed)
        self.alpha = min(self.most, max(self.least, moved))

    @property
    def asked(self) -> float:
        """The level to ask the model for."""
        return 1 - self.alpha
