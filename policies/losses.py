"""Stolen time: how often a scheduler takes the core from a request that runs, and how long others then run.

A task that wakes runs about a time slice undisturbed, then takes turns with the others. So losses are no Poisson
process: with x milliseconds of processor time used, the number N of losses is close to its mean, and where they fall
depends on how long the request has been running. For one class of load, this fits to the last steps that ran

    λ(x)    losses per millisecond of processor time, x milliseconds after the request's thread woke, in bins;
            Λ is its integral, so a step from x to x + c loses m = Λ(x + c) − Λ(x) turns in the mean
    N | m   the two whole numbers next to m, as regular as can be, mixed with a share ε of Poisson's numbers
    sizes   of one loss, as a histogram in units of their mean L: of those within the first slice, where only who is
            more urgent gets in between, and of those at the ends of slices, where everybody gets a turn

shrunk to what is known of the scheduler's slice while there are few.
"""

from dataclasses import dataclass
from math import exp, factorial

import numpy as np
from numpy.typing import NDArray

from .situation import FloatArray

SLICE_MS = 3.0  # Linux's base slice on up to 8 cores is 2.8 ms; one that ends is seen at the next tick, each 4 ms
TURN_MS = 4.0  # of one other task
LOST_MS = 0.1  # less stolen time than that is no turn of others, but interrupts: 1 % of idle steps have some
EARLY_MS = 2.25  # a step that ends before that only has losses within the first slice
EDGES_MS = np.array([0, 0.5, 1, 1.5, *np.arange(2, 4, 0.25), *np.arange(4, 7, 0.5), *np.arange(7, 12.1), 14, 18, 24])
MEANS = np.array([0, *np.geomspace(0.002, 0.3, 20), *np.arange(0.36, 2.1, 0.08), *np.geomspace(2.1, 10, 20)])
_WIDTHS_MS = np.diff(EDGES_MS)
_LAST = 6  # bins whose λ goes on beyond them
_UNIT = 0.25  # of a histogram of sizes, in L
_LARGEST = 6  # size in L that the histogram still tells from larger ones
_MOST = 12  # losses that are told apart
_PRIOR_PASSES = 6.0  # requests that what is known of the slice is worth
_PRIOR_LOSSES = 4.0  # losses that it is worth
_PRIOR_SIZES = ((0.5, 0.15), (0.75, 0.15), (1.0, 0.4), (1.25, 0.15), (1.75, 0.1), (2.5, 0.05))  # in L, and their shares
_TURNS = 2  # of expectation and maximisation at each fit, which begins where the last one ended


