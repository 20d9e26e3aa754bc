"""The benchmark of compression, as small as it gets: what it makes, goes on with, and reports."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from stretto.bench.compress.jobs import (
    RECIPES,
    Compression,
    Job,
    Scratch,
    Training,
    _export,
    _make,
    read_made,
    run_jobs,
    waves,
)
from stretto.bench.compress.picture import draw
from stretto.bench.compress.rows import lost, over_seeds, separate_bytes
from stretto.bench.compress.run import plan, report
from stretto.bench.compress.studies import STUDIES, jobs_of
from stretto.bench.jobs import JobError, write_record
from stretto.training.compress.recipe import read_recipe
from stretto.training.fit import fit_options
from stretto.training.task import TrainTask

from .made import stand_ins

# EfficientNet-Lite0 comes with the extra `bench`, which not every machine has
NAMES = [name for name in STUDIES if name != "photos" or find_spec("efficientnet_lite_pytorch")]
PATHS = {"fashion": "f", "cifar": "c", "clothes": "d"}
TASK = TrainTask("resnet", "digits", {"base": "16", "blocks": "1"}, widths=(0.5, 1.0), exits=2, batch=64)
OPTIONS = fit_options(epochs=1, autocast=False, channels_last=False, recalibrate=4)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_committed_recipes_can_be_read(path: Path) -> None:
    assert read_recipe(path)


def test_all_studies_together_have_one_job_of_a_name_and_what_each_needs() -> None:
    jobs = jobs_of(NAMES, PATHS, Path("folder"))
    assert len({job.name for job in jobs}) == len(jobs)
    order = [job.name for wave in waves(jobs) for job in wave]
    assert sorted(order) == sorted(job.name for job in jobs)
    for job in jobs:
        assert all(order.index(need) < order.index(job.name) for need in job.work.needs)


def test_a_job_whose_source_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="small needs"):
        list(waves([Job("small", Compression("gone", "cifar"), "digits", Path("folder"))]))


def test_studies_without_their_data_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="study lenets needs --fashion"):
        plan(["lenets"], {"cifar": "c"}, Path("folder"))
    with pytest.raises(ValueError, match="no study 'lenet'; there are lenets"):
        plan(["lenet"], PATHS, Path("folder"))
    assert plan([], {"fashion": "f"}, Path("folder"))[0] == ["lenets"]


def test_a_training_its_compression_and_its_shape_from_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.toml").write_text(
        '[[pass]]\nname = "prune_channels"\nmacs = 0.6\n[[pass]]\nname = "cluster"\nclusters = 7\nepochs = 1\n'
    )
    monkeypatch.setattr("stretto.bench.compress.jobs.RECIPES", tmp_path)
    jobs = [
        Job("net", Training(TASK, OPTIONS), "digits", tmp_path),
        Job("small", Compression("net", "tiny"), "digits", tmp_path, coded=True),
        Job("again", Scratch("small", OPTIONS), "digits", tmp_path),
    ]
    with pytest.raises(JobError, match="net isn't done yet"):
        read_made(jobs[0])
    for job in jobs:  # in this process, which sees the recipe
        found = _make(job, lambda message: None)
        _export(job, lambda message: None)
        write_record(job.record, job.settings(), seconds=1.0, report=found)
    net, small, again = map(read_made, jobs)
    assert small.bundle.coding is not None
    assert small.size < net.size / 2
    assert small.bundle.point(1.0, 2).macs == again.bundle.point(1.0, 2).macs < net.bundle.point(1.0, 2).macs
    assert net.accuracy() == pytest.approx(net.bundle.point(1.0, 2).accuracy)
    files = separate_bytes(net)
    assert files[0.5] < files[1.0] < net.size
    run_jobs(jobs, 1, lambda job, message: pytest.fail("nothing is left to do"))
    with pytest.raises(ValueError, match="workers 0: must be 1 or more"):
        run_jobs(jobs, 0, lambda job, message: None)


def test_losses_have_an_interval_over_samples_or_seeds() -> None:
    before, after = np.array([True] * 90 + [False] * 10), np.array([True] * 80 + [False] * 20)
    points, within = lost([before], [after])
    assert points == pytest.approx(10)
    assert within["low"] < 10 < within["high"]
    assert lost([before, before], [after, before])[0] == pytest.approx(5)
    assert over_seeds([1.0, 3.0])[1]["high"] == 3.0


def test_every_row_of_every_study_and_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On stand-ins for what jobs leave, as the real ones take hours."""
    jobs = jobs_of(NAMES, PATHS, tmp_path)
    stand_ins(jobs)
    monkeypatch.setattr("stretto.bench.compress.rows.separate_bytes", lambda dense: dict.fromkeys(
        dense.bundle.manifest.widths, 10_000))  # fmt: skip
    monkeypatch.setattr("stretto.bench.compress.rows.ROUNDS", 2)
    result = report(NAMES, jobs, tmp_path / "c.json", tmp_path / "c.png", lambda *told: None, Console(quiet=True))
    figures = {(row["figure"], row["network"]) for row in result["rows"]}
    assert len(figures) >= 25
    assert (tmp_path / "c.png").stat().st_size > 10_000
    assert str(tmp_path) not in (tmp_path / "c.json").read_text()  # as it is committed


def test_a_study_without_a_curve_leaves_the_picture_alone(tmp_path: Path) -> None:
    (tmp_path / "c.png").write_text("of another run")
    draw({"jobs": [{"name": "plain"}]}, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_text() == "of another run"
