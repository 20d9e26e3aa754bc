"""A switch's gain is of paired runs, and what was trained once is not trained again."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

pytest.importorskip("matplotlib", reason="pictures need matplotlib")

from stretto.bench.jobs import JobError
from stretto.bench.switches import run as module
from stretto.bench.switches.report import ALL, compared, draw, estimate, pays, print_report
from stretto.bench.switches.run import BASES, SWITCHES, Base, Setup, choose, make_report, make_runs, run
from stretto.bench.switches.trainings import run_all
from stretto.training.task import TrainTask
from typer.testing import CliRunner

from stretto.cli import app

CHOSEN = tuple(switch for switch in SWITCHES if switch.name in ("sandwich", "shared_stem", "sort"))
WIDTHS, DEPTHS = (0.5, 1.0), (1, 2)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of a second, on digits, and three switches, one of which needs weights."""
    task = TrainTask("resnet", "", {"base": "16", "blocks": "1"}, widths=(0.25, 0.5, 1.0), exits=2, holdout=0.2)
    options = {"epochs": 1, "lr": 0.1, "recalibrate": 2, "autocast": False, "channels_last": False}
    base = Base("tiny", task, options, epoch_s=1)
    monkeypatch.setattr(module, "BASES", {"scratch": base, "pretrained": replace(base, needs="weights", note="seen")})
    monkeypatch.setattr(module, "SWITCHES", CHOSEN)


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> Setup:
    """A setup that names all that any base needs; the packaged weights needn't be installed."""
    photos = replace(BASES["photos"], start=lambda: Path("packages/lite0.pth"))
    monkeypatch.setattr(module, "BASES", BASES | {"photos": photos})
    return Setup("cifar10.zip", Path("out"), weights="net.npz", photos="clothing.zip")


def result(accuracies: list[float], seconds: float = 2.0, macs: int = 100) -> dict[str, Any]:
    """A run's result with these accuracies at widths 0.5 and 1.0, each at depths 1 and 2."""
    places = [(width, depth) for width in WIDTHS for depth in DEPTHS]
    points = [
        {"width": w, "depth": d, "accuracy": a, "macs": macs} for (w, d), a in zip(places, accuracies, strict=True)
    ]
    return {"points": points, "seconds": seconds}


def keep(setup: Setup, accuracy_of_on: float, seeds: int) -> None:
    """Writes results as trainings would: with a switch on every point has that accuracy, without 0.5."""
    for made in make_runs(replace(setup, seeds=seeds), CHOSEN):
        on = "_on_" in made.name
        record = result([accuracy_of_on if on else 0.5] * 4) | {"settings": made.settings(), "machine": {}}
        made.folder.mkdir(parents=True, exist_ok=True)
        made.record.write_text(json.dumps(record))


def test_standard_error_is_of_the_seeds_mean() -> None:
    assert estimate([1.0, 2.0, 6.0]) == {"by_seed": [1.0, 2.0, 6.0], "mean": 3.0, "se": pytest.approx((7 / 3) ** 0.5)}
    assert estimate([1.0]) == {"by_seed": [1.0], "mean": 1.0, "se": None}


@pytest.mark.parametrize(
    ("mean", "seeds", "verdict"), [(2.1, 3, True), (2.0, 3, False), (-9.0, 3, False), (2.1, 2, None)]
)
def test_a_switch_pays_where_its_gain_is_more_than_two_standard_errors(
    mean: float, seeds: int, verdict: bool | None
) -> None:
    assert pays({"mean": mean, "se": 1.0}, seeds) is verdict


