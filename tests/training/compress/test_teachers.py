"""Pupils learn what teachers say, asked once; a teacher that doesn't fit is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from stretto.training.compress.teachers import Taught, open_teacher
from stretto.training.losses import Lesson, LossOptions, supernet_loss
from stretto.training.task import export_checkpoint, training_batches

from ..small import small_net
from .trained import run, subject, trained


def test_every_kind_of_teacher_says_the_same(tmp_path: Path) -> None:
    made = subject()
    x, _ = next(iter(made.batches("calibration")))
    export_checkpoint(trained(), tmp_path / "net.stretto", "digits")
    torch.onnx.export(
        made.net.subnet(1.0, 2), (x,), tmp_path / "net.onnx", dynamo=True, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    with torch.no_grad():
        expected = made.net(x)[-1]
    for path in (trained(), tmp_path / "net.stretto", tmp_path / "net.onnx"):
        assert torch.allclose(open_teacher(path, made.about, tmp_path).ask(x), expected, atol=1e-3)


def test_teachers_are_asked_once_for_each_epoch_of_the_same_batches(tmp_path: Path) -> None:
    made, asked = subject(), []
    teacher = open_teacher(trained(), made.about, tmp_path)
    object.__setattr__(teacher, "ask", lambda x, ask=teacher.ask: asked.append(len(x)) or ask(x))

    def epoch(number: int, seed: int = 0) -> list[Lesson]:
        loader = Taught(training_batches(made.about, made.data, seed), [teacher], 0.5, 2.0)
        loader.set_epoch(number)
        return [lesson for _, _, lesson in loader]

    first = epoch(0)
    assert len(asked) == len(first)
    again = epoch(0)
    assert len(asked) == len(first)
    assert all(torch.equal(a.scores, b.scores) for a, b in zip(first, again, strict=True))
    epoch(1), epoch(0, seed=1)
    assert len(asked) == 3 * len(first)
    assert {path.suffix for path in tmp_path.iterdir()} == {".npy"}


def test_scores_do_not_depend_on_temperature_or_share_but_lessons_do() -> None:
    scores, logits = torch.randn(2, 5, 4), torch.randn(5, 4)
    loss = Lesson(scores, 1.0, 3.0).loss(logits)
    said = torch.softmax(scores / 3, 2).mean(0)
    expected = (said * (said.log() - torch.log_softmax(logits / 3, 1))).sum(1).mean() * 9
    assert torch.isclose(loss, expected)
    # the term doesn't shrink with the number of classes: classes that nobody believes in change nothing
    empty = torch.full((2, 5, 40), -40.0)
    assert torch.isclose(Lesson(torch.cat([scores, empty], 2), 1.0, 3.0).loss(torch.cat([logits, empty[0]], 1)), loss,
                         rtol=1e-3)  # fmt: skip


def test_a_lesson_takes_its_share_of_every_width_and_exit() -> None:
    net = small_net(widths=(0.5, 1.0)).eval()
    x, y = torch.randn(4, 1, 6, 6), torch.arange(4)
    lesson = Lesson(torch.randn(1, 4, 4), 0.25, 2.0)
    taught = sum(lesson.loss(z) for w in net.widths for z in net(x, w))
    expected = 0.75 * supernet_loss(net, x, y) + 0.25 * taught
    assert torch.isclose(supernet_loss(net, x, y, LossOptions(), lesson=lesson), expected)
    assert torch.equal(supernet_loss(net, x, y, lesson=lesson._replace(share=0.0)), supernet_loss(net, x, y))


def test_a_lesson_for_the_widest_leaves_all_other_exits_to_it() -> None:
    net = small_net(widths=(0.5, 1.0)).eval()
    x, y = torch.randn(4, 1, 6, 6), torch.arange(4)
    lesson, in_place = Lesson(torch.randn(1, 4, 4), 0.25, 2.0, widest_only=True), LossOptions(inplace_distillation=0.5)
    final = net(x, 1.0)[-1]
    moved = 0.25 * (lesson.loss(final) - torch.nn.functional.cross_entropy(final, y))
    assert torch.isclose(supernet_loss(net, x, y, in_place, lesson=lesson), supernet_loss(net, x, y, in_place) + moved)


def test_distillation_moves_the_pupil_towards_its_teacher(tmp_path: Path) -> None:
    """The teacher here answers always the same class, which no label would teach."""

    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :10] * 0 + torch.tensor([9.0] + [0.0] * 9)

    x = torch.zeros(2, 1, 8, 8)
    torch.onnx.export(
        Constant().eval(), (x,), tmp_path / "c.onnx", dynamo=True, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    _out, (report,) = run(
        tmp_path, {"name": "distill", "teachers": [str(tmp_path / "c.onnx")], "distillation": 1.0, "epochs": 2}, lr=0.05
    )
    assert all(point["accuracy"] < 0.2 for point in report["after"]["points"] if point["depth"] == 2)


def test_a_pass_for_the_widest_alone_gives_lessons_for_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, loss = list[bool](), Lesson.loss
    monkeypatch.setattr(Lesson, "loss", lambda lesson, logits: seen.append(lesson.widest_only) or loss(lesson, logits))
    told = {"teachers": ["before"], "pupils": "widest", "inplace_distillation": 0.5, "epochs": 1}
    run(tmp_path, {"name": "distill", **told})
    assert len(seen) == len(training_batches(subject().about, subject().data, 0))  # one exit of each batch
    assert all(seen)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("gone.pt", None, "no such file"),
        ("net.h5", b"x", r"files of '.h5' aren't known; give one of .pt, .stretto, .onnx"),
        ("net.onnx", b"x", "ONNX Runtime can't load it"),
    ],
)
def test_teachers_that_can_not_be_opened_are_named(
    name: str, content: bytes | None, match: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"teacher .*{name}: {match}"):
        open_teacher(tmp_path / name, subject().about, tmp_path)


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    about = subject().about | {"classes": ["a", "b"]}
    with pytest.raises(ValueError, match=r"its classes are .* the pupil's"):
        open_teacher(trained(), about, tmp_path)


def test_a_teacher_of_one_batch_size_or_another_shape_is_refused(tmp_path: Path) -> None:
    x = torch.zeros(1, 1, 8, 8)
    torch.onnx.export(torch.nn.Flatten().eval(), (x,), tmp_path / "one.onnx", dynamo=True, verbose=False)
    with pytest.raises(ValueError, match="expected one input with a free batch axis"):
        open_teacher(tmp_path / "one.onnx", subject().about, tmp_path)


def test_distillation_without_epochs_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="distillation needs both"):
        run(tmp_path, {"name": "distill", "teachers": ["before"]})


def test_a_teacher_that_is_missing_is_named_before_any_pass_runs(tmp_path: Path) -> None:
    passes = {"name": "cluster", "clusters": 4}, {"name": "distill", "teachers": ["gone.pt"], "epochs": 1}
    with pytest.raises(ValueError, match=r"pass 2 \(distill\): teacher gone.pt: no such file"):
        run(tmp_path, *passes)
    assert not list(tmp_path.iterdir())


def test_a_teacher_with_other_normalisation_sees_its_own(tmp_path: Path) -> None:
    made = subject()
    data = made.about["data"]
    other = made.about | {"data": data | {"mean": [m + 0.1 for m in data["mean"]], "std": [2 * s for s in data["std"]]}}
    x, _ = next(iter(made.batches("calibration")))
    theirs = (x * torch.tensor(data["std"]) + torch.tensor(data["mean"]) - torch.tensor(other["data"]["mean"])) / (
        torch.tensor(other["data"]["std"])
    )
    expected = open_teacher(trained(), made.about, tmp_path).ask(x)
    assert torch.allclose(open_teacher(trained(), other, tmp_path).ask(theirs), expected, atol=1e-4)
    assert np.isfinite(expected.numpy()).all()
