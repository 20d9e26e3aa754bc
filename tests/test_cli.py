"""The command line from end to end, on digits with a very small network."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from stretto.policies.situation import Budget, OperatingPoint
from stretto.runtime.energy import Power
from stretto.runtime.profile import Profile
from stretto.runtime.session import load

pytest.importorskip("torch", reason="training needs the [train] extra")

TRAIN = ["--net", "resnet", "--option", "base=16", "--option", "blocks=1", "--data", "digits", "--widths", "0.5,1.0"]
FAST = ["--exits", "2", "--epochs", "2", "--set", "autocast=False", "--set", "channels_last=False"]
FAST += ["--set", "recalibrate=2"]


def stretto(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from stretto.cli import main; main()", *words]
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    environment |= {name: os.environ[name] for name in ["PYTHONPATH"] if name in os.environ}  # the tree under test
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


def test_export_in_int8_reports_every_point_in_both_precisions(home: Path) -> None:
    how = ["--data", "digits", "--precisions", "fp32,int8", "--out", "int8.stretto", "--json", "int8.json"]
    done = stretto("export", "net.pt", *how, home=home)
    assert done.returncode == 0, done.stderr
    assert "int8" in done.stdout
    points = json.loads((home / "int8.json").read_text())["points"]
    whole = {point["precision"]: point["accuracy"] for point in points if (point["width"], point["depth"]) == (1.0, 2)}
    assert len(points) == 8
    assert abs(whole["int8"] - whole["fp32"]) < 0.05


def test_int8_added_to_a_bundle_is_the_file_that_its_checkpoint_gives(home: Path) -> None:
    how = ["--data", "digits", "--precisions", "fp32,int8", "--reduce-range"]
    for source, made in (("net.pt", "from_checkpoint.stretto"), ("net.stretto", "from_bundle.stretto")):
        done = stretto("export", source, *how, "--out", made, home=home)
        assert done.returncode == 0, done.stderr
    assert (home / "from_bundle.stretto").read_bytes() == (home / "from_checkpoint.stretto").read_bytes()


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


def test_coded_bundles_are_smaller_and_say_so(home: Path) -> None:
    made = {}
    for source, out in (("net.pt", "coded.stretto"), ("net.stretto", "recoded.stretto")):
        how = ["--data", "digits", "--coded", "--out", out, "--json", f"{out}.json"]
        done = stretto("export", source, *how, home=home)
        assert done.returncode == 0, done.stderr
        made[out] = json.loads((home / f"{out}.json").read_text())
        assert made[out]["coded"] is True and made[out]["provenance"]["coded"] is True
    plain = json.loads((home / "export.json").read_text())
    assert plain["coded"] is False and plain["decoded_bytes"] == made["recoded.stretto"]["decoded_bytes"]
    assert made["coded.stretto"]["bytes"] < made["recoded.stretto"]["bytes"] < plain["bytes"]
    assert made["coded.stretto"]["bytes"] == (home / "coded.stretto").stat().st_size
    done = stretto("inspect", "coded.stretto", home=home)
    assert done.returncode == 0, done.stderr
    assert "B, of which weights " in done.stdout and "B, coded, " in done.stdout


def test_a_width_is_trained_alone_and_exported(home: Path) -> None:
    control = ["--alone", "0.5", "--no-sort", "--no-shared-stem", "--holdout", "0.2"]
    for words in (
        ["train", *TRAIN, *FAST, *control, "--out", "half.pt", "--json", "half.json"],
        ["export", "half.pt", "--data", "digits", "--out", "half.stretto", "--json", "half_export.json"],
    ):
        done = stretto(*words, home=home)
        assert done.returncode == 0, done.stderr
    report, bundle = (json.loads((home / name).read_text()) for name in ("half.json", "half_export.json"))
    assert [(p["width"], p["depth"]) for p in bundle["points"]] == [(1.0, 1)]
    assert [epoch["seconds"] > 0 for epoch in report["history"]] == [True, True]
    said = {name: bundle["provenance"][name] for name in ("alone", "sort", "shared_stem", "holdout")}
    assert said == {"alone": 0.5, "sort": False, "shared_stem": False, "holdout": 0.2}


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


def test_every_command_says_what_is_taken_and_where_its_power_is_from(home: Path) -> None:
    done = stretto("profile", "net.stretto", "--rounds", "1", "--json", "profile.json", home=home)
    measured = Profile.load(home / "profile.json")
    assert f"energy by {measured.power.source}" in done.stdout
    done = stretto("inspect", "net.stretto", "--json", "inspect.json", home=home)
    assert f"energy by {measured.power.source}" in done.stdout
    inside = json.loads((home / "inspect.json").read_text())
    first = inside["points"][0]
    assert first["energy_mj"] == measured.energy_mj(OperatingPoint(first["width"], first["depth"])) > 0
    np.save(home / "input.npy", np.zeros((1, 8, 8), np.float32))
    limit = ["--policy", "alert", "--energy-mj", str(first["energy_mj"])]
    done = stretto("run", "net.stretto", "input.npy", *limit, "--json", "frugal.json", home=home)
    assert done.returncode == 0, done.stderr
    answer = json.loads((home / "frugal.json").read_text())
    assert inside["power"] == answer["power"] == asdict(measured.power)
    assert 0 < answer["energy_mj"] <= first["energy_mj"]


def test_digits_are_answered_within_the_energy_by_a_power_that_is_made_up(home: Path) -> None:
    with load(home / "net.stretto") as session:
        profile = replace(session.profile, power=Power(1000.0, "a stove"))
    images = np.random.default_rng(0).integers(0, 17, (8, 1, 8, 8), np.uint8)
    with load(home / "net.stretto", policy="alert", profile=profile) as session:
        for point in session.points:
            limit_mj = profile.energy_mj(point)
            for answer in session.infer(session.prepare(images), budget=Budget(energy_mj=limit_mj)):
                assert 0 < answer.energy_mj <= limit_mj


def test_run_answers_for_an_image_file(home: Path) -> None:
    from PIL import Image

    Image.fromarray(np.full((20, 20), 7, np.uint8)).save(home / "grey.png")
    done = stretto("run", "net.stretto", "grey.png", home=home)
    assert done.returncode == 0, done.stderr


def test_white_of_an_image_file_is_the_brightest_pixel_of_the_training_data(home: Path) -> None:
    from PIL import Image
    from stretto.runtime.manifest import InputSpec

    from stretto.console import read_input

    Image.fromarray(np.array([[0, 255], [255, 128]], np.uint8)).save(home / "ink.png")
    for scale, expected in ((1 / 16, [0, 1, 1, 0.5]), (1 / 255, [0, 1, 1, 128 / 255]), (1.0, [0, 255, 255, 128])):
        assert read_input(home / "ink.png", InputSpec((1, 2, 2), scale=scale)).ravel() == pytest.approx(expected)


def test_image_of_another_shape_than_a_bundle_that_is_not_square_is_refused(home: Path) -> None:
    from PIL import Image
    from stretto.runtime.manifest import InputSpec

    from stretto.console import read_input

    Image.fromarray(np.zeros((4, 6), np.uint8)).save(home / "wide.png")
    assert read_input(home / "wide.png", InputSpec((1, 4, 6))).shape == (1, 4, 6)
    with pytest.raises(ValueError, match=r"wide\.png: \(H, W\) is \(4, 6\), this bundle takes \(6, 4\)"):
        read_input(home / "wide.png", InputSpec((1, 6, 4)))


def test_network_of_images_that_are_not_square_goes_all_the_way(home: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 12, 20), dtype=np.uint8), np.arange(60) % 3
    names = np.array(["[cat] a", "[/dog]", ":cow:"])
    np.savez(home / "wide.npz", x_train=x, y_train=y, x_test=x, y_test=y, classes=names)
    np.save(home / "wide.npy", np.zeros((1, 12, 20), np.float32))
    shape = ["--widths", "0.5,1.0", "--exits", "2", "--epochs", "1", "--set", "autocast=false", "--batch", "16"]
    for words in (
        ["train", "--net", "resnet", *TRAIN[2:6], "--data", "wide.npz", *shape, "--out", "wide.pt"],
        ["export", "wide.pt", "--data", "wide.npz", "--out", "wide.stretto"],
        ["eval", "wide.stretto", "--data", "wide.npz"],
    ):
        done = stretto(*words, home=home)
        assert done.returncode == 0, done.stderr
    done = stretto("run", "wide.stretto", "wide.npy", home=home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(tuple(names))


def test_run_answers_at_the_point_that_is_asked_for(home: Path) -> None:
    np.save(home / "input.npy", np.zeros((1, 8, 8), np.float32))
    done = stretto("run", "net.stretto", "input.npy", "--point", "0.5,2", "--json", "point.json", home=home)
    assert done.returncode == 0, done.stderr
    assert json.loads((home / "point.json").read_text())["point"] == [0.5, 2, "fp32"]


def test_bundle_names_the_data_of_its_accuracies_and_the_weights_that_were_skipped(home: Path) -> None:
    import torch

    weights = torch.load(home / "net.pt", weights_only=True)
    assert weights["about"]["data"]["name"] == "digits"
    provenance = json.loads((home / "export.json").read_text())["provenance"]
    assert provenance["data"] == provenance["held_out_data"] == "digits"
    assert provenance["skipped_weights"] is None


def test_weights_of_another_number_of_classes_are_reported_and_kept_in_the_checkpoint(home: Path) -> None:
    import torch
    from stretto.training.nets import make_net

    other = make_net("resnet", 7, (1, 8, 8), base="16", blocks="1")
    torch.save(other.state_dict(), home / "seven.pt")
    words = ["train", *TRAIN, *FAST, "--epochs", "1", "--weights", "seven.pt", "--out", "from_seven.pt"]
    done = stretto(*words, home=home)
    assert done.returncode == 0, done.stderr
    skipped = torch.load(home / "from_seven.pt", weights_only=True)["about"]["skipped_weights"]
    assert skipped and "seven.pt: not taken, as their numbers of outputs differ: " + ", ".join(skipped) in done.stderr


def test_trace_takes_a_network_with_a_number_of_classes_of_its_own(home: Path) -> None:
    code = "from torch import nn\ndef net(): return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3),"
    code += " nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 7))\n"
    (home / "seven.py").write_text(code)
    done = stretto("trace", "--net", "seven:net", "--shape", "3,16,16", "--widths", "0.5,1", "--exits", "1", home=home)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text, value", [("false", False), ("True", True), ("none", None), ("3", 3), ("bf16", "bf16")])
def test_value_of_a_training_option_is_read_as_what_it_says(text: str, value: object) -> None:
    from stretto.training.nets import read_values

    assert read_values([f"autocast={text}"]) == {"autocast": value}


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("torch", ["train", *TRAIN, "--out", "x.pt"], "train"),
        ("matplotlib", ["bench", "demo"], "dev"),
    ],
)
def test_missing_library_names_the_extra_that_brings_it(home: Path, module: str, words: list[str], extra: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from stretto.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=home, timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip() == f"stretto: this needs {module}: pip install 'stretto[{extra}]'"
    assert not (home / "out").exists()


def test_benchmark_writes_among_results_only_where_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stretto.cli_bench import _kept

    monkeypatch.chdir(tmp_path)
    assert _kept("zoo.json") is None
    (tmp_path / "bench" / "results").mkdir(parents=True)
    assert _kept("zoo.json") == Path("bench/results/zoo.json")


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
        (["train", *TRAIN, "--alone", "0.6", "--out", "x.pt"], "alone 0.6 isn't one of the widths; it can be 0.5, 1.0"),
        (["train", *TRAIN, "--holdout", "1", "--out", "x.pt"], "holdout 1.0 isn't a share between 0 and 1"),
        (["run", "net.stretto", "absent.png"], "absent.png"),
        (["run", "net.stretto", "net.pt"], "net.pt can't be read as an image (its format isn't known)"),
        (["run", "net.stretto", "grey.png", "--point", "half"], "--point half: give WIDTH,DEPTH"),
        (["run", "net.stretto", "x.npy", "--point", "0.5,1", "--policy", "deadline"], "leave one of them out"),
        (["eval", "net.stretto", "--data", "digits", "--splits", "nope"], "digits has no split 'nope'"),
        (
            ["export", "train.json", "--data", "digits", "--out", "y.stretto"],
            "train.json: not a bundle nor a checkpoint",
        ),
        (
            ["export", "net.stretto", "--data", "digits", "--out", "y.stretto", "--weights", "float16"],
            "net.stretto: weights 'float16' are asked, a bundle's stay as they are stored, which is 'float32'",
        ),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_that_names_it(home: Path, words: list[str], message: str) -> None:
    done = stretto(*words, home=home)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
