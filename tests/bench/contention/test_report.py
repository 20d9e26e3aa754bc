"""Rows and the picture from made-up rounds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stretto.bench.contention.comparisons import BEST_FIXED, CLAIRVOYANT, GOALS, PHASE_ORACLE
from stretto.bench.contention.contestants import AGAIN, FULL, ONWARD, OURS, PROFILE, SMALLEST, SWITCHED
from stretto.bench.contention.report import (
    Known,
    Table,
    comparison_rows,
    counts,
    lateness_rows,
    precision_rows,
)
from stretto.bench.contention.rounds import Answered, Round
from stretto.bench.recordings import Leg, RecordedPath, Route
from stretto.policies.load import UNKNOWN
from stretto.policies.situation import OperatingPoint, Step

SAMPLES = 40
POINTS = tuple(OperatingPoint(1.0, depth, precision) for precision in ("fp32", "int8") for depth in (1, 2))
SMALL = POINTS[2]


def known() -> Known:
    """Depth 1 is right on half of the samples, depth 2 on all but each tenth; int8 is wrong on one more."""
    numbers = np.arange(SAMPLES)
    shallow, deep = numbers % 2 == 0, numbers % 10 != 9
    right = np.stack([shallow, deep, shallow, deep & (numbers != 1)], axis=1)
    return Known(POINTS, np.array([0.5, 0.9, 0.5, 0.88]), right, numbers % 3)


def round_of(number: int) -> Round:
    """Calm rounds, in which depth 2 is in time, and busy ones, in which only depth 1 is; ours always takes the best."""
    calm, sample = number % 80 < 40, number % SAMPLES
    what, label = known(), int(known().labels[sample])
    times = {"fp32": [4.0, 8.0 if calm else 30.0], "int8": [1.0, 2.5 if calm else 20.0]}

    def answer(point: OperatingPoint) -> Answered:
        place = POINTS.index(point)
        return Answered(times[point.precision][point.depth - 1], label if what.right[sample, place] else 9, point)

    best = POINTS[1] if calm else POINTS[0]
    answers = {OURS: answer(best), SMALLEST: answer(SMALL), AGAIN: answer(SMALL), FULL: answer(POINTS[3])}
    answers[ONWARD] = Answered(10.5, label, best) if number % 4 else Answered(500.0, -1, None)
    paths = {Route(1.0, precision): path_of([reached_ms[0], 1e6]) for precision, reached_ms in times.items()}
    paths |= {Route(1.0, precision, True): path_of(reached_ms[1:]) for precision, reached_ms in times.items()}
    return Round(number // 40, "idle" if calm else "bursts", True, 10.0, sample, answers, paths)


def path_of(reached_ms: list[float]) -> RecordedPath:
    """Of which only the times count."""
    legs = [Leg(Step(0, 1, 1.0), 0.0, took_ms, took_ms, UNKNOWN) for took_ms in np.diff([0.0, *reached_ms])]
    return RecordedPath(0, "", 0.0, tuple(legs))


@pytest.fixture(scope="module")
def table() -> Table:
    return Table([round_of(number) for number in range(160)], known())


def test_the_phase_oracle_is_as_good_as_who_takes_the_best_point_of_each_phase(table: Table) -> None:
    rows = {row.figure: row for row in comparison_rows(table, "made up")}
    ours = rows["wrong or late over the phase oracle's"]
    assert (ours.value, ours.goal, ours.met) == (1.0, "≤ 1.02", True)
    assert ours.control is not None and ours.control.pop("counted")["value"] == 1.0
    places = {"idle": {OURS: 8, PHASE_ORACLE: 8}, "bursts": {OURS: 40, PHASE_ORACLE: 40}}
    assert ours.control == {"rounds": 160, OURS: 48, PHASE_ORACLE: 48, "by environment": places}
    assert not (table.outcomes[CLAIRVOYANT].failed & ~table.outcomes[PHASE_ORACLE].failed).any()


def test_one_fixed_point_for_all_phases_fails_more_often(table: Table) -> None:
    assert table.outcomes[BEST_FIXED].failed.sum() == 80
    rows = {row.figure: row for row in comparison_rows(table, "made up")}
    row = rows["wrong or late over the best fixed point's, all environments"]
    assert row.value == pytest.approx(48 / 80) and row.met


def test_chance_moves_nothing_between_two_that_do_the_same(table: Table) -> None:
    rows = {row.figure: row for row in comparison_rows(table, "made up")}
    for what in ("deadlines met", "wrong or late"):
        row = rows[f"{what}, smallest network over itself (chance)"]
        assert (row.value, row.spread) == (1.0, None)  # of too few rounds for an interval


def test_who_took_no_part_has_no_row(table: Table) -> None:
    assert not any(SWITCHED in row.figure for row in comparison_rows(table, "made up"))


def test_profile_alone_has_every_goal_of_this_runtime_counted_by_its_own_answers() -> None:
    rounds = [round_of(number) for number in range(160)]
    both = [replace(now, answers={PROFILE: now.answers[SMALLEST], SWITCHED: now.answers[SMALLEST], **now.answers})
            for now in rounds]  # fmt: skip
    what = replace(known(), switched={SMALL: 0.5})
    rows = {row.figure: row for row in comparison_rows(Table(both, what), "made up")}
    for goal in GOALS:
        assert rows[f"{goal.figure}, profile"].goal == rows[goal.figure].goal is not None
    assert rows["wrong or late over the phase oracle's, profile"].value == pytest.approx(80 / 48)
    assert rows["wrong or late over those with the profile alone"].value == pytest.approx(48 / 80)


def test_lateness_counts_only_where_an_exit_was_reached_and_has_its_goal_on_the_idle_machine(table: Table) -> None:
    rows = {row.figure: row for row in lateness_rows(table, "made up")}
    idle, bursts = (rows[f"result() later than the deadline, p99, {name}"] for name in ("idle", "bursts"))
    assert (idle.value, idle.goal, bursts.goal) == (0.5, "≤ 2", None)
    assert idle.control is not None and idle.control["requests"] == 60


def test_int8_is_compared_at_the_full_width_and_final_exit(table: Table) -> None:
    lost, faster = precision_rows(table, "made up")
    assert lost.value == pytest.approx(100 / SAMPLES) and lost.met is False
    assert faster.value == pytest.approx(8.0 / 2.5) and faster.met is True


def test_counts_of_everybody_add_up_to_all_rounds(table: Table) -> None:
    ours = [count for count in counts(table) if count["who"] == OURS]
    assert sum(count["requests"] for count in ours) == 160
    for kind in ("wrong_or_late", "expected_wrong_or_late"):
        assert {count["environment"]: count[kind] for count in ours} == {"idle": 8, "bursts": 40}
    assert all(count["met"] == count["requests"] for count in ours)


def test_picture_is_drawn_from_the_report(table: Table, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    from stretto.bench.contention.picture import draw

    draw({"bundle": {"name": "toy.stretto"}, "counts": counts(table)}, tmp_path / "deep" / "picture.png")
    assert (tmp_path / "deep" / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_switched_networks_are_as_wrong_as_their_own_points_not_as_the_supernets() -> None:
    what = replace(known(), switched={OperatingPoint(1.0, 1, "fp32"): 0.25})
    answers = {who: Answered(1.0, 9, OperatingPoint(1.0, 1, "fp32")) for who in (OURS, SWITCHED)}
    table = Table([replace(round_of(0), answers=answers)] * 4, what)
    assert table.outcomes[SWITCHED].expected.tolist() == [0.25] * 4
    assert table.outcomes[OURS].expected.tolist() == [0.5] * 4
