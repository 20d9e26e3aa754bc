"""What thresholds would have answered and cost, against counting by hand."""

import numpy as np
import pytest
from stretto.bench.easy.curves import ESCALATION, Sides, Times, all_curves, best_within, cheapest, gain
from stretto.bench.easy.rows import Fixed, drawn, equal_macs_row, equal_time_rows, oracle, saved_rows
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
    """To the final exit."""
    mine = [curve for curve in curves if curve.family == family and curve.routes[0][0].width == width]
    return next(curve for curve in mine if curve.routes[-1][-1].depth == 2)


def probability(logits):
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scores.max(axis=1) / scores.sum(axis=1)


def test_there_is_a_curve_for_each_rule_and_width_and_each_escalation(curves):
    names = {curve.name for curve in curves}
    assert len(names) == len(curves) == 4 * 4 + 3
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
    times = curve.times_ms("test", Times({curve.routes[0]: 1.0, curve.routes[1]: 7.0}, {}))[:, at]
    assert times.mean() == pytest.approx(np.where(sure, 1.0, 7.0).mean())


def test_never_stopping_is_the_network_itself(curves, known):
    for curve in curves:
        last = curve.routes[-1][-1]
        expected = (known[0][1][last].argmax(axis=1) == known[1].test).mean()
        assert curve.accuracy("test")[0] == expected


def rightness(known, point, side):
    return known[0][side][point].argmax(axis=1) == known[1][side]


def test_what_is_cheapest_surely_loses_no_more_where_it_was_chosen(curves, known):
    reference = rightness(known, OperatingPoint(1.0, 2), 0)
    pick = cheapest(curves, reference, 0.03)
    lost = reference.astype(float) - pick.curve.right.fit[:, pick.at]
    assert 0 < lost.mean() + 1.645 * lost.std() / np.sqrt(len(lost)) <= 0.03
    for curve in curves:
        differences = reference[:, None].astype(float) - curve.right.fit
        good = differences.mean(axis=0) + 1.645 * differences.std(axis=0) / np.sqrt(len(lost)) <= 0.03
        assert not good.any() or curve.mean_macs("fit")[good].min() >= pick.curve.mean_macs("fit")[pick.at]
    with pytest.raises(ValueError, match="nothing loses"):
        cheapest(curves, reference, -1.0)


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
    full = OperatingPoint(1.0, 2)
    pick = cheapest(curves, rightness(known, full, 0), 0.03)
    saved, lost = saved_rows("all", pick, 100, rightness(known, full, 1), "toy")
    assert saved.value == pytest.approx(1 - pick.curve.mean_macs("test")[pick.at] / 100)
    assert lost.value == pytest.approx(rightness(known, full, 1).mean() - pick.curve.accuracy("test")[pick.at])
    plain = [curve for curve in curves if curve.family == "probability"]
    row = equal_macs_row(curves, plain, "of any", 100, "toy")
    assert row.value == pytest.approx(np.mean([each["mean"] for each in row.control["all"]]))
    assert row.spread["low"] <= row.value <= row.spread["high"]
    same = equal_macs_row(plain, plain, "of any", 100, "toy")
    assert same.value == same.spread["low"] == same.spread["high"] == 0


def test_never_stopping_takes_one_graph(curves):
    curve = one(curves, "margin", 1.0)
    times = curve.times_ms("test", Times(dict.fromkeys(curve.routes, 5.0), {OperatingPoint(1.0, 2): 3.0}))
    assert set(times[:, 0].tolist()) == {3.0} and set(times[:, 1].tolist()) == {5.0}


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
    times = Times(route_ms, {one.point: one.ms for one in fixed})
    top, least = equal_time_rows(curves, fixed, times, "mean", lambda times: times.mean(axis=0), "toy")
    assert {row["ms"] for row in top.control["all"]} == {0.5, 1.0, 2.0}
    assert top.value == max(top.control["all"], key=lambda row: row["fit"])["mean"]
    assert least.value == min(row["high"] for row in top.control["all"])


def test_the_oracle_stops_at_the_first_exit_that_is_right(known):
    logits, labels = known[0][1], known[1].test
    last = OperatingPoint(1.0, 2)
    route_ms = {(last._replace(depth=1),): 1.0, (last,): 2.0}
    first, second = (logits[last._replace(depth=depth)].argmax(axis=1) == labels for depth in DEPTHS)
    found = oracle(logits, labels, last, Times(route_ms, {}))
    assert found["accuracy"] == (first | second).mean()
    assert found["ms"] == pytest.approx(np.where(~first & second, 2.0, 1.0).mean())


def test_lines_are_what_no_quicker_setting_is_as_good_as(curves):
    adaptive = {route: float(sum(point.width * point.depth for point in route)) for c in curves for route in c.routes}
    times = Times(adaptive, {record.point: 0.9 * record.width * record.depth for record in POINTS})
    lines = {line["family"]: line for line in drawn(curves, times)}
    assert set(lines) == {curve.family for curve in curves}
    for family, line in lines.items():
        assert line["ms"] == sorted(line["ms"]) and line["accuracy"] == sorted(set(line["accuracy"]))
        for curve in (curve for curve in curves if curve.family == family):
            for ms, right in zip(curve.times_ms("test", times).mean(axis=0), curve.accuracy("test"), strict=True):
                assert max(a for m, a in zip(line["ms"], line["accuracy"], strict=True) if m <= ms) >= right
