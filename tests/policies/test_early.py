"""What early exiting would have answered is what the rules do when they run; losses are against the full network."""

from math import inf

import numpy as np
import pytest
from stretto.policies.early import accuracy_gap, certainties, disagreement, early_labels, stop_depths
from stretto.policies.exits import EntropyRule, ExitRule, MarginRule, PatienceRule
from stretto.policies.scores import highest_score
from stretto.policies.situation import Evidence, OperatingPoint

EXITS = 4


def paths(samples: int) -> list[tuple[Evidence, ...]]:
    """Every exit's evidence for each sample, ever surer with depth."""
    logits = np.random.default_rng(3).normal(size=(samples, EXITS, 5)) * np.arange(1, EXITS + 1)[:, None]
    return [
        tuple(
            Evidence(OperatingPoint(1.0, depth), row, 1.5, *highest_score(row, 1.5), 0.5)
            for depth, row in enumerate(sample, start=1)
        )
        for sample in logits
    ]


@pytest.mark.parametrize(
    "rule, thresholds",
    [
        (ExitRule, [inf, 0.9, 0.6, 0.3]),
        (MarginRule, [inf, 0.9, 0.4, 0.1]),
        (EntropyRule, [inf, 0.8, 0.3, 0.05]),
        (PatienceRule, [inf, 3, 2, 1]),
        (ExitRule, [(inf, inf, inf), (inf, 0.9, 0.7), (0.5, 0.5, 0.7)]),
    ],
)
def test_stops_are_where_the_rule_itself_stops(rule, thresholds):
    samples = paths(200)
    logits = [np.array([path[exit].logits for path in samples]) for exit in range(EXITS)]
    certainty = certainties(rule(inf), logits, [1.5] * EXITS)
    depths = stop_depths(certainty, np.array(thresholds))
    for column, threshold in enumerate(thresholds):
        sure_at = rule(threshold)
        for path, depth in zip(samples, depths[:, column], strict=True):
            assert depth == next((d for d in range(1, EXITS) if sure_at.is_sure(path[:d])), EXITS)
    assert len(set(depths.ravel().tolist())) == EXITS, "every exit is stopped at somewhere"


def test_never_stopping_answers_as_the_final_exit():
    labels = np.array([[0, 1, 2], [2, 1, 0]])
    certainty = np.ones((2, 3))
    depths = stop_depths(certainty, np.array([inf, 1.0]))
    assert depths.tolist() == [[3, 1], [3, 1]]
    assert early_labels(labels, depths).tolist() == [[2, 0], [0, 2]]


def test_single_exit_is_the_final_one():
    assert stop_depths(np.ones((2, 1)), np.array([inf, 0.5])).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("certainty, thresholds", [((3,), (2,)), ((3, 4), (2, 4)), ((3, 4), (2, 3, 1))])
def test_shapes_that_do_not_fit_are_refused(certainty, thresholds):
    with pytest.raises(ValueError, match=r"expected \(samples, exits\) and \(thresholds,\)"):
        stop_depths(np.zeros(certainty), np.zeros(thresholds))


def test_losses_are_against_the_full_network():
    early, full, truth = np.array([[1, 0], [2, 2], [3, 1]]), np.array([1, 2, 1]), np.array([1, 0, 3])
    assert disagreement(early, full).tolist() == [[False, True], [False, False], [True, False]]
    assert accuracy_gap(early, full, truth).tolist() == [[0, 1], [0, 0], [-1, 0]]


def test_mean_gap_is_the_accuracy_that_is_lost():
    rng = np.random.default_rng(0)
    early, full, truth = rng.integers(3, size=(500, 7)), rng.integers(3, size=500), rng.integers(3, size=500)
    lost = (full == truth).mean() - (early == truth[:, None]).mean(axis=0)
    assert accuracy_gap(early, full, truth).mean(axis=0) == pytest.approx(lost)
