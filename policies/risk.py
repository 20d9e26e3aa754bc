"""Thresholds with a guarantee: with a stated probability, exiting early loses at most so much against the full network.

Calibration samples say what each threshold of a list, safest first, would have lost. The rules differ in when they call
a threshold safe; all of them go through the list from the safest on and keep those before the first that isn't.

What is promised holds for inputs drawn as the calibration samples were, and for every certified threshold at once, so
that a policy may move among them, as long as it doesn't choose by the input. It is about the answers of rules that look
at every exit in turn: exits forced by a deadline aren't covered.

References: Bates et al., Distribution-Free, Risk-Controlling Prediction Sets, JACM 2021; Angelopoulos et al., Learn
then Test, AOAS 2025; Jazbec et al., Fast yet Safe: Early-Exiting with Risk Control, NeurIPS 2024. The code of the last
returns the first threshold that fails instead of the one before it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, log, log1p
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .bounds import BoolArray, bets_pass, binomial_p, hoeffding_bentkus_p
from .situation import FloatArray

Threshold = float | tuple[float, ...]  # of a rule, see `ThresholdRule`
Way = TypeVar("Way")

# name → what at most a share {} of it means, in words
LOSSES = {
    "disagreement": "gives another answer than the full fp32 network to at most {} of inputs",
    "accuracy": "is right on at most {} fewer inputs than the full fp32 network",
    "loss": "loses at most {} on average against the full fp32 network",
}
# name → what it is
METHODS = {
    "ltt": "learn then test by fixed sequence, with exact binomial or Hoeffding-Bentkus tests",
    "ucb": "upper confidence bound by betting",
    "naive": "the calibration samples' own mean, which promises nothing",
}


class TooFewSamplesError(ValueError):
    """No threshold could pass, whatever was lost; `needed`: how many samples there must be at least."""

    def __init__(self, samples: int, needed: int, epsilon: float, delta: float):
        super().__init__(
            f"{samples} calibration samples can't show a loss of at most {epsilon:g} with probability {1 - delta:g}, "
            f"even if they lose nothing; give at least {needed}, or allow a greater loss or less certainty"
        )
        self.needed = needed


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was certified, and what that means.

    Args:
        thresholds: that passed, safest first; infinity is never to stop early. Empty where not even that passed, which
            a width or precision can be like whose final exit itself loses too much.
        risks: mean loss of the calibration samples at each of them.
        epsilon: what they lose at most, in (0, 1).
        delta: probability that the promise doesn't hold, of all sequences together, in (0, 1).
        samples: how many they were certified on.
        method: in `METHODS`.
        loss: in `LOSSES`.
        sequences: how many lists of thresholds share `delta`, such as one for each width.
    """

    thresholds: tuple[Threshold, ...]
    risks: tuple[float, ...]
    epsilon: float
    delta: float
    samples: int
    method: str
    loss: str
    sequences: int = 1

    @property
    def threshold(self) -> Threshold | None:
        """The one that stops earliest; None where not even never stopping early passed."""
        return self.thresholds[-1] if self.thresholds else None

    @property
    def promise(self) -> str:
        """One sentence for whoever reads the report."""
        does = LOSSES[self.loss].format(f"{100 * self.epsilon:g} %")
        if not self.thresholds:
            return f"Nothing is promised: not even without early exits could it be shown that it {does}."
        used = _in_words(self.thresholds[-1])
        if self.method == "naive":
            return f"Nothing is promised: on these {self.samples} samples {used} {does}, on others maybe not."
        together = f", at all {self.sequences} ways at once" if self.sequences > 1 else ""
        return (
            f"With probability at least {100 * (1 - self.delta):g} % over the draw of {self.samples} calibration "
            f"samples, {used} {does}{together}; exits forced by a deadline aren't covered."
        )


def certify(
    losses: NDArray[np.generic],
    thresholds: Sequence[Threshold],
    epsilon: float,
    delta: float,
    method: str = "ltt",
    loss: str = "disagreement",
    sequences: int = 1,
) -> Certificate:
    """The thresholds that lose at most `epsilon`, with probability at least 1 − `delta` over the draw of the samples.

    Args:
        losses: (samples, thresholds), of "disagreement" 0 or 1, of "accuracy" −1, 0 or 1, of any other "loss" in
            [−1, 1], as `early.py` makes them. The samples are drawn independently, and nothing was fitted to them.
        thresholds: safest first, each at most the one before, at every exit; the first is never to stop, infinity.
        epsilon, delta: in (0, 1).
        method: "ltt" takes what is gained (a negative loss) as nothing lost, which is stricter; "ucb" counts it, and
            is better where much is lost and gained at once.
        loss: what the losses are, in `LOSSES`.
        sequences: how many such calls share `delta`; each gets an equal part of it (Bonferroni).

    Raises:
        TooFewSamplesError: no threshold could pass, whatever was lost.
        ValueError: a value is out of range, or shapes don't fit.
    """
    _check_request(epsilon, delta, method, loss, sequences)
    _check_thresholds(thresholds)
    table = _checked(losses, len(thresholds), loss)
    needed = samples_needed(epsilon, delta / sequences, method)
    if len(table) < needed:
        raise TooFewSamplesError(len(table), needed, epsilon, delta)
    passes = _passes(table, epsilon, delta / sequences, method, whole=loss != "loss")
    count = int(np.argmin(np.append(passes, False)))  # those before the first that fails
    risks = tuple(table[:, :count].mean(axis=0).tolist())
    return Certificate(tuple(thresholds[:count]), risks, epsilon, delta, len(table), method, loss, sequences)


