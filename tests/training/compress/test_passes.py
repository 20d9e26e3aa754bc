"""What every pass keeps: all widths and exits, whatever runs before or after it, and a checkpoint that can be read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from stretto.training.compress.recipe import PASSES
from stretto.training.compress.subject import open_subject
from stretto.training.task import export_checkpoint, restore

from .trained import WIDTHS, digits, run, subject, trained

# each pass with options that do something
DOING = {
    "prune_weights": {"share": 0.5, "steps": 2, "epochs": 1},
    "prune_channels": {"macs": 0.7, "epochs": 1},
    "distill": {"teachers": ["before"], "epochs": 1},
    "quantize": {"bits": 4, "epochs": 1},
    "cluster": {"clusters": 15, "epochs": 1},
    "binarize": {"enabled": True, "epochs": 1},
    "low_rank": {"macs": 0.6, "multiple": 2, "epochs": 1},
    "separable": {"enabled": True, "epochs": 1, "teachers": ["before"]},
}
NAMES = list(PASSES)
# every pass before and after two others, and itself
ORDERS = [(name, NAMES[(n + step) % len(NAMES)]) for n, name in enumerate(NAMES) for step in (0, 1, 3)]


def doing(name: str) -> dict:
    return {"name": name, **DOING[name]}


def test_every_pass_is_tried() -> None:
    assert DOING.keys() == PASSES.keys()


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_without_options_changes_nothing(name: str, tmp_path: Path) -> None:
    out, (report,) = run(tmp_path, {"name": name, "recalibrate": 0})
    before, after = (restore(path)[0].state_dict() for path in (trained(), out))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert report["before"] == report["after"]


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_keeps_every_width_and_exit_and_says_what_it_did(name: str, tmp_path: Path) -> None:
    out, (report,) = run(tmp_path, doing(name), lr=0.02)
    net = restore(out)[0]
    points = [(point["width"], point["depth"]) for point in report["after"]["points"]]
    assert points == [(width, depth) for width in WIDTHS for depth in (1, 2)]
    assert all(point["accuracy"] > 0.7 for point in report["after"]["points"] if point["depth"] == 2)
    assert report["after"]["parameters"] == sum(p.numel() for p in net.parameters())
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        for width in WIDTHS:
            for depth, logits in enumerate(net(x, width), start=1):
                assert torch.allclose(net.subnet(width, depth)(x), logits, atol=1e-5)


@pytest.mark.parametrize(("first", "second"), ORDERS)
def test_passes_run_in_any_order(first: str, second: str, tmp_path: Path) -> None:
    quick = {"epochs": 0, "teachers": []}
    passes = [doing(name) | (quick if name != "distill" else {}) for name in (first, second)]
    out, reports = run(tmp_path, *passes, lr=0.02, recalibrate=2)
    assert [report["name"] for report in reports] == [first, second]
    assert reports[1]["before"] == reports[0]["after"]
    made = open_subject(out, "digits", digits())
    for name, limit in made.limits.items():
        weight = made.net.shared.get_parameter(name)
        assert torch.equal(limit.nearest(weight), weight)


def test_what_was_compressed_is_exported_with_the_accuracy_that_it_has(tmp_path: Path) -> None:
    out, _ = run(tmp_path, doing("prune_channels"), doing("low_rank"), doing("cluster"), lr=0.02)
    bundle = export_checkpoint(out, tmp_path / "small.stretto", "digits")
    assert bundle.manifest.widths == WIDTHS
    full = bundle.point(1.0, 2)
    assert full.accuracy > 0.7
    net, before = restore(out)[0], subject().net
    assert full.macs == net.macs(1.0, 2) < before.macs(1.0, 2)


def test_narrower_widths_are_still_the_leading_channels(tmp_path: Path) -> None:
    out, _ = run(tmp_path, doing("prune_channels"), lr=0.02)
    net = restore(out)[0]
    for part in (*net._skeleton(0.5).bodies, *net._skeleton(0.5).heads):
        for source in part.sources:
            for runs in source.slices:
                assert runs is None or (len(runs) == 1 and runs[0][0] == 0)
    assert np.all([g.atoms >= 8 for g in net.plan.channels.groups])


@pytest.mark.parametrize("name", ["prune_weights", "cluster", "binarize", "quantize"])
def test_a_coded_bundle_is_as_small_as_the_pass_says_and_answers_as_the_checkpoint(name: str, tmp_path: Path) -> None:
    out, (report,) = run(tmp_path, doing(name), lr=0.02)
    bundle = export_checkpoint(out, tmp_path / "small.stretto", "digits", coded=True)
    stored = bundle.manifest.members["weights.coded"].size
    assert stored == pytest.approx(report["after"]["coded_bytes"], rel=0.05)
    assert stored < 0.7 * report["after"]["fp32_bytes"]
    made = open_subject(out, "digits", digits())
    for key in made.limits:
        assert np.array_equal(bundle.weights[key], made.net.shared.get_parameter(key).detach().numpy())
