"""Tickets begin exactly as the whole network did, other beginnings don't, and a search that was cut off goes on."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

pytest.importorskip("matplotlib", reason="pictures need matplotlib")

from stretto.bench.jobs import JobError
from stretto.bench.lottery import LEARNING_RATES, Setup, make_report, make_searches, run
from stretto.bench.lottery_panels import Estimate, Panel, make_panel
from stretto.bench.lottery_picture import draw
from stretto.bench.lottery_report import make_rows, smallest_match
from stretto.bench.lottery_runs import Search, search_all
from stretto.bench.lottery_shapes import KINDS, Shape, next_shape, share_left
from stretto.bench.lottery_variants import (
    LONGER,
    MORE,
    RANDOM,
    SIGNS,
    TICKET,
    UNTRAINED,
    VARIANTS,
    Origin,
    redrawn,
    rewound,
    signs,
)
from stretto.training.augment import Batches
from stretto.training.compress.layers import weight_name, weighted_layers
from stretto.training.data import Data, load_data
from stretto.training.supernet import Supernet
from stretto.training.task import batches, begin
from typer.testing import CliRunner

from stretto.cli import app

SHARE = 0.7  # so that two rounds leave less than a tenth of the weights
BOTH = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits", calibration=0.1)


@pytest.fixture(scope="module")
def net(data: Data) -> Supernet:
    torch.manual_seed(0)
    return begin(tiny(Path("out")).task, data)[0]


@pytest.fixture(scope="module")
def images(data: Data) -> Batches:
    return batches(data, "calibration", 64)


@pytest.fixture(scope="module")
def searched(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """Every search of two seeds, over."""
    setup = tiny(tmp_path_factory.mktemp("lottery"), seeds=2)
    for search in make_searches(setup):
        search.run(data, lambda share: None)
    return setup


def tiny(folder: Path, seeds: int = 1) -> Setup:
    return Setup("digits", folder, seeds, epochs=1, rounds=2, share=SHARE, compared=(1, 2))


def disturbed(net: Supernet) -> Supernet:
    """As if it was trained."""
    other = copy.deepcopy(net)
    generator = torch.Generator().manual_seed(1)
    for parameter in other.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator) * parameter.std()
    return other


def shapes(net: Supernet, kind: str, images: Batches, rounds: int = 3) -> list[Shape]:
    """Of the whole network and of some rounds, each of what its shape would have been trained to."""
    found = [KINDS[kind].whole(net)]
    for number in range(1, rounds + 1):
        trained, _ = KINDS[kind].cut(disturbed(net), found[-1])
        found.append(next_shape(KINDS[kind], trained, found[-1], number, SHARE, images))
    return found


def weights(net: Supernet) -> dict[str, torch.Tensor]:
    names = map(weight_name, weighted_layers(net))
    return {name: net.shared.get_parameter(name).detach() for name in names}


@BOTH
def test_shapes_only_shrink_and_have_exactly_the_asked_counts(kind: str, net: Supernet, images: Batches) -> None:
    found = shapes(net, kind, images)
    *_, last = found[0]
    for number, shape in enumerate(found):
        for name, kept in shape.items():
            share = SHARE / 2 if name == last else SHARE
            assert int(kept.sum()) == kept.numel() - round((1 - (1 - share) ** number) * kept.numel())
            assert number == 0 or not bool((kept & ~found[number - 1][name]).any())


def test_the_largest_weights_stay(net: Supernet, images: Batches) -> None:
    trained, shape = disturbed(net), KINDS["weights"].whole(net)
    shape = next_shape(KINDS["weights"], trained, shape, 1, SHARE, images)
    for name, weight in weights(trained).items():
        assert weight[shape[name]].abs().min() >= weight[~shape[name]].abs().max()


@BOTH
def test_share_left_counts_weights(kind: str, net: Supernet, images: Batches) -> None:
    for shape in shapes(net, kind, images):
        small, limits = KINDS[kind].cut(net, shape)
        nonzero = sum(int(torch.count_nonzero(weight)) for weight in weights(small).values())
        assert share_left(small, limits, net) == nonzero / sum(weight.numel() for weight in weights(net).values())


def test_a_ticket_by_weights_begins_with_the_first_numbers_and_zeros(net: Supernet, images: Batches) -> None:
    shape = shapes(net, "weights", images)[-1]
    ticket, limits = rewound(Origin(KINDS["weights"], net, shape, 3, seed=0))
    first = dict(net.shared.named_parameters())
    for name, parameter in ticket.shared.named_parameters():
        assert torch.equal(parameter, first[name] * shape[name] if name in shape else first[name])
    assert limits.keys() == shape.keys()


def test_a_ticket_by_neurons_begins_with_the_first_numbers_of_those_left(net: Supernet, images: Batches) -> None:
    shape = shapes(net, "neurons", images)[-1]
    ticket, limits = rewound(Origin(KINDS["neurons"], net, shape, 3, seed=0))
    first, second = shape.values()
    whole = {name: parameter.detach() for name, parameter in net.shared.named_parameters()}
    expected = [
        whole["1.weight"][first], whole["1.bias"][first], whole["3.weight"][second][:, first], whole["3.bias"][second],
        whole["5.weight"][:, second], whole["5.bias"],
    ]  # fmt: skip
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(ticket.shared.parameters(), expected, strict=True))
    assert limits == {}


@BOTH
def test_signs_stay_and_a_layer_has_one_magnitude(kind: str, net: Supernet, images: Batches) -> None:
    origin = Origin(KINDS[kind], net, shapes(net, kind, images)[-1], 3, seed=0)
    (ticket, _), (constant, _) = rewound(origin), signs(origin)
    for name, weight in weights(constant).items():
        assert torch.equal(weight.sign(), weights(ticket)[name].sign())
        assert weight[weight != 0].abs().unique().tolist() == [weights(net)[name].std().item()]
    for name, bias in constant.shared.named_parameters():
        assert bias.dim() > 1 or torch.equal(bias, ticket.shared.get_parameter(name))


@BOTH
def test_new_numbers_differ_by_seed_and_round_and_keep_the_shape(kind: str, net: Supernet, images: Batches) -> None:
    shape = shapes(net, kind, images)[-1]
    origin = Origin(KINDS[kind], net, shape, 3, seed=0)
    state = torch.get_rng_state()
    drawn = [weights(redrawn(o)[0]) for o in (origin, origin, replace(origin, seed=1), replace(origin, number=2))]
    assert torch.equal(state, torch.get_rng_state())
    ticket = weights(rewound(origin)[0])
    for name, weight in drawn[0].items():
        assert torch.equal(weight, drawn[1][name])
        for other in (ticket, drawn[2], drawn[3]):
            assert torch.equal(weight != 0, other[name] != 0)
            assert not bool((weight == other[name])[weight != 0].any())


def test_beginnings_leave_the_whole_network_alone(net: Supernet, images: Batches) -> None:
    before = copy.deepcopy(net.state_dict())
    for kind in KINDS:
        shape = shapes(net, kind, images)[-1]
        for variant in VARIANTS.values():
            variant.start(Origin(KINDS[kind], net, shape, 3, seed=0))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@BOTH
def test_a_search_finds_every_round_and_variant(kind: str, searched: Setup) -> None:
    search = searched.search(kind, "low", 0)
    result = search.result()
    assert result is not None and not search.checkpoints.exists()
    places = [(finding["round"], finding["variant"]) for finding in result["found"]]
    every = [name for name, variant in VARIANTS.items() if variant.every]
    assert places == [(0, name) for name in every] + [(n, name) for n in (1, 2) for name in VARIANTS]
    left = {finding["round"]: finding["left"] for finding in result["found"]}
    assert 1 == left[0] > left[1] > 0.1 > left[2] > 0
    assert search.epochs == 1 + 2 * (3 + MORE)


def test_seeds_and_rates_find_different_things(searched: Setup) -> None:
    found = [json.dumps(search.result()["found"]) for search in make_searches(searched)]  # type: ignore[index]
    assert len(set(found)) == len(found) == 8


@BOTH
@pytest.mark.parametrize("done", [1, 7])
def test_a_search_that_was_cut_off_finds_what_an_uncut_one_does(
    kind: str, done: int, data: Data, searched: Setup, tmp_path: Path
) -> None:
    search = replace(searched.search(kind, "high", 0), folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        search.run(data, cut_off_after(done))
    assert search.result() is None and search.checkpoints.exists()
    told: list[float] = []
    search.run(data, told.append)
    assert len(told) == search.epochs - (done - 1) + 1  # the epoch that was cut off once more, and the end
    found, uncut = search.result(), searched.search(kind, "high", 0).result()
    assert found is not None and uncut is not None and found["found"] == uncut["found"]
    assert sorted(told) == told and told[-1] == 1 and told.count(1) == 1


def cut_off_after(count: int) -> Callable[[float], None]:
    told: list[float] = []

    def tell(share: float) -> None:
        told.append(share)
        if len(told) == count:
            raise KeyboardInterrupt

    return tell


def test_checkpoints_of_other_settings_are_refused(data: Data, tmp_path: Path) -> None:
    search = tiny(tmp_path).search("weights", "low", 0)
    with pytest.raises(KeyboardInterrupt):
        search.run(data, cut_off_after(3))
    with pytest.raises(JobError, match=r"0_ticket\.pt: of another training: share is 0\.7 there, 0\.5 here"):
        replace(search, share=0.5).run(data, lambda share: None)


def test_results_of_other_settings_are_refused(searched: Setup) -> None:
    with pytest.raises(JobError, match=r"weights_low_seed0\.json: of another training: epochs is 1 there, 2 here"):
        search_all(make_searches(replace(searched, epochs=2)), 1, lambda *told: None)


@pytest.mark.parametrize("name", ["workers", "seeds", "epochs"])
def test_none_at_all_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} 0: must be 1 or more"):
        run(Setup("digits", tmp_path, **({} if name == "workers" else {name: 0})), workers=0)


def test_report_without_results_says_so(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="none of the 4 searches is over; leave out --report-only"):
        run(tiny(tmp_path), report_only=True)


def test_report_has_every_panel_with_its_rows_and_the_picture(searched: Setup, tmp_path: Path) -> None:
    console = Console(file=StringIO(), width=200, markup=False)
    report, panels = run(searched, report_only=True, console=console)
    assert [(panel.kind, panel.rate) for panel in panels] == [(kind, rate) for kind in KINDS for rate in LEARNING_RATES]
    assert len(report["rows"]) == 4 * 8 and not report["complete"]
    goals = [(row["figure"].partition(",")[0], row["goal"]) for row in report["rows"] if row["goal"] is not None]
    match, gain = "weights left where the ticket matches the whole network", "ticket over new random numbers"
    assert goals == [(match, "≤ 10"), (gain, "≥ 0")]
    assert all(row["spread"] is not None for row in report["rows"] if row["unit"] == "points")
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "neurons pruned, high learning rate 0.1: % of the test's images right" in printed and "±" in printed
    assert json.loads(json.dumps(report))["panels"][0]["test"][TICKET]["2"]["by_seed"] == [
        *panels[0].test[TICKET][2].by_seed
    ]
    draw(panels, tmp_path / "deep" / "lottery.png")
    assert (tmp_path / "deep" / "lottery.png").read_bytes().startswith(b"\x89PNG")


def test_report_takes_the_searches_that_are_over(searched: Setup, tmp_path: Path) -> None:
    setup = replace(searched, folder=tmp_path)
    for name in ("weights_low_seed0", "weights_low_seed1", "neurons_high_seed1"):
        (tmp_path / f"{name}.json").write_bytes((searched.folder / f"{name}.json").read_bytes())
    report, panels = make_report(setup)
    assert [(panel.kind, panel.rate, len(panel.whole.by_seed)) for panel in panels] == [
        ("weights", "low", 2),
        ("neurons", "high", 1),
    ]
    assert not report["complete"]
    draw(panels, tmp_path / "lottery.png")


def panel(tickets: list[list[float]], others: float = 50.0, kind: str = "weights") -> Panel:
    """A panel of as many rounds as there are tickets, each with its percent by seed; all else has the same accuracy."""

    def finding(number: int, variant: str, percent: float) -> dict[str, Any]:
        named = {"round": number, "variant": variant, "left": 0.3**number}
        return named | {"test": percent / 100, "calibration": number / 10}

    def search(seed: int) -> list[dict[str, Any]]:
        places = [(number, variant) for number in range(len(tickets)) for variant in VARIANTS]
        return [finding(n, v, tickets[n][seed] if v == TICKET else others) for n, v in places]

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
    each = found["ticket over new random numbers, at 9.0 %"]
    assert each.value == pytest.approx(2) and each.spread is not None
    assert each.spread["se"] == pytest.approx(1) and each.spread["low"] == pytest.approx(2 - 12.71)
    averaged = found["new random numbers for longer over ticket, at 9.0, 2.7 %"]
    assert averaged.value == pytest.approx(-3.5)
    assert averaged.control == {"by_seed": [pytest.approx(-3), pytest.approx(-4)]}
    assert "take 3, 4 times" in averaged.note


def test_untrained_shapes_are_chosen_by_the_calibration_split() -> None:
    row = next(row for row in make_rows(panel([[80.0], [70.0], [60.0]])) if VARIANTS[UNTRAINED].label in row.figure)
    assert row.figure.endswith("at 9.0 %") and row.value == pytest.approx(50)


def test_an_estimate_of_one_seed_has_no_error() -> None:
    assert (Estimate((1.0,)).se, Estimate((1.0,)).spread, str(Estimate((1.0,)))) == (None, None, "1.00")
    assert Estimate((1.0, 2.0, 6.0)).se == pytest.approx((7 / 3) ** 0.5)
    assert (Estimate((3.0, 2.0)) - Estimate((1.0, 1.0))).by_seed == (2.0, 1.0)


def test_only_starts_that_differ_are_compared() -> None:
    assert VARIANTS[LONGER].start is VARIANTS[RANDOM].start and VARIANTS[LONGER].epochs == MORE
    assert VARIANTS[TICKET].start is rewound and VARIANTS[SIGNS].start is signs


def test_command_searches_in_processes_and_writes_where_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stretto.bench.lottery.KINDS", {"weights": KINDS["weights"]})
    monkeypatch.setattr(Setup, "search", small_search(Setup.search))
    words = ["bench", "lottery", "--data", "digits", "--seeds", "1", "--epochs", "1", "--workers", "1"]
    done = CliRunner().invoke(app, [*words, "--json", "found.json"], catch_exceptions=False)
    assert "not every search has its seeds" in done.stdout
    records = ["weights_high_seed0.json", "weights_low_seed0.json"]
    assert sorted(path.name for path in (tmp_path / "out" / "lottery").iterdir()) == ["lottery.png", *records]
    report = json.loads((tmp_path / "found.json").read_text())
    assert [panel["rate"] for panel in report["panels"]] == ["low", "high"]


def test_a_tenth_of_the_weights_is_among_what_is_compared_by_default() -> None:
    setup = Setup("digits", Path("out"))
    left = [round(100 * (1 - setup.share) ** number) for number in setup.compared]
    assert left == [38, 15, 9, 6, 2] and setup.compared[-1] == setup.rounds


def test_default_places_are_written_only_where_all_is_there(
    searched: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("bench/results", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    records = {path.name: path.read_text() for path in searched.folder.glob("*_seed*.json")}
    monkeypatch.setattr("stretto.bench.lottery.LEAST_SEEDS", 2)
    monkeypatch.setattr(Setup, "search", small_search(Setup.search))
    folder = tmp_path / "out" / "lottery"
    folder.mkdir(parents=True)
    for name, text in records.items():
        (folder / name).write_text(text)
    words = ["bench", "lottery", "--data", "digits", "--seeds", "2", "--epochs", "1", "--report-only"]
    (folder / "neurons_low_seed1.json").unlink()
    CliRunner().invoke(app, words, catch_exceptions=False)
    assert (folder / "lottery.json").exists() and (folder / "lottery.png").exists()
    assert not list((tmp_path / "bench" / "results").iterdir())
    (folder / "neurons_low_seed1.json").write_text(records["neurons_low_seed1.json"])
    CliRunner().invoke(app, words, catch_exceptions=False)
    assert (tmp_path / "bench/results/lottery.json").exists() and (tmp_path / "docs/lottery.png").exists()


def small_search(search: Callable[..., Search]) -> Callable[..., Search]:
    """As `tiny` has it, whatever the setup says."""
    return lambda setup, *where: replace(search(setup, *where), rounds=2, share=SHARE, compared=(1, 2))
