"""The command line from end to end, on digits with a very small network."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the [train] extra")

TRAIN = ["--net", "resnet", "--option", "base=16", "--option", "blocks=1", "--data", "digits", "--widths", "0.5,1.0"]
FAST = [
    "--exits",
    "2",
    "--epochs",
    "2",
    "--set",
    "autocast=False",
    "--set",
    "channels_last=False",
    "--set",
    "recalibrate=2",
]


def stretto(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from stretto.cli import main; main()", *words]
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=home)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with a trained checkpoint and its bundle."""
    home = tmp_path_factory.mktemp("home")
    for words in (
        ["train", *TRAIN, *FAST, "--out", "net.pt", "--json", "train.json"],
        ["export", "net.pt", "--data", "digits", "--out", "net.stretto", "--json", "export.json"],
    ):
        done = stretto(*words, home=home)
        assert done.returncode == 0, done.stderr
    return home


def test_training_reports_every_point_and_every_epoch(home: Path) -> None:
    report = json.loads((home / "train.json").read_text())
    assert [(p["width"], p["depth"]) for p in report["points"]] == [(0.5, 1), (0.5, 2), (1.0, 1), (1.0, 2)]
    assert [epoch["epoch"] for epoch in report["history"]] == [1, 2]
    assert report["history"][1]["loss"] < report["history"][0]["loss"]


def test_training_again_into_a_finished_checkpoint_changes_nothing(home: Path) -> None:
    before = (home / "train.json").read_text()
    done = stretto("train", *TRAIN, *FAST, "--out", "net.pt", "--json", "again.json", home=home)
    assert done.returncode == 0, done.stderr
    assert (home / "again.json").read_text() == before


def test_training_into_a_checkpoint_of_another_network_is_refused(home: Path) -> None:
    done = stretto("train", *TRAIN, *FAST, "--option", "shortcut=pad", "--out", "net.pt", home=home)
    assert done.returncode == 1
    assert "net.pt: is of another training: net_options" in done.stderr
    assert "Traceback" not in done.stderr


def test_eval_reproduces_the_accuracies_inside_the_bundle(home: Path) -> None:
    done = stretto("eval", "net.stretto", "--data", "digits", "--json", "eval.json", home=home)
    assert done.returncode == 0, done.stderr
    points = json.loads((home / "eval.json").read_text())["points"]
    inside = json.loads((home / "export.json").read_text())["points"]
    assert [p["accuracy"] for p in points] == [p["accuracy"] for p in inside]
    assert all(0 < p["latency_ms"]["p50"] <= p["latency_ms"]["p99"] for p in points)


def test_profile_is_kept_and_found_by_later_commands(home: Path) -> None:
    done = stretto("profile", "net.stretto", "--rounds", "1", "--json", "profile.json", home=home)
    assert done.returncode == 0, done.stderr
    assert json.loads((home / "profile.json").read_text())["source"] == "measured"
    np.save(home / "input.npy", np.zeros((1, 8, 8), np.float32))
    done = stretto("run", "net.stretto", "input.npy", "--budget-ms", "1000", "--json", "answer.json", home=home)
    assert done.returncode == 0, done.stderr
    assert "times: measured" in done.stdout
    answer = json.loads((home / "answer.json").read_text())
    assert answer["deadline_met"] and len(answer["scores"]) == 10


def test_run_answers_for_an_image_file(home: Path) -> None:
    from PIL import Image

    Image.fromarray(np.full((20, 20), 7, np.uint8)).save(home / "grey.png")
    done = stretto("run", "net.stretto", "grey.png", home=home)
    assert done.returncode == 0, done.stderr


def test_trace_lists_groups_and_places_for_exits(home: Path) -> None:
    done = stretto("trace", "--net", "resnet", "--shape", "3,32,32", "--json", "trace.json", home=home)
    assert done.returncode == 0, done.stderr
    assert "places to cut" in done.stdout
    assert json.loads((home / "trace.json").read_text())["groups"]


def test_inspect_names_what_is_inside(home: Path) -> None:
    done = stretto("inspect", "net.stretto", home=home)
    assert done.returncode == 0, done.stderr
    assert "net.stretto: resnet" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "absent.stretto", "--data", "digits"], "absent.stretto"),
        (["train", "--net", "resnett", "--data", "digits", "--out", "x.pt"], "did you mean 'resnet'"),
        (["train", *TRAIN, "--set", "sandwhich=1", "--out", "x.pt"], "did you mean 'sandwich'"),
        (["train", *TRAIN, "--widths", "0.5,2", "--out", "x.pt"], "in (0, 1]"),
        (["run", "net.stretto", "absent.png"], "absent.png"),
        (["export", "net.stretto", "--data", "digits", "--out", "y.stretto"], "not a"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_that_names_it(home: Path, words: list[str], message: str) -> None:
    done = stretto(*words, home=home)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
