"""The whole bench of easy inputs, on a toy bundle and as short as it gets; and its streams, one by one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("sklearn", reason="digits come with scikit-learn")

from stretto.bench.easy import drift, guarantee, times
from stretto.bench.easy.drift import Seen, blurred, drift_rows, noised, noticed, walks
from stretto.policies.cusum import Chart, Watch, alarm_chance
from stretto.runtime.bundle import write_bundle
from stretto.runtime.manifest import CertifiedWay

from stretto.cli import app

from ...runtime.toy import toy_bundle


def quiet(what, done, total):
    """Tells nobody."""


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(drift, "STREAMS", 2)
    monkeypatch.setattr(drift, "HORIZON", 20)
    monkeypatch.setattr(guarantee, "DRAWS", 3)
    monkeypatch.setattr(times, "PROFILE_ROUNDS", 1)
    monkeypatch.setattr(times, "ROUTE_ROUNDS", 1)
    monkeypatch.setattr(times, "ROUTE_CALLS", 1)


def test_by_the_command_line_it_measures_writes_and_draws(short, tmp_path: Path):
    path = tmp_path / "toy.stretto"
    toy = toy_bundle(
        path, shape=(1, 8, 8), classes=10, precisions=("fp32", "int8"), router=True, provenance={"router": {"macs": 9}}
    )
    write_bundle(path, replace(toy.manifest, classes=tuple("0123456789")), toy.graphs, toy.weights)
    table, picture = tmp_path / "easy.json", tmp_path / "deep" / "easy.png"
    told = CliRunner().invoke(
        app,
        ["bench", "easy", str(path), "--data", "digits", "--split", "test", "--samples", "70", "--json", str(table),
         "--picture", str(picture)],
        catch_exceptions=False,
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    report = json.loads(table.read_text())
    assert picture.stat().st_size > 10_000
    assert set(report["precisions"]) == {"fp32", "int8"}
    figures = [row["figure"] for row in report["rows"]]
    for what in (
        "MACs saved",
        "equal MACs",
        "equal median time",
        "median time over",
        "throughput",
        "draws that lose",
        "of the router",
    ):
        assert any(what in figure for figure in figures), what
    foretold = [row["control"]["right as foretold"] for row in report["rows"] if "median time over" in row["figure"]]
    assert foretold and min(foretold) > 0.97  # sessions answer as the table says; ties aside
    assert all(np.isfinite(row["value"]) for row in report["rows"])


WAY = CertifiedWay(1.0, "fp32", threshold=0.9, risk=0.01, early=0.6, agreement=0.99)


def seen(early, agreed, seed=0):
    rng = np.random.default_rng(seed)
    return Seen(rng.random(4000) < early, rng.random(4000) < agreed)


def test_a_great_change_is_noticed_in_every_stream_and_a_small_sample_of_clean_ones_in_none(monkeypatch):
    monkeypatch.setattr(drift, "STREAMS", 5)
    clean = seen(0.6, 0.99)
    changed = noticed(WAY, 2000, clean, seen(0.3, 0.95, 1), quiet, "changed")
    assert (changed.after <= 200).all() and changed.by_early > 0
    same = noticed(WAY, 2000, clean, seen(0.6, 0.99, 2), quiet, "same")
    assert np.isinf(same.after).sum() >= 4


def test_walks_raise_the_alarm_as_a_watch_does(monkeypatch):
    monkeypatch.setattr(drift, "STREAMS", 300)
    watch = Watch(0.05, 50, 0.2, 300)
    share = walks(watch.chart, 0.08, 300, np.random.default_rng(0), quiet).mean()
    assert share == pytest.approx(alarm_chance(0.08, watch.chart, 300), abs=0.09)
    assert not walks(Chart(3, 1, 10**6), 0.5, 50, np.random.default_rng(0), quiet).any()


def test_clean_streams_are_counted_over_all_watches(monkeypatch):
    monkeypatch.setattr(drift, "STREAMS", 20)
    monkeypatch.setattr(drift, "HORIZON", 50)
    clean = seen(0.6, 0.99)
    rows = drift_rows(WAY, 2000, {"clean": clean, "blurred": seen(0.2, 0.9), "noised": seen(0.2, 0.9)}, "toy", quiet)
    assert rows[-1].value == 1.0
    off = drift_rows(WAY, 2000, {"clean": seen(0.2, 0.99), "blurred": clean, "noised": clean}, "toy", quiet)
    assert off[-1].value < 0.5


def test_blur_is_the_mean_of_neighbours_and_noise_is_as_said():
    pixels = np.zeros((1, 1, 5, 5), np.uint8)
    pixels[0, 0, 2, 2] = 90
    assert blurred(pixels)[0, 0].sum() == 90 and blurred(pixels)[0, 0, 1:4, 1:4].tolist() == [[10] * 3] * 3
    flat = np.full((10, 3, 20, 20), 128, np.uint8)
    assert blurred(flat).tolist() == flat.tolist()
    assert noised(flat).std() == pytest.approx(25.5, rel=0.05)
