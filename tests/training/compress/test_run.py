"""A recipe that is cut off goes on in the pass that it was in, and nothing already there is lost."""

from pathlib import Path

import pytest
import torch
from stretto.training.checkpoint import CheckpointError, load_checkpoint
from stretto.training.compress.recipe import Stage
from stretto.training.compress.run import compress
from stretto.training.compress.subject import Subject
from stretto.training.compress.tuning import Tuning, Workshop
from stretto.training.fit import Progress

from .trained import digits, recipe, run, trained

PASSES = (
    {"name": "prune_weights", "share": 0.6, "steps": 2, "epochs": 1},
    {"name": "cluster", "clusters": 7, "epochs": 2},
)


class Cut(Exception):
    pass


@pytest.mark.parametrize("batch", [60, 130])
def test_a_run_that_is_cut_off_anywhere_ends_as_an_uncut_one(batch: int, tmp_path: Path) -> None:
    expected, _ = run(tmp_path, *PASSES, name="whole.pt", lr=0.02)
    out, seen, stages = tmp_path / "cut.pt", [0], recipe(*PASSES, lr=0.02)

    def cut(progress: Progress) -> None:
        seen[0] += 1
        if seen[0] == batch:
            raise Cut

    with pytest.raises(Cut):
        compress(trained(), stages, "digits", out, cache=tmp_path, data=digits(), on_progress=cut)
    assert not out.exists()
    report = compress(trained(), stages, "digits", out, cache=tmp_path, data=digits())
    one, other = (load_checkpoint(path)["state"] for path in (expected, out))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [each["name"] for each in report["passes"]] == ["prune_weights", "cluster"]
    assert not out.with_name("cut.pt.work").exists()


def test_finished_passes_are_not_run_again(tmp_path: Path) -> None:
    out, stages = tmp_path / "cut.pt", recipe(*PASSES, lr=0.02)
    told: list[str] = []

    def cut(progress: Progress) -> None:
        if told[-1] == "pass 2, cluster":
            raise Cut

    def tell(what: str, done: int, total: int) -> None:
        if what.startswith("pass"):
            told.append(what)

    with pytest.raises(Cut):
        compress(trained(), stages, "digits", out, cache=tmp_path, data=digits(), tell=tell, on_progress=cut)
    told.clear()
    compress(trained(), stages, "digits", out, cache=tmp_path, data=digits(), tell=tell)
    assert told == ["pass 2, cluster"]


def test_another_recipe_does_not_go_on_with_what_was_begun(tmp_path: Path) -> None:
    out = tmp_path / "cut.pt"

    def cut(progress: Progress) -> None:
        raise Cut

    with pytest.raises(Cut):
        compress(trained(), recipe(*PASSES), "digits", out, cache=tmp_path, data=digits(), on_progress=cut)
    with pytest.raises(CheckpointError, match="begun with another passes"):
        compress(trained(), recipe(PASSES[1]), "digits", out, cache=tmp_path, data=digits())


def test_an_output_that_is_there_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "small.pt"
    out.write_text("precious")
    with pytest.raises(CheckpointError, match="is there already"):
        compress(trained(), recipe(PASSES[0]), "digits", out, data=digits())
    assert out.read_text() == "precious"


def test_a_checkpoint_whose_training_is_not_over_is_refused(tmp_path: Path) -> None:
    content = load_checkpoint(trained())
    content["options"]["done"] = False
    torch.save(content, tmp_path / "half.pt")
    with pytest.raises(CheckpointError, match="training isn't over"):
        compress(tmp_path / "half.pt", recipe(PASSES[0]), "digits", tmp_path / "small.pt", data=digits())


def test_a_run_that_is_cut_off_after_its_result_is_in_place_keeps_it(tmp_path: Path) -> None:
    out, stages = tmp_path / "small.pt", recipe({"name": "cluster", "clusters": 7, "epochs": 1})

    def cut(folder: Path) -> None:
        raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stretto.training.compress.run.shutil.rmtree", cut)
        with pytest.raises(Cut):
            compress(trained(), stages, "digits", out, cache=tmp_path, data=digits())
    made = out.read_bytes()
    report = compress(trained(), stages, "digits", out, cache=tmp_path, data=digits())
    assert [each["name"] for each in report["passes"]] == ["cluster"]
    assert out.read_bytes() == made
    assert not out.with_name("small.pt.work").exists()
    with pytest.raises(CheckpointError, match="is there already"):
        compress(trained(), stages, "digits", out, cache=tmp_path, data=digits())


def test_a_teacher_that_changed_is_not_gone_on_with(tmp_path: Path) -> None:
    teacher, out = tmp_path / "teacher.pt", tmp_path / "small.pt"
    teacher.write_bytes(trained().read_bytes())
    stages = recipe({"name": "distill", "teachers": [str(teacher)], "epochs": 1})

    def cut(progress: Progress) -> None:
        raise Cut

    with pytest.raises(Cut):
        compress(trained(), stages, "digits", out, cache=tmp_path, data=digits(), on_progress=cut)
    torch.save(load_checkpoint(teacher) | {"epoch": 99}, teacher)
    with pytest.raises(CheckpointError, match="begun with another teachers"):
        compress(trained(), stages, "digits", out, cache=tmp_path, data=digits())


def test_a_pass_gets_the_network_as_a_resumed_run_would_have_it(tmp_path: Path) -> None:
    """Channels last, sums of float32 differ in their last digits, by which importances may."""
    seen = []

    class Look:
        def run(self, subject: Subject, shop: Workshop) -> tuple[Subject, dict]:
            seen.extend(value.is_contiguous() for value in subject.net.parameters())
            return subject, {}

    stages = recipe({"name": "cluster", "clusters": 7, "epochs": 1}, channels_last=True)
    stages = (*stages, Stage("look", {"name": "look"}, Look(), Tuning()))
    compress(trained(), stages, "digits", tmp_path / "small.pt", cache=tmp_path, data=digits())
    assert seen
    assert all(seen)
