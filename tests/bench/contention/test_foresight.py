"""The time model's rows, from figures as `bench.foresight` gives them."""

from stretto.bench.contention.contestants import OURS, PROFILE
from stretto.bench.contention.foresight import foresight_rows
from stretto.bench.foresight import LONG, PATHS, STEPS, TUNED

NONE = {"count": 0, "under": None, "loss_ms": None, "over_hindsight": None, "over_scalar": None}
NOTHING = {STEPS: NONE, PATHS: NONE, LONG: NONE}


def figures(under: float) -> dict:
    return {"count": 9, "under": under, "loss_ms": 0.3, "over_hindsight": 1.05, "over_scalar": 0.7}


def test_a_share_above_the_level_is_as_wrong_as_one_below() -> None:
    ours = {STEPS: figures(0.994), PATHS: figures(0.98), LONG: NONE}
    rows = foresight_rows({OURS: ours, PROFILE: NOTHING, TUNED: NOTHING}, "net")
    assert [round(row.value, 3) for row in rows[:2]] == [0.4, 1.0]
    assert [row.met for row in rows] == [True, False, True, True]


def test_long_paths_are_compared_with_the_tuned_filter_where_there_are_any() -> None:
    ours = {kind: figures(0.99) for kind in (STEPS, PATHS, LONG)}
    row = foresight_rows({OURS: ours, PROFILE: NOTHING, TUNED: {LONG: figures(0.9)}}, "net")[-1]
    assert (row.value, row.goal, row.met) == (0.7, "≤ 0.75", True)


def test_what_cannot_be_said_has_no_row() -> None:
    assert foresight_rows({OURS: NOTHING, PROFILE: NOTHING, TUNED: NOTHING}, "net") == []


def test_profile_alone_has_the_same_rows_with_the_same_goals() -> None:
    kinds = {kind: figures(0.99) for kind in (STEPS, PATHS, LONG)}
    rows = foresight_rows({OURS: kinds, PROFILE: kinds, TUNED: kinds}, "net")
    ours, profile = rows[:5], rows[5:]
    assert [row.figure for row in profile] == [f"{row.figure}, profile" for row in ours]
    assert [row.goal for row in profile] == [row.goal for row in ours]
