"""`stretto compress` and `export --coded` as somebody types them, and a bundle that answers as before."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from stretto.runtime.bundle import Bundle
from typer.testing import CliRunner

import stretto
from stretto.cli import app

from .training.compress.trained import trained

RECIPE = """
[tune]
lr = 0.02

[[pass]]
name = "prune_weights"
share = 0.6
epochs = 1

[[pass]]
name = "cluster"
clusters = 15
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    shutil.copy(trained(), "net.pt")
    Path("recipe.toml").write_text(RECIPE)
    return tmp_path


def command(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    if done.exception:
        raise done.exception
    return done.output


def test_a_network_is_compressed_exported_and_answers(home: Path) -> None:
    said = command(
        "compress", "net.pt", "--recipe", "recipe.toml", "--data", "digits", "--out", "small.pt", "--json", "r.json"
    )
    assert "prune_weights: before and after" in said and "cluster: before and after" in said
    passes = json.loads(Path("r.json").read_text())["passes"]
    assert passes[1]["after"]["coded_bytes"] < passes[0]["after"]["coded_bytes"] < passes[0]["before"]["coded_bytes"]

    for source, more in (("net", ()), ("small", ("--coded",))):
        command("export", f"{source}.pt", "--data", "digits", "--out", f"{source}.stretto", *more)
    sizes = [Path(f"{name}.stretto").stat().st_size for name in ("small", "net")]
    assert sizes[0] < sizes[1] / 5
    assert "coded" in command("inspect", "small.stretto")

    opened = Bundle.open(home / "small.stretto")
    x = np.zeros(opened.manifest.input.shape, np.float32)
    with stretto.load("small.stretto") as session:
        assert session.infer(x).label in opened.manifest.classes


def test_a_recipe_with_a_misspelt_option_names_the_nearest(home: Path) -> None:
    Path("recipe.toml").write_text(RECIPE.replace("clusters", "cluster"))
    with pytest.raises(ValueError, match=r"pass 2 \(cluster\): option 'cluster' isn't known; did you mean 'clusters'"):
        command("compress", "net.pt", "--recipe", "recipe.toml", "--data", "digits", "--out", "small.pt")
    assert not Path("small.pt").exists()
