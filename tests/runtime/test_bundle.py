import hashlib
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stretto.policies.situation import Step
from stretto.runtime.bundle import Bundle, write_bundle
from stretto.runtime.errors import BundleError

from .forged import contents, folder, pack, toy
from .toy import Toy, toy_bundle

MEMBERS = [
    "manifest.json",
    "graphs/stem_fp32.onnx",
    *(f"graphs/{part}_{width}_fp32.onnx" for width in (0.5, 1.0) for part in ("stage1", "exit1", "stage2", "exit2")),
    *(f"graphs/exit3_{width}_fp32.onnx" for width in (0.5, 1.0)),
    "weights.safetensors",
]
EXIT1, WEIGHTS = "graphs/exit1_0.5_fp32.onnx", "weights.safetensors"


@cache
def small() -> Toy:
    return toy_bundle(folder() / "small.stretto", widths=(1.0,), depths=2, channels=2, shape=(1, 3, 3))


def same_behaviour(one: Bundle, other: Bundle, steps: list[Step]) -> bool:
    models = [(one.model(step), other.model(step)) for step in steps]
    return (one.manifest, one.sha256) == (other.manifest, other.sha256) and all(
        (a.model, a.input, a.outputs, a.initializers.keys()) == (b.model, b.input, b.outputs, b.initializers.keys())
        and all(np.array_equal(a.initializers[name], b.initializers[name]) for name in a.initializers)
        for a, b in models
    )


def test_opened_bundle_says_what_was_written():
    bundle = Bundle.open(toy().path)
    assert replace(bundle.manifest, members={}) == toy().manifest
    assert bundle.sha256 == hashlib.sha256(contents(toy().path)["manifest.json"]).hexdigest()


def test_same_parts_give_the_same_file(tmp_path):
    write_bundle(tmp_path / "again.stretto", toy().manifest, toy().graphs, toy().weights)
    assert (tmp_path / "again.stretto").read_bytes() == toy().path.read_bytes()


def test_manifest_is_first_and_weights_are_stored_as_they_are():
    with zipfile.ZipFile(toy().path) as file:
        assert file.namelist()[0] == "manifest.json"
        assert file.getinfo(WEIGHTS).compress_type == zipfile.ZIP_STORED
        assert set(file.namelist()) == set(MEMBERS)


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_failed_write_keeps_the_old_bundle_and_leaves_nothing_else(tmp_path, monkeypatch, broken):
    path = tmp_path / "toy.stretto"
    write_bundle(path, toy().manifest, toy().graphs, toy().weights)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="disk full"):
        write_bundle(path, replace(toy().manifest, network="other"), toy().graphs, toy().weights)
    assert os.listdir(tmp_path) == ["toy.stretto"]
    assert path.read_bytes() == before


def test_parts_that_do_not_fit_are_not_written(tmp_path):
    graphs = {name: graph for name, graph in toy().graphs.items() if name != EXIT1}
    with pytest.raises(BundleError, match=f"new.stretto: member '{EXIT1}': it isn't there"):
        write_bundle(tmp_path / "new.stretto", toy().manifest, graphs, toy().weights)
    assert os.listdir(tmp_path) == []


def test_provenance_that_is_not_json_is_not_written(tmp_path):
    manifest = replace(toy().manifest, provenance={"net": object()})
    with pytest.raises(BundleError, match="not JSON serializable; nothing was written"):
        write_bundle(tmp_path / "new.stretto", manifest, toy().graphs, toy().weights)


