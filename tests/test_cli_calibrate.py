"""`stretto calibrate` and what its bundles are used for, on a toy that was never trained."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stretto.policies.risk import TooFewSamplesError
from stretto.runtime.bundle import Bundle, write_bundle
from typer.testing import CliRunner

from stretto.cli import app
from stretto.cli_values import confidence_of

from .runtime.toy import toy_bundle


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a bundle and noise as its data."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    toy = toy_bundle(tmp_path / "toy.stretto", temperature=0.5)
    write_bundle(tmp_path / "toy.stretto", replace(toy.manifest, provenance={"holdout": 0.5}), toy.graphs, toy.weights)
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 200), ("test", 40)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % 4
    np.savez(tmp_path / "noise.npz", classes=np.array(toy.manifest.classes), **arrays)
    np.save(tmp_path / "input.npy", np.zeros((3, 8, 8), np.float32))
    return tmp_path


def stretto(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    if done.exception:
        raise done.exception
    return done.output


LOOSE = ["--data", "noise.npz", "--risk", "0.7", "--confidence", "0.8"]


def test_calibrated_bundle_is_new_promises_and_is_used_by_the_other_commands(home: Path) -> None:
    before = (home / "toy.stretto").read_bytes()
    said = stretto("calibrate", "toy.stretto", *LOOSE, "--json", "calibrate.json")
    report = json.loads((home / "calibrate.json").read_text())
    assert (home / "toy.stretto").read_bytes() == before
    assert report["promise"] in " ".join(said.split())
    assert report["delta"] == 0.2 and [row["certified"] for row in report["ways"]] == [True, True]
    certified = Bundle.open(home / "toy-calibrated.stretto").manifest.certified
    assert certified is not None and certified.promise == report["promise"]

    stretto("run", "toy-calibrated.stretto", "input.npy", "--confidence", "calibrated", "--json", "answer.json")
    assert json.loads((home / "answer.json").read_text())["covered"] is True
    said = stretto("eval", "toy-calibrated.stretto", "--data", "noise.npz", "--json", "eval.json")
    rows = json.loads((home / "eval.json").read_text())["adaptive"]
    assert [row.get("threshold") for row in rows[1:]] == [row["threshold"] for row in report["ways"]]
    assert report["promise"] in " ".join(said.split())


def test_every_option_of_calibrate_reaches_what_certifies(home: Path) -> None:
    options = ["--split", "test", "--loss", "accuracy", "--method", "ucb", "--rule", "margin", "--out", "out.stretto"]
    stretto("calibrate", "toy.stretto", *LOOSE, *options)
    manifest = Bundle.open(home / "out.stretto").manifest
    certified = manifest.certified
    assert certified is not None
    found = (certified.loss, certified.method, certified.rule, certified.epsilon, certified.samples)
    assert found == ("accuracy", "ucb", "margin", 0.7, 40)
    assert manifest.provenance["certified_on"] == {"data": "noise", "splits": ["test"]}


def test_too_few_samples_say_how_many_are_needed_and_nothing_is_written(home: Path) -> None:
    with pytest.raises(TooFewSamplesError, match=r"80 calibration samples can't show .*; give at least 368"):
        stretto("calibrate", "toy.stretto", "--data", "noise.npz")
    assert not (home / "toy-calibrated.stretto").exists()


def test_confidence_of_a_bundle_without_certificate_says_what_to_do(home: Path) -> None:
    for words in (["run", "toy.stretto", "input.npy"], ["eval", "toy.stretto", "--data", "noise.npz"]):
        with pytest.raises(ValueError, match=r"toy\.stretto has no certified thresholds; .*: stretto calibrate"):
            stretto(*words, "--confidence", "calibrated")


def test_confidence_is_a_number_one_for_each_depth_or_the_word() -> None:
    assert [confidence_of(text) for text in (None, "0.9", "0.9,0.8", "calibrated")] == [
        None, 0.9, (0.9, 0.8), "calibrated"
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"--confidence high: give a number in \(0, 1\], one for each depth"):
        confidence_of("high")
