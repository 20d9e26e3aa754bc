"""A bundle in other precisions is what its checkpoint would have been exported as, byte for byte."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stretto.runtime.bundle import Bundle
from stretto.runtime.engines.onnx import OnnxEngine
from stretto.runtime.manifest import Certified, CertifiedWay, InputSpec
from stretto.training.data import load_data
from stretto.training.export import export
from stretto.training.fit import fit_options
from stretto.training.requantize import export_bundle, with_precisions
from stretto.training.task import TrainTask, export_checkpoint, run_training

from .odd_nets import settled
from .test_export import CASES, model

BOTH = ("fp32", "int8")
TASK = TrainTask("resnet", "digits", {"base": "16", "blocks": "1"}, widths=(0.5, 1.0), exits=2, holdout=0.2)
QUICK = fit_options(epochs=1, autocast=False, channels_last=False, recalibrate=1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Bundles of one checkpoint, by how they are exported; each written when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("exported"), {}
    run_training(TASK, QUICK, folder / "net.pt")

    def get(**how: Any) -> Bundle:
        key = str(sorted(how.items()))
        if key not in made:
            made[key] = export_checkpoint(folder / "net.pt", folder / f"{len(made)}.stretto", "digits", **how)
        return made[key]

    return get


def content(bundle: Bundle) -> bytes:
    return bundle.path.read_bytes()


def saying(bundle: Bundle, **said: Any) -> Bundle:
    """The bundle with another provenance; None takes a key out."""
    about = {name: value for name, value in {**bundle.manifest.provenance, **said}.items() if value is not None}
    return Bundle(bundle.path, replace(bundle.manifest, provenance=about), "", bundle.graphs, bundle.weights)


@pytest.mark.parametrize("weights", ["float32", "float16"])
@pytest.mark.parametrize("reduce_range", [False, True])
def test_int8_added_to_a_bundle_is_what_the_checkpoint_gives(exported, tmp_path, weights, reduce_range):
    expected = exported(precisions=BOTH, weights=weights, reduce_range=reduce_range)
    how = {"precisions": BOTH, "reduce_range": reduce_range}
    found = export_bundle(exported(weights=weights), tmp_path / "a.stretto", "digits", **how)
    assert content(found) == content(expected)


def test_int8_added_to_a_coded_bundle_is_what_the_checkpoint_gives_coded(exported, tmp_path):
    expected = exported(precisions=BOTH, coded=True)
    found = export_bundle(exported(coded=True), tmp_path / "a.stretto", "digits", precisions=BOTH)
    assert content(found) == content(expected)
    assert found.coding == {} and found.manifest.provenance["coded"] is True


def test_a_plain_bundle_is_coded_as_it_is_when_asked(exported, tmp_path):
    source = exported(precisions=BOTH)
    found = export_bundle(source, tmp_path / "a.stretto", "digits", precisions=BOTH, coded=True)
    assert found.coding == {} and found.manifest.provenance == {**source.manifest.provenance, "coded": True}
    assert found.graphs == source.graphs and found.weights.keys() == source.weights.keys()
    assert all(np.array_equal(found.weights[name], array) for name, array in source.weights.items())
    assert found.manifest.points == source.manifest.points
    assert found.path.stat().st_size < source.path.stat().st_size


@pytest.mark.parametrize("name", CASES)
def test_int8_of_every_network_has_the_same_graphs_weights_and_accuracies(tmp_path, name):
    shape, _ = CASES[name]
    net, x = settled(model(name), shape, exits=2, widths=(0.5, 1.0)), torch.randn(32, *shape)
    batches = [(x, torch.arange(32) % 5)]
    how = {"input": InputSpec(shape), "calibration": batches}
    expected = export(net, batches, tmp_path / "both.stretto", precisions=BOTH, **how)
    source = export(net, batches, tmp_path / "fp32.stretto", **how)
    found = with_precisions(source, batches, tmp_path / "a.stretto", calibration=batches, precisions=BOTH)
    assert found.manifest.members == expected.manifest.members  # the hashes of graphs and weights
    assert found.manifest.points == expected.manifest.points


def test_precisions_that_are_not_asked_leave_nothing_behind(exported, tmp_path):
    found = export_bundle(exported(precisions=BOTH, reduce_range=True), tmp_path / "a.stretto", "digits")
    assert content(found) == content(exported())


def test_int8_that_is_there_is_kept_whatever_the_calibration_data(exported, tmp_path):
    source = exported(precisions=BOTH, reduce_range=True)
    batches = [(np.zeros((8, 1, 8, 8), np.float32), np.arange(8))]
    found = with_precisions(source, batches, tmp_path / "a.stretto", calibration=batches, precisions=BOTH)
    assert found.manifest.members == source.manifest.members
    assert found.manifest.provenance["reduce_range"] is True


def test_order_of_the_precisions_is_the_one_asked_for(exported, tmp_path):
    found = export_bundle(exported(), tmp_path / "a.stretto", "digits", precisions=BOTH[::-1]).manifest
    assert found.precisions == ("int8", "fp32")
    points = exported(precisions=BOTH).manifest.points
    assert sorted(found.points, key=repr) == sorted(points, key=repr)


def test_a_bundle_may_be_written_over_itself(exported, tmp_path):
    path = tmp_path / "own.stretto"
    path.write_bytes(content(exported()))
    export_bundle(Bundle.open(path), path, "digits", precisions=BOTH)
    assert path.read_bytes() == content(exported(precisions=BOTH))
    assert list(tmp_path.iterdir()) == [path]


def test_a_bundle_that_could_not_be_written_over_itself_is_as_it_was(exported, tmp_path):
    path = tmp_path / "own.stretto"
    path.write_bytes(content(exported()))
    batches = [(np.zeros((8, 1, 8, 8), np.float32), np.arange(8))]
    with pytest.raises(ValueError, match="there is no data to evaluate on"):
        with_precisions(Bundle.open(path), [], path, calibration=batches, precisions=BOTH)
    assert path.read_bytes() == content(exported())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("splits", [("test", "calibration"), ("calibration",)])
def test_accuracies_are_of_the_splits_that_the_bundle_names_or_of_those_asked(exported, tmp_path, splits):
    expected = exported(splits=splits, precisions=BOTH)
    of_its_own = export_bundle(exported(splits=splits), tmp_path / "a.stretto", "digits", precisions=BOTH)
    asked = export_bundle(exported(), tmp_path / "b.stretto", "digits", precisions=BOTH, splits=splits)
    assert content(of_its_own) == content(asked) == content(expected)
    assert expected.manifest.points != exported(precisions=BOTH).manifest.points


def test_provenance_says_nothing_of_splits_that_ones_own_batches_are_not(exported, tmp_path):
    source, batches = exported(), [(np.zeros((8, 1, 8, 8), np.float32), np.arange(8))]
    how = {"calibration": batches, "precisions": BOTH, "reduce_range": True, "provenance": {"held_out_data": "zeros"}}
    said = with_precisions(source, batches, tmp_path / "a.stretto", **how).manifest.provenance
    expected = {**source.manifest.provenance, "reduce_range": True, "held_out_data": "zeros"}
    del expected["splits"]
    assert said == expected


def test_progress_tells_of_ranging_and_of_both_measurings(exported, tmp_path):
    told = []
    how = {"precisions": BOTH, "tell": lambda *step: told.append(step)}
    export_bundle(exported(), tmp_path / "a.stretto", "digits", **how)
    assert list(dict.fromkeys(what for what, _, _ in told)) == ["ranging", "evaluating", "calibrating"]
    assert ("ranging", 2, 2) in told


def test_a_bundle_that_takes_pixels_as_they_are_is_measured_on_those(tmp_path):
    net = settled(model("lenet300"), (1, 8, 8), exits=2, widths=(0.5, 1.0))
    data = load_data("digits", calibration=0.2)
    batches = [(data.split(name).x.astype(np.float32) / 16, data.split(name).y) for name in ("test", "calibration")]
    how = {"input": InputSpec((1, 8, 8), scale=1 / 16), "classes": data.classes, "calibration": batches[1:]}
    about = {"provenance": {"holdout": 0.2, "splits": ["test"]}}
    source = export(net, batches[:1], tmp_path / "a.stretto", **how, **about)
    found = export_bundle(source, tmp_path / "b.stretto", "digits")
    assert [p.accuracy for p in found.manifest.points] == [p.accuracy for p in source.manifest.points]
    assert [p.temperature for p in found.manifest.points] == pytest.approx(
        [p.temperature for p in source.manifest.points], rel=1e-4
    )


def digits(path: Path, x: np.ndarray, classes: str = "0123456789") -> str:
    y = np.arange(40) % len(classes)
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y, classes=np.array(list(classes)))
    return str(path)


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((40, 8, 8), "012345678X", r"\.stretto: has classes \['0', .*'9'\], .*a\.npz has \['0', .*'X'\]"),
        ((40, 8, 8), "012", r"\.stretto: has classes \['0', .*'9'\], .*a\.npz has \['0', '1', '2'\]"),
        ((40, 8, 8, 3), "0123456789", r"a\.npz: images \(C, H, W\) are \(3, 8, 8\), \(1, 8, 8\) is needed"),
    ],
)
def test_data_of_other_classes_or_shapes_are_refused(exported, tmp_path, shape, classes, message):
    data = digits(tmp_path / "a.npz", np.zeros(shape, np.uint8), classes)
    with pytest.raises(ValueError, match=message):
        export_bundle(exported(), tmp_path / "a.stretto", data, precisions=BOTH)
    assert not (tmp_path / "a.stretto").exists()


@pytest.mark.parametrize(
    ("said", "how", "message"),
    [
        ({"holdout": None}, {}, r"its provenance has holdout None, expected a float, .*give with_precisions"),
        ({"holdout": "0.2"}, {}, r"its provenance has holdout '0\.2', expected a float"),
        ({"splits": None}, {}, r"its provenance has splits None, expected a list, .*name the splits"),
        ({"weights": None}, {"weights": "float32"}, r"its provenance has weights None, .*leave weights out"),
        ({}, {"weights": "float16"}, r"weights 'float16' are asked, .* which is 'float32'; leave weights out"),
        ({}, {"precisions": ("int8",)}, r"precisions are \('int8',\); give fp32, and any others of fp32, int8, bf16"),
        ({}, {"reduce_range": True}, r"reduce_range is of int8's weights, precisions are \('fp32',\)"),
        ({}, {"splits": ("nope",)}, "digits has no split 'nope'"),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(exported, tmp_path, said, how, message):
    with pytest.raises(ValueError, match=message):
        export_bundle(saying(exported(), **said), tmp_path / "a.stretto", "digits", **how)
    assert not list(tmp_path.iterdir())


def test_what_is_not_needed_may_be_missing(exported, tmp_path):
    source = saying(exported(), splits=None, weights=None)
    found = export_bundle(source, tmp_path / "a.stretto", "digits", splits=("test",))
    assert found.manifest.points == exported().manifest.points


def test_weights_may_be_asked_as_they_are_stored(exported, tmp_path):
    found = export_bundle(exported(weights="float16"), tmp_path / "a.stretto", "digits", weights="float16")
    assert content(found) == content(exported(weights="float16"))


def test_int8_in_8_bits_is_not_taken_for_one_in_7(exported, tmp_path):
    how = {"precisions": BOTH, "reduce_range": True}
    with pytest.raises(ValueError, match="has an int8 that reduce_range didn't make, and that would be kept"):
        export_bundle(exported(precisions=BOTH), tmp_path / "a.stretto", "digits", **how)
    found = export_bundle(exported(**how), tmp_path / "a.stretto", "digits", **how)
    assert content(found) == content(exported(**how))


def test_int8_that_was_put_aside_is_made_anew(exported, tmp_path):
    source, how = exported(precisions=BOTH).only(["fp32"]), {"precisions": BOTH, "reduce_range": True}
    found = export_bundle(source, tmp_path / "a.stretto", "digits", **how)
    assert content(found) == content(exported(**how))


def test_a_bundle_without_fp32_is_refused(exported, tmp_path):
    with pytest.raises(ValueError, match="has no fp32, of which others are made, but int8"):
        export_bundle(exported(precisions=BOTH).only(["int8"]), tmp_path / "a.stretto", "digits")


@pytest.mark.parametrize(
    ("precisions", "held_out", "calibration", "message"),
    [
        (BOTH, [], iter([]), "calibration is a list_iterator, which can be gone through once, and is needed 3 times"),
        (("fp32", "bf16"), iter([]), [], "held_out is a list_iterator, .* is needed 2 times"),
    ],
)
def test_data_that_can_be_read_once_and_are_needed_again_are_refused(
    exported, tmp_path, precisions, held_out, calibration, message
):
    how = {"calibration": calibration, "precisions": precisions}
    with pytest.raises(ValueError, match=message):
        with_precisions(exported(), held_out, tmp_path / "a.stretto", **how)


def test_a_folder_that_is_not_there_and_a_machine_without_int8_are_told_first(exported, tmp_path, monkeypatch):
    monkeypatch.setattr("stretto.training.precisions.with_int8", lambda *_: pytest.fail("int8 was made"))
    how = {"calibration": [], "precisions": BOTH}
    with pytest.raises(ValueError, match="there is no folder"):
        with_precisions(exported(), [], tmp_path / "none" / "a.stretto", **how)
    monkeypatch.setattr(OnnxEngine, "runs", lambda self, precision: precision == "fp32")
    with pytest.raises(ValueError, match="int8 can't be measured: engine 'onnx' doesn't run it on this processor"):
        with_precisions(exported(), [], tmp_path / "a.stretto", **how)


def test_what_was_certified_is_not_said_of_other_precisions_and_temperatures(exported, tmp_path):
    source = exported()
    ways = (CertifiedWay(1.0, "fp32", 0.9, 0.0, 0.5, 1.0),)
    certified = Certified("probability", "disagreement", "ltt", 0.02, 0.05, 500, ways, "With probability …")
    about = {**source.manifest.provenance, "certified_on": {"data": "digits"}}
    manifest = replace(source.manifest, certified=certified, provenance=about)
    calibrated = Bundle(source.path, manifest, "", source.graphs, source.weights)
    found = export_bundle(calibrated, tmp_path / "a.stretto", "digits", precisions=BOTH)
    assert found.manifest.certified is None
    assert content(found) == content(exported(precisions=BOTH))


def test_export_spares_a_share_of_the_calibration_split_and_says_so(exported, tmp_path):
    """Of a checkpoint, and of a bundle, which goes on to spare it."""
    spared, whole = exported(precisions=BOTH, spare=0.5), exported(precisions=BOTH)
    assert spared.manifest.provenance["spared"] == 0.5 and "spared" not in whole.manifest.provenance
    assert content(export_bundle(exported(spare=0.5), tmp_path / "a.stretto", "digits", precisions=BOTH)) == content(
        spared
    )
    how = {"precisions": BOTH, "spare": 0.5}
    assert content(export_bundle(exported(), tmp_path / "b.stretto", "digits", **how)) == content(spared)
    before, after = ([record.temperature for record in bundle.manifest.points] for bundle in (whole, spared))
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_int8_that_was_made_of_the_whole_split_is_not_said_to_spare_some(exported, tmp_path):
    with pytest.raises(ValueError, match=r"has an int8 that spared 0 of the calibration split, 0\.5 is asked"):
        export_bundle(exported(precisions=BOTH), tmp_path / "a.stretto", "digits", precisions=BOTH, spare=0.5)
    assert not (tmp_path / "a.stretto").exists()