def test_gains_are_of_the_points_that_a_split_names() -> None:
    off, on = result([0.1, 0.2, 0.3, 0.4], macs=100), result([0.2, 0.2, 0.3, 0.8], seconds=3.0, macs=150)
    found = compared({0: (on, off), 1: (on, off), 2: (off, off)})
    by_seed = {split: gain["by_seed"] for split, gain in found["gains"].items()}
    assert by_seed == {
        ALL: pytest.approx([12.5, 12.5, 0]),
        "final exits": pytest.approx([20, 20, 0]),
        "early exits": pytest.approx([5, 5, 0]),
        "narrowest width": pytest.approx([5, 5, 0]),
        "widest final": pytest.approx([40, 40, 0]),
    }
    assert found["gains"][ALL]["mean"] == pytest.approx(25 / 3)
    assert found["gains"][ALL]["se"] == pytest.approx(12.5 / 3)
    assert found["seconds"] == {"on": pytest.approx(8 / 3), "off": 2.0}
    assert (found["macs_ratio"], found["pays"], found["seeds"]) == (1.5, False, [0, 1, 2])


def test_runs_of_different_points_are_refused() -> None:
    off = result([0.5] * 4)
    with pytest.raises(ValueError, match="different points"):
        compared({0: (off | {"points": off["points"][1:]}, off)})


def test_runs_are_seed_after_seed_and_share_the_base(everything: Setup) -> None:
    runs = make_runs(everything, SWITCHES)
    assert len({made.name for made in runs}) == len(runs) == 3 * (8 + 2 + 6)
    assert [made.options.seed for made in runs] == [0] * 16 + [1] * 16 + [2] * 16
    plain = next(made for made in runs if made.name == "scratch_plain_seed1")
    switched = next(made for made in runs if made.name == "scratch_sandwich_on_seed1")
    assert switched.task == plain.task
    assert switched.options == replace(plain.options, loss=replace(plain.options.loss, sandwich=1))


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: switch.name)
def test_a_switch_changes_its_base_and_only_in_what_it_names(switch: module.Switch, everything: Setup) -> None:
    on, off = (everything.run(switch, way, 0).settings() for way in (True, False))
    named = set(switch.on | switch.off)
    differing = {name for name in on if on[name] != off[name]}
    assert differing == named or {name for name in on["loss"] if on["loss"][name] != off["loss"][name]} == named


def test_epochs_are_of_the_runs_from_scratch_alone(everything: Setup) -> None:
    runs = make_runs(replace(everything, epochs=7), SWITCHES)
    epochs = {made.task.weights: made.options.epochs for made in runs}
    assert epochs == {None: 7, "net.npz": 1, "packages/lite0.pth": 3}


def test_every_base_is_trained_on_its_own_data(everything: Setup) -> None:
    data = {(made.task.data, made.task.weights) for made in make_runs(everything, SWITCHES)}
    assert data == {("cifar10.zip", None), ("cifar10.zip", "net.npz"), ("clothing.zip", "packages/lite0.pth")}
    without = {made.task.data for made in make_runs(replace(everything, photos=None), SWITCHES)}
    assert without == {"cifar10.zip"}


def test_settings_name_files_without_their_folders() -> None:
    here, there = (Setup(f"{place}/cifar10.zip", Path("out"), weights=f"{place}/net.npz") for place in ("a", "b/c"))
    for ours, theirs in zip(make_runs(here, SWITCHES), make_runs(there, SWITCHES), strict=True):
        assert ours.settings() == theirs.settings()


def test_unknown_switch_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no switch 'sandwhich' \(did you mean 'sandwich'\?\); there are .*sort"):
        choose(["sandwhich"])


def test_report_takes_the_seeds_that_have_both_runs(tmp_path: Path, tiny: None) -> None:
    setup = Setup("digits", tmp_path)
    keep(setup, 0.6, seeds=2)
    (tmp_path / "scratch_shared_stem_off_seed1.json").unlink()
    report = make_report(setup)
    sandwich, stem, sort = report["switches"]
    assert (sandwich["seeds"], stem["seeds"]) == ([0, 1], [0])
    assert sandwich["gains"][ALL]["mean"] == pytest.approx(10)
    assert sort["not_measured"] == "needs --weights"
    console = Console(file=StringIO(), markup=False)
    print_report(report, console)
    printed = console.file.getvalue()
    assert "+10.00" in printed and "sandwich: sandwich 1, against the base, scratch\n" in printed
    assert "pretrained; not measured: needs --weights; seen\n" in printed
    draw(report, tmp_path / "deep" / "switches.png")
    assert (tmp_path / "deep" / "switches.png").read_bytes().startswith(b"\x89PNG")


