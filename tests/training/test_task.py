"""A training from names: the control begins as its supernet's own width, and a checkpoint says all that made it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stretto.training import task as tasks
from stretto.training.checkpoint import CheckpointError, load_checkpoint
from stretto.training.data import load_data
from stretto.training.fit import FitOptions, fit_options
from stretto.training.losses import LossOptions
from stretto.training.nets import make_net
from stretto.training.supernet import Supernet
from stretto.training.task import TrainTask, export_checkpoint, restore, run_training

OPTIONS = {"base": "16", "blocks": "1"}
TASK = TrainTask("resnet", "digits", OPTIONS, widths=(0.5, 1.0), exits=2, holdout=0.2)
QUICK = fit_options(epochs=1, autocast=False, channels_last=False, recalibrate=1, depth_weights=(0.5, 1.0))


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The checkpoint of a width that was trained alone, and what the training reported."""
    path = tmp_path_factory.mktemp("control") / "half.pt"
    return path, run_training(replace(TASK, alone=0.5), QUICK, path)


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Gives the network that a task's training begins with, and the options that it is trained by."""
    found: list[tuple[Supernet, FitOptions]] = []

    def instead_of_fit(net: Supernet, loader: Any, options: FitOptions, **_: Any) -> list[dict[str, float]]:
        found.append((net.eval(), options))
        return []

    monkeypatch.setattr(tasks, "fit", instead_of_fit)

    def begin(task: TrainTask, options: FitOptions = QUICK) -> tuple[Supernet, FitOptions]:
        run_training(task, options, tmp_path / "never.pt")
        return found[-1]

    yield begin


@pytest.mark.parametrize("width", TASK.widths)
@pytest.mark.parametrize("shared_stem", [True, False])
def test_control_begins_with_what_its_supernet_answers_at_that_width(
    begun: Any, width: float, shared_stem: bool
) -> None:
    task = replace(TASK, shared_stem=shared_stem)
    net, control = begun(task)[0], begun(replace(task, alone=width))[0]
    x = torch.randn(5, 1, 8, 8)
    assert (control.widths, control.depths) == ((1.0,), 1)
    torch.testing.assert_close(control(x)[0], net(x, width)[-1])
    assert control.macs(1.0, 1) <= net.macs(width, 2)


def test_control_is_trained_by_the_same_options_but_those_between_widths_or_exits(begun: Any) -> None:
    between = {"sandwich": 0, "inplace_distillation": 0.5, "equilibrium": True, "depth_weights": (0.5, 1.0)}
    options = replace(QUICK, lr=0.07, loss=LossOptions(label_smoothing=0.1, **between))
    assert begun(TASK, options)[1] == options
    assert begun(replace(TASK, alone=1.0), options)[1] == replace(options, loss=LossOptions(label_smoothing=0.1))


@pytest.mark.parametrize("sort", [True, False])
def test_channels_are_put_in_another_order_only_if_the_task_says_so(begun: Any, sort: bool) -> None:
    shared = begun(replace(TASK, sort=sort))[0].shared
    torch.manual_seed(QUICK.seed)
    model = make_net("resnet", 10, (1, 8, 8), **OPTIONS)
    same = [torch.equal(shared.get_parameter(name), value) for name, value in model.named_parameters()]
    assert all(same) == (not sort)


def test_trained_control_is_restored_with_its_accuracy(control: tuple[Path, dict[str, Any]]) -> None:
    path, report = control
    net, content = restore(path)
    assert content["about"]["alone"] == 0.5 and content["supernet"]["exits"] == []
    split = load_data("digits", calibration=0.2).splits["calibration"]
    taken = content["about"]["data"]
    x = (torch.from_numpy(split.x) * taken["scale"] - taken["mean"][0]) / taken["std"][0]
    with torch.no_grad():
        right = net(x.float())[-1].argmax(1) == torch.from_numpy(split.y)
    assert [(p["width"], p["depth"]) for p in report["points"]] == [(1.0, 1)]
    assert right.float().mean().item() == pytest.approx(report["points"][0]["accuracy"], abs=0.005)


def test_trained_control_is_exported_as_one_width_with_one_exit(
    control: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path, report = control
    manifest = export_checkpoint(path, tmp_path / "half.stretto", "digits").manifest
    assert (manifest.widths, manifest.depths) == ((1.0,), 1)
    assert [point.macs for point in manifest.points] == [report["points"][0]["macs"]]
    said = {name: manifest.provenance[name] for name in ("alone", "sort", "shared_stem", "holdout", "exits")}
    assert said == {"alone": 0.5, "sort": True, "shared_stem": False, "holdout": 0.2, "exits": []}


def test_export_holds_out_the_images_that_training_held_out(
    control: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(net: Supernet, held_out: Any, path: Path, **how: Any) -> None:
        seen.extend(y for _, y in how["calibration"])

    monkeypatch.setattr(tasks, "export", spy)
    export_checkpoint(control[0], tmp_path / "half.stretto", "digits")
    expected = load_data("digits", calibration=0.2).splits["calibration"].y
    assert torch.equal(torch.cat([torch.as_tensor(y) for y in seen]), torch.from_numpy(expected))


def test_trained_supernet_without_a_shared_stem_is_restored_and_exported(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    report = run_training(replace(TASK, shared_stem=False), QUICK, path)
    assert load_checkpoint(path)["supernet"]["shared_stem"] is False
    manifest = export_checkpoint(path, tmp_path / "net.stretto", "digits").manifest
    assert [point.macs for point in manifest.points] == [point["macs"] for point in report["points"]]
    assert manifest.provenance["shared_stem"] is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alone": None}, "alone 0.5 there, None here"),
        ({"alone": 1.0}, "alone 0.5 there, 1.0 here"),
        ({"sort": False}, "sort True there, False here"),
        ({"holdout": 0.1}, "holdout 0.2 there, 0.1 here"),
        ({"widths": (0.25, 0.5, 1.0)}, r"widths \[0.5, 1.0\] there, \[0.25, 0.5, 1.0\] here"),
    ],
)
def test_checkpoint_of_another_task_is_refused_and_named(
    control: tuple[Path, dict[str, Any]], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=rf"half\.pt: is of another training: .*{message}"):
        run_training(replace(TASK, **{"alone": 0.5} | change), QUICK, control[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alone": 0.6}, r"alone 0.6 isn't one of the widths; it can be 0.5, 1.0, or add it to widths"),
        ({"holdout": 0.0}, r"holdout 0.0 isn't a share between 0 and 1"),
        ({"holdout": 1.0}, r"holdout 1.0 isn't a share between 0 and 1"),
    ],
)
def test_tasks_that_cannot_be_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TASK, **change)
