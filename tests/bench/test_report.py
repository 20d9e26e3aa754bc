import json
import math
from io import StringIO

import numpy as np
import pytest
from rich.console import Console
from stretto.bench.report import Row, block_ratios, interleaved, machine, print_rows, spread, time_ms, write_json


def test_every_task_has_a_block_in_every_round_after_one_untimed_call():
    called: list[str] = []
    told: list[tuple[int, int]] = []
    tasks = {"a": lambda: called.append("a"), "b": lambda: called.append("b")}
    times = interleaved(tasks, rounds=4, calls=3, tell=lambda *progress: told.append(progress))
    assert called[:2] == ["a", "b"]
    rounds = [called[2 + 6 * n : 8 + 6 * n] for n in range(4)]
    assert all(block in (["a"] * 3 + ["b"] * 3, ["b"] * 3 + ["a"] * 3) for block in rounds)
    assert {name: part.shape for name, part in times.items()} == {"a": (4, 3), "b": (4, 3)}
    assert all((part >= 0).all() for part in times.values())
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_order_of_tasks_changes_between_rounds():
    called: list[str] = []
    interleaved({name: lambda name=name: called.append(name) for name in "abc"}, rounds=8)
    assert len({tuple(called[3 + 3 * n : 6 + 3 * n]) for n in range(8)}) > 2


def test_a_failing_task_is_not_swallowed():
    def fails() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        time_ms(fails)


def test_block_ratio_pairs_the_medians_of_one_round():
    times, of = np.array([[1.0, 2.0, 90.0], [6.0, 6.0, 6.0]]), np.array([[1.0, 1.0, 1.0], [3.0, 2.0, 9.0]])
    assert block_ratios(times, of).tolist() == [2.0, 2.0]


def test_interval_holds_the_median_and_narrows_with_more_values():
    few, many = (spread(np.random.default_rng(1).standard_normal(count)) for count in (20, 2000))
    for found in (few, many):
        assert found["min"] <= found["p25"] <= found["low"] <= found["median"] <= found["high"] <= found["p75"]
    assert many["high"] - many["low"] < few["high"] - few["low"]
    assert few["count"] == 20


def test_interval_of_one_value_is_that_value():
    assert {spread([3.0])[name] for name in ("median", "low", "high", "p25", "p75", "min")} == {3.0}


def test_spread_of_nothing_is_refused():
    with pytest.raises(ValueError, match="measure at least once"):
        spread([])


@pytest.mark.parametrize(
    ("goal", "text", "met"),
    [
        ({"at_most": 2.0}, "≤ 2", True),
        ({"at_most": 1.9}, "≤ 1.9", False),
        ({"at_least": 2.0}, "≥ 2", True),
        ({"at_least": 2.1}, "≥ 2.1", False),
        ({}, None, None),
    ],
)
def test_row_says_its_goal_and_whether_it_is_met(goal, text, met):
    row = Row("figure", "net", 2.0, "ms", **goal)
    assert (row.goal, row.met) == (text, met)
    assert (row.to_json()["goal"], row.to_json()["met"]) == (text, met)


def test_a_value_that_is_not_a_number_meets_no_goal():
    assert Row("figure", "net", math.nan, "ms", at_most=1).met is False


def test_table_shows_every_row_and_marks_a_missed_goal():
    console = Console(file=StringIO(), width=120)
    rows = [
        Row("time", "small", 2.0, "ms", at_most=1.0, spread=spread([1.0, 2.0, 3.0])),
        Row("size", "big", 0.5, "", at_most=1.0),
    ]
    print_rows(console, rows, "title")
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(text in printed for text in ("title", "time", "small", "2 ms", "≤ 1", "NO", "size", "0.5", "yes"))


def test_report_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new folder" / "report.json"
    write_json(path, {"rows": ["≤ 1"], "machine": machine()})
    before = path.read_text()
    assert json.loads(before)["rows"] == ["≤ 1"]
    with pytest.raises(TypeError):
        write_json(path, {"rows": object()})
    assert path.read_text() == before
    assert [other.name for other in path.parent.iterdir()] == ["report.json"]


def test_machine_names_processor_cores_and_versions():
    found = machine()
    assert found["cores"] >= 1 and found["processor"]
    assert found["packages"]["numpy"] == np.__version__