@pytest.mark.parametrize("member", MEMBERS)
def test_flipped_byte_in_bundle_names_the_member(tmp_path, member):
    raw = bytearray(toy().path.read_bytes())
    with zipfile.ZipFile(toy().path) as file:
        info = file.getinfo(member)
    raw[info.header_offset + 30 + len(member) + info.compress_size // 2] ^= 0x10
    (tmp_path / "flipped.stretto").write_bytes(raw)
    with pytest.raises(BundleError, match=f"flipped.stretto: member '{member}': "):
        Bundle.open(tmp_path / "flipped.stretto")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_bundle_is_refused(tmp_path, share):
    raw = toy().path.read_bytes()
    (tmp_path / "short.stretto").write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(BundleError, match=r"short.stretto: .*; get or export the bundle again"):
        Bundle.open(tmp_path / "short.stretto")


def test_missing_file_is_a_bundle_error(tmp_path):
    with pytest.raises(BundleError, match=r"gone.stretto: .*No such file"):
        Bundle.open(tmp_path / "gone.stretto")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_random_flips_never_give_other_contents(data):
    raw = bytearray(small().path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    flipped = small().path.with_name("flipped.stretto")
    flipped.write_bytes(raw)
    try:
        bundle = Bundle.open(flipped)
    except BundleError as error:
        assert str(flipped) in str(error)
    else:
        assert same_behaviour(bundle, Bundle.open(small().path), small().steps())


def test_manifest_edited_without_its_hash_is_refused(tmp_path):
    found = contents(toy().path)
    manifest = found.pop("manifest.json")
    comment = b"sha256:" + hashlib.sha256(manifest).hexdigest().encode()
    edited = manifest.replace(b'"network":"toy"', b'"network":"joy"')
    with pytest.raises(BundleError, match=r"member 'manifest.json': it has sha256:\w+, the file's comment says"):
        Bundle.open(pack(tmp_path / "edited.stretto", edited, found, comment))


def open_packed(path: Path, change: Callable[[zipfile.ZipFile], object]) -> None:
    with zipfile.ZipFile(path, "w") as file:
        change(file)
    Bundle.open(path)


def test_member_that_is_there_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"), pytest.raises(BundleError, match="'a': it is there twice"):
        open_packed(tmp_path / "x.stretto", lambda file: [file.writestr("a", b"1"), file.writestr("a", b"2")])


@pytest.mark.parametrize("name", ["../evil", "/evil", "a//b", "a/./b", "C:evil", "a\\b", "folder/"])
def test_member_whose_path_escapes_is_refused(tmp_path, name):
    with pytest.raises(BundleError, match="its name isn't a plain relative path"):
        open_packed(tmp_path / "x.stretto", lambda file: file.writestr(zipfile.ZipInfo(name), b""))


def test_deflation_bomb_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("stretto.runtime.archive.INFLATED_BYTES_MAX", 1 << 20)
    bomb = zipfile.ZipInfo("manifest.json")
    bomb.compress_type = zipfile.ZIP_DEFLATED
    with pytest.raises(BundleError, match=r"its members say they have \d+ bytes when inflated"):
        open_packed(tmp_path / "x.stretto", lambda file: file.writestr(bomb, bytes(2 << 20)))


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_is_refused(tmp_path, kind):
    with pytest.raises(BundleError, match=r"member 'manifest.json': compression \d+, expected stored"):
        open_packed(tmp_path / "x.stretto", lambda file: file.writestr("manifest.json", b"{}", kind))


def test_encrypted_member_is_refused(tmp_path):
    raw = bytearray(toy().path.read_bytes())
    directory = raw.index(b"PK\x01\x02")
    raw[directory + 8] |= 1
    (tmp_path / "x.stretto").write_bytes(raw)
    with pytest.raises(BundleError, match=r"member 'manifest.json': it is encrypted"):
        Bundle.open(tmp_path / "x.stretto")


def test_manifest_that_is_not_first_is_refused(tmp_path):
    with pytest.raises(BundleError, match="it must be the first, which is 'a'"):
        open_packed(tmp_path / "x.stretto", lambda file: [file.writestr(name, b"") for name in ("a", "manifest.json")])


def test_unlisted_member_is_refused(tmp_path):
    found = contents(toy().path)
    path = pack(tmp_path / "x.stretto", found.pop("manifest.json"), {**found, "extra.txt": b"hello"})
    with pytest.raises(BundleError, match=r"member 'extra.txt': the manifest doesn't list it"):
        Bundle.open(path)


def test_missing_member_is_named(tmp_path):
    found = contents(toy().path)
    manifest = found.pop("manifest.json")
    found.pop(EXIT1)
    with pytest.raises(BundleError, match=f"member '{EXIT1}': it isn't there"):
        Bundle.open(pack(tmp_path / "x.stretto", manifest, found))


def test_point_is_the_record_asked_for():
    assert Bundle.open(toy().path).point(0.5, 2, "fp32") in toy().manifest.points


@pytest.mark.parametrize(("width", "depth", "precision"), [(0.6, 1, "fp32"), (0.5, 4, "fp32"), (0.5, 1, "int8")])
def test_wrong_point_is_told_what_there_is(width, depth, precision):
    message = rf"no point of width {width}, depth {depth}, precision '{precision}' .*\(0.5, 1.0\), depths 1 to 3"
    bundle = Bundle.open(toy().path)
    with pytest.raises(ValueError, match=message):
        bundle.point(width, depth, precision)
    with pytest.raises(ValueError, match=message):
        bundle.model(Step(0, depth, width, precision))


@pytest.mark.parametrize("first", [-1, 3])
def test_wrong_start_of_a_step_is_told_what_is_allowed(first):
    with pytest.raises(ValueError, match=f"step starts at stage {first}; to end at exit 2, start at 0 to 2"):
        Bundle.open(toy().path).model(Step(first, 2, 0.5))


def test_step_binds_the_weights_of_its_own_stages_only():
    model = Bundle.open(toy().path).model(Step(2, 2, 0.5))
    assert set(model.initializers) == {"stage2.w", "stage2.b", "exit2.w", "exit2.b"}
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in model.initializers.values())


def test_step_before_the_end_gives_logits_then_features():
    bundle = Bundle.open(toy().path)
    assert bundle.model(Step(0, 2, 1.0)).outputs == ("logits2", "features2")
    assert bundle.model(Step(0, 3, 1.0)).outputs == ("logits3",)


def test_a_precision_run_in_another_ones_graphs_has_those(tmp_path):
    toy = toy_bundle(tmp_path / "toy.stretto", precisions=("fp32", "bf16"), compiled=("fp32",))
    bundle = Bundle.open(toy.path)
    assert bundle.model(Step(0, 3, 0.5, "bf16")).model == bundle.model(Step(0, 3, 0.5, "fp32")).model
    assert bundle.point(0.5, 3, "bf16").precision == "bf16"
