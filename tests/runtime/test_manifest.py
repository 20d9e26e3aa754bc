import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from stretto.policies.situation import OperatingPoint
from stretto.runtime.bundle import Bundle
from stretto.runtime.errors import BundleError, InputError
from stretto.runtime.manifest import Binding, Certified, CertifiedWay, InputSpec, Manifest, PointRecord

from .forged import pack, toy


def test_manifest_survives_json():
    assert Manifest.from_json(toy().manifest.to_json()) == toy().manifest


WAYS = (CertifiedWay(1.0, "fp32", 0.9, 0.004, 0.7, 0.996), CertifiedWay(0.5, "fp32", None, 0.01, 0.0, 0.99))
CERTIFIED = Certified("probability", "disagreement", "ltt", 0.02, 0.05, 500, WAYS, "With probability …")


def test_certified_thresholds_survive_json():
    manifest = replace(toy().manifest, certified=CERTIFIED)
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_manifest_without_certified_thresholds_has_no_key_for_them():
    """So that bundles that were written before there were any stay readable, and the same byte for byte."""
    raw = toy().manifest.to_json()
    assert b"certified" not in raw
    assert Manifest.from_json(raw).certified is None


def test_other_keys_may_not_be_missing():
    value = json.loads(toy().manifest.to_json())
    del value["format"]
    with pytest.raises(ValueError, match="missing key 'format' in the whole"):
        Manifest.from_json(json.dumps(value).encode())


def test_point_of_a_record_is_where_it_answers():
    assert PointRecord(0.5, 2, "int8", 0.9, 100, 10).point == OperatingPoint(0.5, 2, "int8")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "Expecting value"),
        (b"[]", r"the whole is \[\], expected Manifest"),
        (b'{"format": NaN}', "NaN isn't JSON"),
        (b'{"format": 1, "format": 1}', "key 'format' twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff", "decode"),
    ],
)
def test_what_is_not_a_manifest_is_refused(tmp_path, raw, message):
    with pytest.raises(BundleError, match=f"member 'manifest.json': .*{message}"):
        Bundle.open(pack(tmp_path / "x.stretto", raw, {}))


def test_binding_cuts_scales_then_transposes():
    weights = {"w": np.arange(24, dtype=np.float16).reshape(4, 6), "s": np.float32([2, 3, 5])}
    binding = Binding("w", (((0, 1), (2, 4)), ((1, 3),)), perm=(1, 0), scale="s")
    assert_array_equal(binding.array(weights), [[2, 13 * 3, 19 * 5], [4, 14 * 3, 20 * 5]])
    assert binding.array(weights).dtype == np.float32
    assert binding.array(weights).flags.c_contiguous


def test_binding_of_int8_stays_int8_and_takes_signs():
    weights = {"w": np.arange(-6, 6, dtype=np.int8).reshape(3, 4), "s": np.int8([1, -1])}
    found = Binding("w", (((0, 1), (2, 3)), ((1, 4),)), perm=(1, 0), scale="s").array(weights)
    assert_array_equal(found, [[-5, -3], [-4, -4], [-3, -5]])
    assert found.dtype == np.int8


def test_binding_of_a_scalar_stays_a_scalar():
    assert Binding("w", ()).array({"w": np.array(3, np.float32)}).shape == ()


def test_binding_of_all_of_a_tensor_shares_its_memory():
    weight = np.ones((2, 3), np.float32)
    assert np.shares_memory(Binding("w", (None, None)).array({"w": weight}), weight)


def test_prepare_scales_then_normalises_every_channel():
    spec = InputSpec((2, 1, 1), scale=0.5, mean=(1.0, 2.0), std=(2.0, 4.0))
    pixels = np.array([[[10]], [[20]]], np.uint8)
    assert_array_equal(spec.prepare(pixels), np.float32([[[2]], [[2]]]))
    assert_array_equal(spec.prepare(pixels[None]), spec.prepare(pixels)[None])
    assert spec.prepare(pixels).dtype == np.float32


def test_prepare_without_mean_only_scales():
    assert_array_equal(InputSpec((3,), scale=0.5).prepare(np.array([2, 4, 6], np.uint8)), np.float32([1, 2, 3]))


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 4, 4), np.float32), np.zeros((4, 4), np.uint8), np.zeros((1, 1, 2, 4, 4), np.uint8)]
)
def test_prepare_refuses_other_pixels(pixels):
    with pytest.raises(InputError, match=r"pixels are .*; give uint8 \(2, 4, 4\)"):
        InputSpec((2, 4, 4)).prepare(pixels)


def test_certificate_survives_json_and_is_no_key_where_there_is_none():
    way = CertifiedWay(1.0, "fp32", None, 0.0, 0.0, 1.0)
    found = Certified("probability", "disagreement", "ltt", 0.01, 0.05, 500, (way,), "It is promised.")
    plain, certified = toy().manifest, replace(toy().manifest, certified=found)
    assert b"certified" not in plain.to_json()
    assert Manifest.from_json(certified.to_json()) == certified