def certify_ways(
    losses: Mapping[Way, NDArray[np.generic]],
    thresholds: Sequence[Threshold],
    epsilon: float,
    delta: float,
    method: str = "ltt",
    loss: str = "disagreement",
) -> dict[Way, Certificate]:
    """`certify` for each width and precision, on a table of losses each, so that all promises hold at once."""
    ways = len(losses)
    return {way: certify(table, thresholds, epsilon, delta, method, loss, ways) for way, table in losses.items()}


def promise_of_ways(certificates: Collection[Certificate]) -> str:
    """One sentence for all that `certify_ways` gave."""
    some = next(iter(certificates))
    does = LOSSES[some.loss].format(f"{100 * some.epsilon:g} %")
    count = sum(certificate.threshold is not None for certificate in certificates)
    if not count:
        return f"Nothing is promised: at no width and precision could it be shown that it {does}."
    if some.method == "naive":
        return f"Nothing is promised: on these {some.samples} samples stopping so {does}, on others maybe not."
    return (
        f"With probability at least {100 * (1 - some.delta):g} % over the draw of {some.samples} calibration samples, "
        f"stopping early by these thresholds {does}, at each of the {count} of {len(certificates)} widths and "
        "precisions that have one; exits forced by a deadline aren't covered."
    )


def samples_needed(epsilon: float, delta: float, method: str = "ltt") -> int:
    """The fewest samples on which a threshold that loses nothing passes."""
    if method == "naive":
        return 1
    least = ceil(log(delta) / log1p(-epsilon) * (1 - 1e-12))
    if method == "ltt":
        return least
    fails, passes = least - 1, least
    while not bets_pass(np.zeros((passes, 1)), epsilon, delta)[0]:
        fails, passes = passes, 2 * passes
    while passes - fails > 1:
        middle = (fails + passes) // 2
        if bets_pass(np.zeros((middle, 1)), epsilon, delta)[0]:
            passes = middle
        else:
            fails = middle
    return passes


def _passes(losses: FloatArray, epsilon: float, delta: float, method: str, whole: bool) -> BoolArray:
    """(thresholds,) whether each is called safe on its own; `whole`: losses are −1, 0 or 1."""
    if method == "naive":
        return losses.mean(axis=0) <= epsilon
    if method == "ucb":
        return bets_pass(losses, epsilon, delta)
    lost = losses.clip(min=0)
    p_values = binomial_p(lost, epsilon) if whole else hoeffding_bentkus_p(lost, epsilon)
    return p_values <= delta


def _check_request(epsilon: float, delta: float, method: str, loss: str, sequences: int) -> None:
    for name, value in (("epsilon", epsilon), ("delta", delta)):
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value}; give a share in (0, 1)")
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}; name one of {', '.join(METHODS)}")
    if loss not in LOSSES:
        raise ValueError(f"there is no loss {loss!r}; name one of {', '.join(LOSSES)}")
    if sequences < 1:
        raise ValueError(f"sequences is {sequences}; give how many share delta, 1 or more")


def _check_thresholds(thresholds: Sequence[Threshold]) -> None:
    if not thresholds or not _is_never(thresholds[0]):
        raise ValueError("the first threshold isn't infinity; give the safest first, which is never to stop early")
    values = np.array(thresholds, dtype=float)
    for before, after, row in zip(values, values[1:], range(1, len(values)), strict=False):
        if not np.all(after <= before):
            raise ValueError(f"threshold {thresholds[row]} comes after {thresholds[row - 1]}; give the safest first")


def _checked(losses: NDArray[np.generic], thresholds: int, loss: str) -> FloatArray:
    table = np.asarray(losses, dtype=float)
    if table.ndim != 2 or table.shape[1] != thresholds or len(table) == 0:
        raise ValueError(f"losses {table.shape}: expected (samples, {thresholds}) for as many thresholds")
    allowed = {"disagreement": "0 or 1", "accuracy": "-1, 0 or 1"}.get(loss, "in [-1, 1]")
    least = 0 if loss == "disagreement" else -1
    fits = (table >= least) & (table <= 1) & ((loss == "loss") | (table == np.round(table)))
    if not fits.all():
        raise ValueError(f"a loss is {table[~fits][0]}; each {loss} must be {allowed}")
    return table


def _in_words(threshold: Threshold) -> str:
    if _is_never(threshold):
        return "never stopping early"
    if isinstance(threshold, tuple):
        return f"stopping early at ({', '.join(f'{one:.4g}' for one in threshold)})"
    return f"stopping early at {threshold:.4g}"


def _is_never(threshold: Threshold) -> bool:
    return bool(np.all(np.asarray(threshold) == inf))
