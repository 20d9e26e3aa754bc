"""A search that was cut off goes on, and what all of them found is reported in one place."""

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

pytest.importorskip("matplotlib", reason="pictures need matplotlib")

from stretto.bench.jobs import JobError
from stretto.bench.lottery.picture import draw
from stretto.bench.lottery.run import LEARNING_RATES, Setup, make_report, make_searches, run
from stretto.bench.lottery.search import Search, search_all
from stretto.bench.lottery.shapes import KINDS
from stretto.bench.lottery.variants import MORE, TICKET, VARIANTS
from stretto.training.data import Data, load_data
from typer.testing import CliRunner

from stretto.cli import app

SHARE = 0.7  # so that two rounds leave less than a tenth of the weights
BOTH = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits", calibration=0.1)


@pytest.fixture(scope="module")
def searched(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """Every search of two seeds, over."""
    setup = tiny(tmp_path_factory.mktemp("lottery"), seeds=2)
    for search in make_searches(setup):
        search.run(data, lambda share: None)
    return setup


def tiny(folder: Path, seeds: int = 1) -> Setup:
    return Setup("digits", folder, seeds, epochs=1, rounds=2, share=SHARE, compared=(1, 2))


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
    match, gain = "weights left where ticket matches whole", "ticket over random"
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


def test_a_tenth_of_the_weights_is_among_what_is_compared_by_default() -> None:
    setup = Setup("digits", Path("out"))
    left = [round(100 * (1 - setup.share) ** number) for number in setup.compared]
    assert left == [41, 17, 9, 5, 3] and setup.compared[-1] == setup.rounds


def test_command_searches_in_processes_and_writes_where_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stretto.bench.lottery.run.KINDS", {"weights": KINDS["weights"]})
    monkeypatch.setattr(Setup, "search", small_search(Setup.search))
    words = ["bench", "lottery", "--data", "digits", "--seeds", "1", "--epochs", "1", "--workers", "1"]
    done = CliRunner().invoke(app, [*words, "--json", "found.json"], catch_exceptions=False)
    assert "not every search has its seeds" in done.stdout
    records = ["weights_high_seed0.json", "weights_low_seed0.json"]
    assert sorted(path.name for path in (tmp_path / "out" / "lottery").iterdir()) == ["lottery.png", *records]
    report = json.loads((tmp_path / "found.json").read_text())
    assert [panel["rate"] for panel in report["panels"]] == ["low", "high"]


def test_default_places_are_written_only_where_all_is_there(
    searched: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("bench/results", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    records = {path.name: path.read_text() for path in searched.folder.glob("*_seed*.json")}
    monkeypatch.setattr("stretto.bench.lottery.run.LEAST_SEEDS", 2)
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
