"""What thresholds would have answered and cost, against counting by hand."""

import numpy as np
import pytest
from stretto.bench.easy_curves import ESCALATION, Sides, all_curves, best_within, cheapest, gain
from stretto.bench.easy_rows import Fixed, equal_macs_row, equal_time_rows, oracle, saved_row
from stretto.policies.situation import OperatingPoint
from stretto.runtime.manifest import PointRecord

MACS = {0.5: (10, 20), 1.0: (50, 100)}
WIDTHS, DEPTHS, CLASSES = (0.5, 1.0), (1, 2), 3


def record(width, depth):
    return PointRecord(width, depth, "fp32", accuracy=0.5, macs=MACS[width][depth - 1], params=1, temperature=1.0)


POINTS = tuple(record(width, depth) for width in WIDTHS for depth in DEPTHS)


def made(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    logits = {}
    for point in POINTS:
        strength = 4.0 * point.width * point.depth
        noise = rng.standard_normal((count, CLASSES))
        logits[point.point] = (noise + strength * rng.random((count, 1)) * np.eye(CLASSES)[labels]).astype(np.float32)
    return logits, labels


@pytest.fixture(scope="module")
def known():
    (fit, fit_labels), (test, test_labels) = made(300, 0), made(400, 1)
    return (fit, test), Sides(fit_labels, test_labels)


@pytest.fixture(scope="module")
def curves(known):
    return all_curves(POINTS, *known)


def one(curves, family, width):
    return next(curve for curve in curves if curve.family == family and curve.routes[0][0].width == width)


def probability(logits):
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scores.max(axis=1) / scores.sum(axis=1)


def test_there_is_a_curve_for_each_rule_and_width_and_each_escalation(curves):
    names = {curve.name for curve in curves}
    assert len(names) == len(curves) == 4 * 2 + 3
    assert sum(name.startswith(ESCALATION) for name in names) == 3


@pytest.mark.parametrize("side", ["fit", "test"])
def test_an_exit_rule_stops_where_it_is_sure(curves, known, side):
    curve, which = one(curves, "probability", 1.0), ("fit", "test").index(side)
    logits, labels = known[0][which], known[1][which]
    at = 40
    first, last = (logits[OperatingPoint(1.0, depth)] for depth in DEPTHS)
    stops = probability(first) >= curve.thresholds[at]
    assert 0 < stops.mean() < 1
    right = np.where(stops, first.argmax(axis=1), last.argmax(axis=1)) == labels
    assert curve.accuracy(side)[at] == right.mean()
    assert curve.mean_macs(side)[at] == pytest.approx(np.where(stops, 50, 100).mean())


def test_escalation_costs_both_where_the_first_look_is_not_sure(curves, known):
    curve = one(curves, ESCALATION + "probability", 0.5)
    (_, logits), labels = known[0], known[1].test
    at = 45
    look, full = logits[OperatingPoint(0.5, 2)], logits[OperatingPoint(1.0, 2)]
    sure = probability(look) >= curve.thresholds[at]
    assert 0 < sure.mean() < 1
    assert curve.accuracy("test")[at] == (np.where(sure, look.argmax(axis=1), full.argmax(axis=1)) == labels).mean()
    assert curve.mean_macs("test")[at] == pytest.approx(np.where(sure, 20, 120).mean())
    assert curve.routes == ((OperatingPoint(0.5, 2),), (OperatingPoint(0.5, 2), OperatingPoint(1.0, 2)))
    times = curve.times_ms("test", {curve.routes[0]: 1.0, curve.routes[1]: 7.0})[:, at]
    assert times.mean() == pytest.approx(np.where(sure, 1.0, 7.0).mean())


def test_never_stopping_is_the_network_itself(curves, known):
    for curve in curves:
        last = curve.routes[-1][-1]
        expected = (known[0][1][last].argmax(axis=1) == known[1].test).mean()
        assert curve.accuracy("test")[0] == expected


def test_what_is_cheapest_is_right_often_enough_where_it_was_chosen(curves):
    least = 0.8
    pick = cheapest(curves, least)
    assert pick.curve.accuracy("fit")[pick.at] >= least
    for curve in curves:
        good = curve.accuracy("fit") >= least
        assert not good.any() or curve.mean_macs("fit")[good].min() >= pick.curve.mean_macs("fit")[pick.at]
    with pytest.raises(ValueError, match="nothing is right"):
        cheapest(curves, 1.01)


def test_the_best_within_a_cost_costs_no_more(curves):
    pick = best_within(curves, lambda curve: curve.mean_macs("fit"), 60.0)
    assert pick.curve.mean_macs("fit")[pick.at] <= 60
    assert best_within(curves, lambda curve: curve.mean_macs("fit"), 5.0) is None


def test_gain_is_the_mean_of_pairs_with_its_interval():
    one, other = np.array([True] * 60 + [False] * 40), np.array([True] * 50 + [False] * 50)
    found = gain(one, other)
    assert found["mean"] == pytest.approx(0.1)
    assert found["low"] < 0.1 < found["high"]
    assert (found["low"], found["high"]) == pytest.approx((0.04, 0.16), abs=0.02)


def test_rows_tell_of_the_test_alone(curves, known):
    right = known[0][1][OperatingPoint(1.0, 2)].argmax(axis=1) == known[1].test
    pick = cheapest(curves, 0.8)
    row = saved_row("all", pick, 100, right, "toy")
    assert row.value == pytest.approx(1 - pick.curve.mean_macs("test")[pick.at] / 100)
    assert row.control["accuracy lost"] == pytest.approx(right.mean() - pick.curve.accuracy("test")[pick.at])
    plain = [curve for curve in curves if curve.family == "probability"]
    row = equal_macs_row(curves, plain, 100, "toy")
    top = max(row.control["all"], key=lambda one: one["fit"])
    assert (row.value, row.control["at"]) == (top["mean"], top["share"])
    assert all(each["fit"] >= 0 for each in row.control["all"])  # plain thresholds are among all


def test_accuracy_at_equal_time_is_against_points_that_are_as_quick(curves, known):
    points = [record.point for record in POINTS]
    route_ms = {route: float(sum(point.width * point.depth for point in route)) for c in curves for route in c.routes}
    fixed = [
        Fixed(
            point, point.width * point.depth,
            Sides(*(of[point].argmax(axis=1) == y for of, y in zip(known[0], known[1], strict=True))),
        )
        for point in points
    ]  # fmt: skip
    top, least = equal_time_rows(curves, fixed, route_ms, "mean", lambda times: times.mean(axis=0), "toy")
    assert {row["ms"] for row in top.control["all"]} == {0.5, 1.0, 2.0}
    assert top.value == max(top.control["all"], key=lambda row: row["fit"])["mean"]
    assert least.value == min(row["high"] for row in top.control["all"])


def test_the_oracle_stops_at_the_first_exit_that_is_right(known):
    logits, labels = known[0][1], known[1].test
    last = OperatingPoint(1.0, 2)
    route_ms = {(last._replace(depth=1),): 1.0, (last,): 2.0}
    first, second = (logits[last._replace(depth=depth)].argmax(axis=1) == labels for depth in DEPTHS)
    found = oracle(logits, labels, last, route_ms)
    assert found["accuracy"] == (first | second).mean()
    assert found["ms"] == pytest.approx(np.where(~first & second, 2.0, 1.0).mean())