@dataclass(frozen=True, slots=True)
class Losses:
    """What was fitted.

    `rates`: (bins,) λ; `upto`: (bins + 1,) Λ at `EDGES_MS`; `beyond`: λ after them; `size_ms`: (2,) L of early and
    other losses; `sizes`: (2, grid); `spread`: ε.
    """

    rates: FloatArray
    upto: FloatArray
    beyond: float
    size_ms: FloatArray
    sizes: FloatArray
    spread: float

    def until(self, used_ms: FloatArray) -> FloatArray:
        """Λ: losses expected until so much processor time has been used; any shape."""
        mean: FloatArray = np.asarray(np.interp(used_ms, EDGES_MS, self.upto))
        return mean + self.beyond * np.maximum(used_ms - EDGES_MS[-1], 0.0)

    def quantiles(self, levels: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Of stolen time, for every number of losses in `MEANS` to expect.

        Returns:
            (2, means, levels) ms, early losses and others; and (means,) how likely there is none.
        """
        number = (1 - self.spread) * _REGULAR + self.spread * _POISSON
        stolen = [_of_sums(number, sizes, levels) for sizes in self.sizes]
        return np.stack(stolen) * (self.size_ms[:, None, None] * _UNIT), number[:, 0]


def expected_losses(contention: float, size_ms: float) -> Losses:
    """What is known of a scheduler before anything ran; `contention`: chance that another task wants this core."""
    middle_ms = (EDGES_MS[1:] + EDGES_MS[:-1]) / 2
    after_slice = np.clip((middle_ms - 0.3 * SLICE_MS) / (0.7 * SLICE_MS), 0.02, 1)
    sizes = np.stack([_histogram(np.empty(0), np.empty(0))] * 2)
    return _losses(contention * after_slice / SLICE_MS, np.full(2, size_ms), sizes, 0.1)


def fitted(steps: FloatArray, prior: Losses, latest: Losses) -> Losses:
    """`latest` moved towards what steps say; (steps, 3) ms: processor time used before and after, time stolen."""
    begin, end, stolen = steps.T
    number = _count(end - begin, stolen, latest.size_ms[1])
    overlap = np.minimum(end[:, None], EDGES_MS[1:]) - np.maximum(begin[:, None], EDGES_MS[:-1])
    np.maximum(overlap, 0.0, out=overlap)
    passes, rates = _PRIOR_PASSES * _WIDTHS_MS, latest.rates
    exposure = passes + overlap.sum(axis=0)
    lost = np.flatnonzero(number)
    within, count = overlap[lost], number[lost]
    for _ in range(_TURNS):  # where in a step its losses fell isn't known: shared out by the rates so far
        share = within * rates
        fallen = (count / np.maximum(share.sum(axis=1), 1e-9)) @ share
        rates = np.maximum((passes * prior.rates + fallen) / exposure, 1e-6)
    size_ms, sizes = _sizes_of(stolen[lost] / count, count, end[lost] <= EARLY_MS, prior.size_ms)
    losses = _losses(rates, size_ms, sizes, 0.1)
    spread = _spread(number, losses.until(end) - losses.until(begin))
    return _losses(rates, size_ms, sizes, spread)


def _losses(rates: FloatArray, size_ms: FloatArray, sizes: FloatArray, spread: float) -> Losses:
    upto = np.concatenate([[0.0], np.cumsum(rates * _WIDTHS_MS)])
    beyond = float((upto[-1] - upto[-1 - _LAST]) / (EDGES_MS[-1] - EDGES_MS[-1 - _LAST]))
    return Losses(rates, upto, beyond, size_ms, sizes, spread)


def _count(used_ms: FloatArray, stolen_ms: FloatArray, size_ms: float) -> FloatArray:
    """(steps,) losses in each, as far as their sum tells: another one needs another slice in between."""
    most = 1 + np.maximum(used_ms, 0.0) // (0.8 * SLICE_MS)
    return np.where(stolen_ms > LOST_MS, np.clip(np.rint(stolen_ms / size_ms), 1, most), 0)


def _sizes_of(
    each_ms: FloatArray, count: FloatArray, is_early: NDArray[np.bool_], prior_ms: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(2,) mean and (2, grid) histogram of the sizes of early losses and others."""
    means, histograms = [], []
    for chosen, expected_ms in zip((is_early, np.logical_not(is_early)), prior_ms, strict=True):
        sizes_ms, weight = each_ms[chosen], count[chosen]
        mean_ms = (_PRIOR_LOSSES * expected_ms + sizes_ms @ weight) / (_PRIOR_LOSSES + weight.sum())
        means.append(mean_ms)
        histograms.append(_histogram(sizes_ms / mean_ms, weight))
    return np.array(means), np.stack(histograms)


def _histogram(sizes: FloatArray, weight: FloatArray) -> FloatArray:
    """(grid,) probability of each size, rounded up to multiples of a quarter."""
    largest = int(_LARGEST / _UNIT)
    at = np.minimum(np.ceil(sizes / _UNIT), largest).astype(np.intp)
    counts = np.bincount(at, weight, minlength=largest + 1)
    for size, share in _PRIOR_SIZES:
        counts[int(size / _UNIT)] += _PRIOR_LOSSES * share
    return counts / counts.sum()


def _spread(number: FloatArray, mean: FloatArray) -> float:
    """ε by the variance of N around m: f (1 − f) where N is next to m, whose fraction is f; m where it's Poisson's."""
    fraction = mean - np.floor(mean)
    regular = (fraction * (1 - fraction)).sum()
    excess = ((number - mean) ** 2).sum() - regular
    return float(np.clip((0.1 + excess) / (1.0 + mean.sum() - regular), 0.02, 1.0))


def _of_sums(number: FloatArray, sizes: FloatArray, levels: FloatArray) -> FloatArray:
    """(means, levels) quantiles, on the histogram's grid, of the sum of N sizes; `number`: (means, numbers) of N."""
    sums = np.zeros((_MOST + 1, _MOST * (len(sizes) - 1) + 1))
    power = sums[0, :1] = np.ones(1)
    for n in range(1, _MOST + 1):
        power = np.convolve(power, sizes)
        sums[n, : len(power)] = power
    # few enough numbers for OpenBLAS to multiply them on this thread: with its pool it took 5 ms on a busy machine
    below = number @ sums.cumsum(axis=1)
    rows = np.arange(len(below))[:, None]
    below += rows  # one search in all rows: row i lies in i … i + 1
    found = np.searchsorted(below.ravel(), (levels + rows).ravel() - 1e-9)
    return np.minimum(found.reshape(len(below), -1) - rows * below.shape[1], below.shape[1] - 1)


_POISSON = np.array([[exp(-mean) * mean**n / factorial(n) for n in range(_MOST + 1)] for mean in MEANS])
_REGULAR = np.clip(1 - np.abs(MEANS[:, None] - np.arange(_MOST + 1)), 0, None)
_POISSON /= _POISSON.sum(axis=1, keepdims=True)
