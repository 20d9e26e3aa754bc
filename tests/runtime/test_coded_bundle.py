"""A coded bundle is the same bundle in fewer bytes, however it is opened and written again, and as well guarded."""

import hashlib
import json
import os
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stretto.policies.fixed import Fixed
from stretto.runtime.bundle import Bundle, write_bundle
from stretto.runtime.coded import encode
from stretto.runtime.errors import BundleError
from stretto.runtime.session import load

from .fakes import set_profile
from .forged import contents, folder, pack, toy
from .toy import Toy, toy_bundle

CODED, JOINED = "weights.coded", "graphs.joined"
SCALE = np.arange(1, 9, dtype=np.float32) / 16


@cache
def signed() -> Toy:
    """A toy whose stem has weights of two values a channel, and a stage weights of few values, most of them zero."""
    plain, rng = toy(), np.random.default_rng(0)
    weights = dict(plain.weights)
    weights["stem.weight"] = rng.choice([-1, 1], (8, 3, 3, 3)).astype(np.float32) * SCALE[:, None, None, None]
    few = rng.standard_normal(16).astype(np.float32)[rng.integers(16, size=(8, 8, 3, 3))]
    weights["stage1.weight"] = np.where(rng.random(few.shape) < 0.3, few, 0).astype(np.float32)
    path = folder() / "signed.stretto"
    write_bundle(path, plain.manifest, plain.graphs, weights)
    return replace(plain, path=path, weights=weights)


@cache
def coded() -> Path:
    path = folder() / "coded.stretto"
    write_bundle(path, signed().manifest, signed().graphs, signed().weights, {"stem.weight": SCALE})
    return path


def test_coded_bundle_holds_the_same_graphs_and_weights_in_fewer_bytes():
    plain, bundle = Bundle.open(signed().path), Bundle.open(coded())
    assert replace(bundle.manifest, members={}) == replace(plain.manifest, members={})
    assert bundle.graphs == plain.graphs and list(bundle.graphs) == list(plain.graphs)
    assert bundle.weights.keys() == plain.weights.keys()
    for name, array in plain.weights.items():
        found = bundle.weights[name]
        assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes()), name
    assert coded().stat().st_size < signed().path.stat().st_size - 5000


def test_coding_is_the_scales_and_none_where_nothing_is_coded():
    assert Bundle.open(signed().path).coding is None
    coding = Bundle.open(coded()).coding
    assert coding is not None and list(coding) == ["stem.weight"]
    assert np.array_equal(coding["stem.weight"], SCALE)
    assert Bundle.open(coded()).only(["fp32"]).coding is not None


def test_members_are_three_and_the_weights_are_not_deflated_again():
    with zipfile.ZipFile(coded()) as file:
        assert file.namelist() == ["manifest.json", JOINED, CODED]
        assert file.getinfo(CODED).compress_type == zipfile.ZIP_STORED


def test_written_again_it_is_the_same_file(tmp_path):
    bundle = Bundle.open(coded())
    write_bundle(tmp_path / "again.stretto", bundle.manifest, bundle.graphs, bundle.weights, bundle.coding)
    assert (tmp_path / "again.stretto").read_bytes() == coded().read_bytes()


def test_uncoded_again_it_is_the_file_from_before(tmp_path):
    bundle = Bundle.open(coded())
    write_bundle(tmp_path / "plain.stretto", bundle.manifest, bundle.graphs, bundle.weights)
    assert (tmp_path / "plain.stretto").read_bytes() == signed().path.read_bytes()


def test_scales_of_weights_that_are_left_out_are_passed_over(tmp_path):
    coding = {"stem.weight": SCALE, "gone.weight": SCALE}
    write_bundle(tmp_path / "x.stretto", signed().manifest, signed().graphs, signed().weights, coding)
    assert (tmp_path / "x.stretto").read_bytes() == coded().read_bytes()


def test_sessions_answer_the_same_before_and_after_coding():
    x = signed().samples(3)
    for point in [record.point for record in signed().manifest.points]:
        answers = []
        for path in (signed().path, coded()):
            with load(path, policy=Fixed(point), profile=set_profile(Bundle.open(path))) as session:
                answers.append(session.infer(x))
        for one, other in zip(*answers, strict=True):
            assert (one.label, one.point) == (other.label, other.point)
            assert np.array_equal(one.scores, other.scores)