def test_report_without_results_says_so(tmp_path: Path, tiny: None) -> None:
    with pytest.raises(JobError, match="none of the 9 runs has a result there; leave out --report-only"):
        run(Setup("digits", tmp_path), report_only=True)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"settings": {"net": "mobilenet"}, "points": [], "seconds": 1, "machine": {}},
            "of another training: net is 'mobilenet' there, 'resnet' here",
        ),
        ({}, "no record of a training .*; delete it"),
        ({"settings": {}, "points": []}, "no record of a training .*seconds.*; delete it"),
    ],
)
def test_results_of_other_settings_are_refused(tmp_path: Path, tiny: None, record: Any, message: str) -> None:
    (tmp_path / "scratch_plain_seed0.json").write_text(json.dumps(record))
    with pytest.raises(JobError, match=message):
        run_all(make_runs(Setup("digits", tmp_path), CHOSEN), 1, lambda *told: None)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["workers", "seeds", "epochs"])
def test_none_at_all_is_refused(tmp_path: Path, tiny: None, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} 0: must be 1 or more"):
        numbers = {"seeds": 1, "epochs": 1} | ({} if name == "workers" else {name: 0})
        run_all(make_runs(Setup("digits", tmp_path, **numbers), CHOSEN), 0, lambda *told: None)


def test_a_failing_training_is_named_with_its_error(tmp_path: Path, tiny: None) -> None:
    with pytest.raises(JobError, match=r"scratch_plain_seed0: ValueError: .*nowhere\.npz: no such file"):
        run_all(make_runs(Setup(str(tmp_path / "nowhere.npz"), tmp_path), CHOSEN), 1, lambda *told: None)


def test_default_places_are_written_only_where_all_is_measured(
    tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results, docs, folder = tmp_path / "bench" / "results", tmp_path / "docs", tmp_path / "out" / "switches"
    results.mkdir(parents=True)
    docs.mkdir()
    setup = Setup("digits", folder)
    keep(setup, 0.6, seeds=3)
    left_out = folder / "scratch_sandwich_on_seed2.json"
    last = left_out.read_text()
    left_out.unlink()
    words = ["bench", "switches", "--data", "digits", "--report-only"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "not every switch has its seeds" in done.stdout
    assert (folder / "switches.json").exists() and (folder / "switches.png").exists()
    assert [*results.iterdir(), *docs.iterdir()] == []
    left_out.write_text(last)
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "not every" not in done.stdout
    assert (results / "switches.json").exists() and (docs / "switches.png").exists()


def test_command_trains_what_is_missing_and_reports(
    tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["bench", "switches", "--data", "digits", "--seeds", "2", "--workers", "1", "--json", "switches.json"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "sandwich: sandwich 1, against the base" in done.stdout
    folder = tmp_path / "out" / "switches"
    records = {path.name: path.stat().st_mtime_ns for path in folder.glob("*_seed*.json")}
    assert len(records) == 6 and (folder / "switches.png").exists() and not list(folder.glob("*.pt"))
    report = json.loads((tmp_path / "switches.json").read_text())
    assert [row.get("pays", "") for row in report["switches"]] == [None, None, ""]
    assert all(len(row["gains"][ALL]["by_seed"]) == 2 for row in report["switches"][:2])

    (folder / "scratch_sandwich_on_seed1.json").unlink()
    CliRunner().invoke(app, words, catch_exceptions=False)
    again = {path.name: path.stat().st_mtime_ns for path in folder.glob("*_seed*.json")}
    assert [name for name in records if again[name] != records[name]] == ["scratch_sandwich_on_seed1.json"]
    repeated = json.loads((tmp_path / "switches.json").read_text())
    assert [row.get("gains") for row in repeated["switches"]] == [row.get("gains") for row in report["switches"]]
