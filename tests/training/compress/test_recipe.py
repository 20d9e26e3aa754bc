"""Recipes say what can be done, and what they can't say is refused with the nearest valid name."""

from pathlib import Path

import pytest
from stretto.training.compress.prune_weights import PruneWeights
from stretto.training.compress.recipe import RecipeError, make_recipe, read_recipe


def refused(text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=match):
        read_recipe(path)


def test_a_pass_gets_its_options_and_those_of_tune_that_it_does_not_say_itself(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        '[tune]\nlr = 0.01\nepochs = 3\n[[pass]]\nname = "prune_weights"\nshare = 0.5\nepochs = 1\nskip = ["conv1"]\n'
        '[[pass]]\nname = "cluster"\nclusters = 16\nlayers = {conv1 = 64}\n'
    )
    prune, cluster = read_recipe(path)
    assert prune.work == PruneWeights(share=0.5, skip=("conv1",))
    assert (prune.tuning.epochs, cluster.tuning.epochs) == (1, 3)
    assert prune.tuning.changes == {"lr": 0.01}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('[[pass]]\nname = "prune_weight"', "pass 1: name 'prune_weight' isn't known; did you mean 'prune_weights'?"),
        ('[[pass]]\nname = "cluster"\nclustres = 4', r"pass 1 \(cluster\): option 'clustres'.*did you mean 'clusters'"),
        ('[[pass]]\nname = "cluster"\nepoch = 4', "option 'epoch'.*did you mean 'epochs'"),
        ('[tune]\nlearning_rate = 4\n[[pass]]\nname = "cluster"', r"\[tune\]: option 'learning_rate'"),
        ('[[passes]]\nname = "cluster"', "table 'passes' isn't known; did you mean 'pass'"),
        ("[[pass]]\nshare = 0.5", "pass 1: has no name; one of prune_weights"),
        ('[[pass]]\nname = "prune_weights"\nshare = 1.5', r"share 1.5: must be in \[0, 1\)"),
        ('[[pass]]\nname = "prune_weights"\nshare = "half"', "share 'half': must be a number"),
        ('[[pass]]\nname = "prune_weights"\nimportance = "fischer"', "importance 'fischer'.*did you mean 'fisher'"),
        ('[[pass]]\nname = "prune_channels"\nmacs = 0.5\nshare = 0.5', "give one of them"),
        ('[[pass]]\nname = "quantize"\nbits = 9', "bits 9: 32"),
        ('[[pass]]\nname = "low_rank"\nrank = 4\nenergy = 0.9', "rank and energy are given"),
        ('[[pass]]\nname = "distill"\nlr = -1', "lr -1: must be above 0"),
        ('[[pass]]\nname = "cluster"\nclusters = 300', "clusters 300: clusters are whole numbers from 2 to 255"),
        ('[[pass]]\nname = "cluster"\nclusters = 3\ndepthwise = 300', "depthwise 300: clusters are"),
        ('[[pass]]\nname = "cluster"\nlayers = {conv1 = 2.5}', "layers.conv1 2.5: clusters are whole numbers"),
        ('[[pass]]\nname = "distill"\nteachers = "before"', "teachers 'before': must be a list of texts"),
        ('[[pass]]\nname = "distill"\nteachers = [3]', r"teachers \[3\]: must be a list of texts"),
        ('[[pass]]\nname = "distill"\nepochs = 1.5', "epochs 1.5: must be a whole number"),
        ('[[pass]]\nname = "distill"\naugment = "cifra"', "no augmentation 'cifra'.*did you mean 'cifar'"),
        ('[[pass]]\nname = "distill"\ndistillation = "x"', "distillation 'x': must be a number"),
        ('[[pass]]\nname = "distill"\npupils = "narrow"', "pupils 'narrow': must be one of all, widest"),
        ('[[pass]]\nname = "distill"\npupils = "widest"', "pupils 'widest': give inplace_distillation above 0 too"),
        ('pass = ["quantize"]', "pass 1: has no name"),
        ("", "has no passes"),
        ("[[pass", "not TOML"),
    ],
)
def test_what_a_recipe_can_not_say(text: str, match: str, tmp_path: Path) -> None:
    refused(text, match, tmp_path)


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gone\.toml: not a readable recipe"):
        read_recipe(tmp_path / "gone.toml")


def test_teachers_are_found_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "teacher.pt").touch()
    (stage,) = make_recipe(
        {"pass": [{"name": "distill", "teachers": ["teacher.pt", "before"], "epochs": 1}]}, "r", tmp_path
    )
    assert stage.tuning.teachers == (str(tmp_path / "teacher.pt"), "before")


def test_a_teacher_beside_the_recipe_goes_before_one_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    for folder in (tmp_path, tmp_path / "recipes"):
        (folder / "teacher.pt").touch()
    monkeypatch.chdir(tmp_path)
    said = {"pass": [{"name": "distill", "teachers": ["teacher.pt"], "epochs": 1}]}
    (stage,) = make_recipe(said, "r", tmp_path / "recipes")
    assert stage.tuning.teachers == (str(tmp_path / "recipes" / "teacher.pt"),)