@pytest.mark.parametrize("member", ["manifest.json", JOINED, CODED])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_flipped_byte_names_the_member(tmp_path, member, share):
    raw = bytearray(coded().read_bytes())
    with zipfile.ZipFile(coded()) as file:
        info = file.getinfo(member)
    raw[info.header_offset + 30 + len(member) + int(info.compress_size * share)] ^= 0x10
    (tmp_path / "flipped.stretto").write_bytes(raw)
    with pytest.raises(BundleError, match=f"flipped.stretto: member '{member}': "):
        Bundle.open(tmp_path / "flipped.stretto")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_random_flips_and_cuts_never_give_other_contents(data):
    raw = bytearray(coded().read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    flipped = coded().with_name("flipped_coded.stretto")
    flipped.write_bytes(raw[: data.draw(st.none() | st.integers(0, len(raw)))])
    try:
        bundle = Bundle.open(flipped)
    except BundleError as error:
        assert str(flipped) in str(error)
    else:
        whole = Bundle.open(coded())
        assert (bundle.manifest, bundle.graphs) == (whole.manifest, whole.graphs)
        assert all(np.array_equal(bundle.weights[name], array) for name, array in whole.weights.items())


def forge(path: Path, gone: tuple[str, ...] = (), **members: bytes) -> Path:
    """The coded toy with members replaced or gone, and every hash right again."""
    found = contents(coded())
    manifest = json.loads(found.pop("manifest.json"))
    found = {name: content for name, content in {**found, **members}.items() if name not in gone}
    manifest["members"] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for name, content in found.items()
    }
    return pack(path, json.dumps(manifest).encode(), found)


@pytest.mark.parametrize(
    ("gone", "members", "message"),
    [
        ((CODED,), {}, "member 'manifest.json': it lists neither of 'weights.safetensors' and 'weights.coded'"),
        ((), {"weights.safetensors": b""}, "member 'manifest.json': it lists both of"),
        ((JOINED,), {}, r"member 'manifest.json': it lists \['weights.coded'\], expected"),
        ((), {"graphs/x.onnx": b""}, r"it lists \['graphs.joined', 'graphs/x.onnx', 'weights.coded'\], expected"),
        ((), {CODED: b"noise"}, "member 'weights.coded': it has 5 bytes and begins with b'nois'"),
        ((), {CODED: encode({})}, "names tensor 'stem.weight', which the weights don't have"),
        ((), {JOINED: b"[]\n"}, "member 'graphs/.*': it isn't there"),
        ((), {JOINED: b"noise"}, "member 'graphs.joined': Expecting value"),
        ((), {JOINED: b'[["a",1],["a",1]]\nxy'}, "member 'graphs.joined': its first line names a graph twice"),
        ((), {JOINED: b'[["a",-1]]\n'}, "member 'graphs.joined': its first line names .*, or one of less than"),
        ((), {JOINED: b'[["a",2],["b",9]]\nxyz'}, "it has 3 bytes of graphs, its first line says 11"),
        ((), {JOINED: b'[["a"]]\n'}, r"member 'graphs.joined': first line\[0\] is"),
        ((), {JOINED: b"[" * 100_000}, "member 'graphs.joined': its first line is nested too deeply"),
    ],
)
def test_members_that_do_not_belong_together_are_refused(tmp_path, gone, members, message):
    with pytest.raises(BundleError, match=message):
        Bundle.open(forge(tmp_path / "x.stretto", gone, **members))


def test_deflated_weights_are_refused(tmp_path):
    found = contents(coded())
    with zipfile.ZipFile(tmp_path / "x.stretto", "w") as file:
        for name, content in found.items():
            file.writestr(name, content, zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleError, match=r"member 'weights.coded': compression 8, expected stored"):
        Bundle.open(tmp_path / "x.stretto")


@pytest.mark.parametrize(
    ("coding", "message"),
    [
        ({"stage1.weight": SCALE}, "member 'weights.coded': array 'stage1.weight': row 0 has"),
        ({"stem.weight": SCALE[:3]}, r"array 'stem.weight': is float32 \(8, 3, 3, 3\) with a scale \(3,\)"),
    ],
)
def test_weights_that_are_not_what_their_scale_says_are_not_written(tmp_path, coding, message):
    with pytest.raises(BundleError, match=message):
        write_bundle(tmp_path / "x.stretto", signed().manifest, signed().graphs, signed().weights, coding)
    assert os.listdir(tmp_path) == []


def test_graphs_of_a_small_coded_network_take_little(tmp_path):
    small = toy_bundle(tmp_path / "toy.stretto", widths=(0.25, 0.5, 0.75, 1.0), depths=4)
    write_bundle(tmp_path / "coded.stretto", small.manifest, small.graphs, small.weights, {})
    rest = {path: path.stat().st_size - weights_bytes(path) for path in tmp_path.iterdir()}
    assert rest[tmp_path / "coded.stretto"] < rest[small.path] - 5000


def weights_bytes(path: Path) -> int:
    with zipfile.ZipFile(path) as file:
        return sum(info.compress_size for info in file.filelist if info.filename.startswith("weights."))
