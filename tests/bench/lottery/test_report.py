"""What searches found is compared by pairs, at few weights, and nothing is chosen on the test."""

from typing import Any

import pytest
from stretto.bench.lottery.panels import Estimate, Panel, make_panel
from stretto.bench.lottery.report import make_rows, smallest_match
from stretto.bench.lottery.variants import TICKET, UNTRAINED, VARIANTS


def panel(tickets: list[list[float]], others: float = 50.0, kind: str = "weights") -> Panel:
    """A panel of as many rounds as there are tickets, each with its percent by seed; all else has the same accuracy."""

    def finding(number: int, variant: str, percent: float) -> dict[str, Any]:
        named = {"round": number, "variant": variant, "left": 0.3**number}
        return named | {"test": percent / 100, "calibration": number / 10}

    def search(seed: int) -> dict[str, Any]:
        places = [(number, variant) for number in range(len(tickets)) for variant in VARIANTS]
        found = [finding(n, v, tickets[n][seed] if v == TICKET else others) for n, v in places]
        return {"found": found, "classes": 10}

    return make_panel(kind, "low", 0.01, [search(seed) for seed in range(len(tickets[0]))])


def test_a_ticket_matches_until_the_first_round_that_falls_behind() -> None:
    whole = [80.0, 82.0]
    assert smallest_match(panel([whole, [79.9, 82.0], [81.0, 80.9], [79.0, 82.5], [85.0, 85.0]])) == 2
    assert smallest_match(panel([whole, [79.0, 82.0]])) == 0
    row = make_rows(panel([whole, [80.0, 82.0], [81.0, 82.0]]))[0]
    assert (row.value, row.goal, row.met) == (pytest.approx(9), "≤ 10", True)
    assert make_rows(panel([whole, [79.0, 82.0]]))[0].met is False
    assert make_rows(panel([whole, [79.0, 82.0]], kind="neurons"))[0].goal is None


def test_gains_are_paired_by_seed_and_of_few_weights() -> None:
    rows = make_rows(panel([[80.0, 80.0], [90.0, 90.0], [51.0, 53.0], [55.0, 55.0]]))
    found = {row.figure: row for row in rows}
    each = found["ticket over random, at 9.0 %"]
    assert each.value == pytest.approx(2) and each.spread is not None
    assert each.spread["se"] == pytest.approx(1) and each.spread["low"] == pytest.approx(2 - 12.71)
    averaged = found["longer over ticket, at 9.0, 2.7 %"]
    assert averaged.value == pytest.approx(-3.5)
    assert averaged.control == {"by_seed": [pytest.approx(-3), pytest.approx(-4)]}
    assert "take 3, 4 times" in averaged.note


def test_untrained_shapes_are_chosen_by_the_calibration_split() -> None:
    row = next(row for row in make_rows(panel([[80.0], [70.0], [60.0]])) if row.figure.startswith(UNTRAINED))
    assert row.figure.endswith("at 9.0 %") and row.value == pytest.approx(50)


def test_an_estimate_of_one_seed_has_no_error() -> None:
    assert (Estimate((1.0,)).se, Estimate((1.0,)).spread, str(Estimate((1.0,)))) == (None, None, "1.00")
    assert Estimate((1.0, 2.0, 6.0)).se == pytest.approx((7 / 3) ** 0.5)
    assert (Estimate((3.0, 2.0)) - Estimate((1.0, 1.0))).by_seed == (2.0, 1.0)
