import json
import logging
import math
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stretto.policies.situation import OperatingPoint, Step
from stretto.runtime.bundle import Bundle
from stretto.runtime.energy import Power
from stretto.runtime.engines import ENGINES
from stretto.runtime.profile import LIBRARIES, Profile, cached_profile, device_key, profile_path
from stretto.runtime.steps import all_steps

from .fakes import set_profile
from .toy import toy_bundle

STEP, OTHER = Step(0, 1, 1.0), Step(0, 2, 1.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.open(toy_bundle(tmp_path_factory.mktemp("profile") / "toy.stretto").path)


@pytest.fixture
def kept(bundle, tmp_path, monkeypatch):
    """A profile in the cache, as `cached_profile` wants it, and its file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    profile = replace(set_profile(bundle), device=device_key())
    path = profile_path(bundle, "onnx", 1)
    profile.save(path)
    return profile, path


def profile_of(times, batches=(1,), levels=(0.5, 0.99)):
    """A profile of one step; `times`: for each batch size the quantiles by pacing."""
    entries = {(STEP, batch): by_pacing for batch, by_pacing in zip(batches, times, strict=True)}
    made = "desk", "0" * 64, "onnx", 1, "measured", "2026-01-01T00:00:00+00:00"
    return Profile(*made, levels, batches, entries, Power(7.5, "RAPL"))


def plain(*quantiles):
    return {"back_to_back": quantiles}


def test_slower_pacing_counts_at_each_level():
    profile = profile_of([{"back_to_back": (1.0, 5.0), "paced": (2.0, 4.0)}])
    assert profile.finish_ms(STEP) == (2.0, 5.0)


@pytest.mark.parametrize(
    "batch, expected",
    [(1, (1.0, 2.0)), (2, (2.0, 3.5)), (3, (3.0, 5.0)), (5, (4.0, 7.0)), (6, (4.5, 8.0)), (9, (6.0, 11.0))],
)
def test_other_batch_sizes_lie_on_the_line_of_their_neighbours(batch, expected):
    profile = profile_of([plain(1.0, 2.0), plain(3.0, 5.0), plain(4.0, 7.0)], batches=(1, 3, 5))
    assert profile.finish_ms(STEP, batch) == pytest.approx(expected)


def test_one_batch_size_is_taken_in_proportion_above_and_as_it_is_below():
    profile = profile_of([plain(4.0, 8.0)], batches=(4,))
    assert profile.finish_ms(STEP, 6) == pytest.approx((6.0, 12.0))
    assert profile.finish_ms(STEP, 2) == (4.0, 8.0)


def test_whole_way_to_a_point_is_one_step_from_the_input_at_the_level_asked_for():
    profile = profile_of([plain(4.0, 8.0)])
    assert (profile.whole_way_ms(STEP.point), profile.whole_way_ms(OperatingPoint(1.0, 1), 0.5)) == (8.0, 4.0)


def test_energy_of_a_sample_is_its_share_of_the_median_time_at_the_profiles_power():
    profile = profile_of([plain(4.0, 8.0), plain(6.0, 9.0)], batches=(1, 3))
    assert (profile.energy_mj(STEP.point), profile.energy_mj(STEP.point, 3)) == (4.0 * 7.5, 2.0 * 7.5)


def test_level_that_the_profile_lacks_is_refused_with_those_it_has():
    with pytest.raises(ValueError, match=r"no times at level 0.9; it has 0.5, 0.99"):
        profile_of([plain(4.0, 8.0)]).whole_way_ms(STEP.point, 0.9)


quantiles = st.lists(st.floats(0.01, 100), min_size=2, max_size=2).map(sorted).map(tuple)


@given(times=st.lists(quantiles, min_size=1, max_size=3), batch=st.integers(1, 100))
def test_quantiles_never_fall_with_their_level(times, batch):
    profile = profile_of([plain(*each) for each in times], batches=(1, 4, 16)[: len(times)])
    median, high = profile.finish_ms(STEP, batch)
    assert 0 < median <= high


@given(times=st.lists(quantiles, min_size=1, max_size=3), batch=st.integers(1, 40))
def test_times_of_all_steps_at_once_are_those_of_each(times, batch):
    profile = profile_of([plain(*each) for each in times], batches=(2, 8, 16)[: len(times)])
    profile.times.update({(OTHER, size): plain(1.0 * size, 3.0 * size) for size in profile.batches})
    found = profile.idle_times([STEP, OTHER, STEP])(batch)
    assert found.tolist() == [list(profile.finish_ms(step, batch)) for step in (STEP, OTHER, STEP)]


@given(times=st.lists(quantiles, min_size=3, max_size=3).map(sorted))
def test_larger_batch_never_takes_less_where_profiled_ones_do_not(times):
    profile = profile_of([plain(each[0]) for each in times], batches=(1, 4, 16), levels=(0.5,))
    taken = [profile.finish_ms(STEP, batch)[0] for batch in range(1, 40)]
    assert all(before <= after + 1e-9 for before, after in pairwise(taken))


def test_saved_profile_reads_back_equal_and_leaves_nothing_beside_it(bundle, tmp_path):
    profile = set_profile(bundle, batches=(1, 8))
    path = tmp_path / "not yet there" / "profile.json"
    profile.save(path)
    profile.save(path)
    assert Profile.load(path) == profile
    assert list(path.parent.iterdir()) == [path]


def test_failed_saving_leaves_the_old_profile(bundle, tmp_path, monkeypatch):
    path = tmp_path / "profile.json"
    set_profile(bundle).save(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        set_profile(bundle, stage_ms=1).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def damaged(change):
    """Text of a profile whose JSON `change` was done to."""
    profile = profile_of([plain(1.0, 2.0)]).to_json()
    change(profile)
    return json.dumps(profile)


DAMAGES = {
    "nothing": "",
    "no JSON": "{",
    "a list": "[]",
    "a number": "3",
    "too deep": "[" * 100_000,
    "another format": damaged(lambda profile: profile.update(format=99)),
    "no levels": damaged(lambda profile: profile.pop("levels")),
    "levels without the median": damaged(lambda profile: profile.update(levels=[0.9, 0.99])),
    "levels that fall": damaged(lambda profile: profile.update(levels=[0.99, 0.5])),
    "levels of text": damaged(lambda profile: profile.update(levels=["a", "b"])),
    "no batches": damaged(lambda profile: profile.update(batches=[])),
    "batch of nothing": damaged(lambda profile: profile.update(batches=[0])),
    "entry without depth": damaged(lambda profile: profile["entries"][0].pop("depth")),
    "entry without times": damaged(lambda profile: profile["entries"][0].pop("back_to_back")),
    "too few times": damaged(lambda profile: profile["entries"][0].update(back_to_back=[1.0])),
    "times that fall": damaged(lambda profile: profile["entries"][0].update(back_to_back=[2.0, 1.0])),
    "negative time": damaged(lambda profile: profile["entries"][0].update(back_to_back=[-1.0, 1.0])),
    "no number": damaged(lambda profile: profile["entries"][0].update(back_to_back=[math.nan, math.nan])),
    "endless time": damaged(lambda profile: profile["entries"][0].update(back_to_back=[1.0, math.inf])),
    "format without power": damaged(lambda profile: profile.update(format=2)),
    "no power": damaged(lambda profile: profile.pop("power")),
    "power of nothing": damaged(lambda profile: profile["power"].update(watts=0)),
    "power of text": damaged(lambda profile: profile["power"].update(watts="5")),
    "power from nowhere": damaged(lambda profile: profile["power"].pop("source")),
    "list as width": damaged(lambda profile: profile["entries"][0].update(width=[])),
}


@pytest.mark.parametrize("text", DAMAGES.values(), ids=DAMAGES.keys())
def test_file_that_is_no_profile_is_refused_by_name(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError, match=r"bad\.json is no profile .*; run stretto profile"):
        Profile.load(tmp_path / "bad.json")


def test_profile_without_a_step_of_the_bundle_is_refused(bundle):
    profile = set_profile(bundle, batches=(1, 4))
    profile.check(bundle)
    del profile.times[Step(2, 3, 0.5), 4]
    with pytest.raises(ValueError, match=r"no times of Step\(first=2, depth=3, width=0\.5.*at batch 4"):
        profile.check(bundle)


def test_kept_profile_is_found_again(bundle, kept, caplog):
    assert cached_profile(bundle, "onnx", 1) == kept[0]
    assert caplog.records == []


def test_profile_of_other_threads_or_engine_is_another_one(bundle, kept, caplog):
    assert cached_profile(bundle, "onnx", 2) is None
    assert cached_profile(bundle, "abacus", 1) is None
    assert caplog.records == []


@pytest.mark.parametrize("text", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_profile_in_the_cache_is_passed_over_with_a_warning_that_names_it(bundle, kept, caplog, text):
    kept[1].write_text(text)
    with caplog.at_level(logging.WARNING):
        assert cached_profile(bundle, "onnx", 1) is None
    assert f"profile {kept[1]} is ignored" in caplog.text


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"device": "elsewhere"}, "measured with"),
        ({"threads": 4}, "measured with"),
        ({"engine_version": "onnxruntime 0.1"}, "onnxruntime 0.1"),
        ({"bundle": "0" * 64}, "is of bundle 0000"),
    ],
)
def test_profile_from_elsewhere_is_passed_over_with_a_warning(bundle, kept, caplog, changes, why):
    profile, path = kept
    replace(profile, **changes).save(path)
    assert cached_profile(bundle, "onnx", 1) is None
    assert str(path) in caplog.text and why in caplog.text


def test_every_engine_is_stamped_with_the_library_that_runs_its_graphs(bundle):
    assert LIBRARIES.keys() == ENGINES.keys()
    assert replace(set_profile(bundle), engine_version="").engine_version == f"onnxruntime {version('onnxruntime')}"
    own = replace(set_profile(bundle), engine="abacus", engine_version="")
    assert own.engine_version == "abacus"


def test_profile_of_openvino_goes_by_the_version_of_openvino(bundle, kept, monkeypatch):
    monkeypatch.setattr("stretto.runtime.profile.version", {"openvino": "2030.1", "onnxruntime": "9"}.__getitem__)
    profile = replace(kept[0], engine="openvino", engine_version="")
    assert profile.engine_version == "openvino 2030.1"
    path = profile_path(bundle, "openvino", 1)
    profile.save(path)
    assert cached_profile(bundle, "openvino", 1) == profile
    monkeypatch.setattr("stretto.runtime.profile.version", {"openvino": "2030.2", "onnxruntime": "9"}.__getitem__)
    assert cached_profile(bundle, "openvino", 1) is None


def test_folder_in_the_place_of_the_file_is_passed_over_with_a_warning(bundle, kept, caplog):
    kept[1].unlink()
    kept[1].mkdir()
    assert cached_profile(bundle, "onnx", 1) is None
    assert str(kept[1]) in caplog.text


def test_file_is_named_after_all_that_it_depends_on(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = profile_path(bundle, "onnx", 2)
    assert path.parent == tmp_path / "stretto" / "profiles"
    assert path.name == f"{device_key()}-{bundle.sha256[:12]}-t2-onnx.json"


@pytest.mark.parametrize("cache", ["", "relative/path"])
def test_cache_is_in_the_home_folder_where_no_absolute_one_is_named(bundle, tmp_path, monkeypatch, cache):
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert profile_path(bundle, "onnx", 1).parent == tmp_path / ".cache" / "stretto" / "profiles"


def test_device_key_is_fit_for_a_file_name():
    assert device_key() == device_key()
    assert set(device_key()) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_every_step_of_a_bundle_is_named_once(bundle):
    steps = all_steps(bundle.manifest)
    widths, depths = len(bundle.manifest.widths), bundle.manifest.depths
    assert len(set(steps)) == len(steps) == widths * depths * (depths + 1) // 2
    assert all(step.first != 1 for step in steps)


def test_answers_are_kept_beside_the_steps_and_follow_the_number_of_samples(bundle, tmp_path):
    profile = replace(set_profile(bundle, batches=(1, 4)), answers={1: (0.1, 0.2, 0.3), 4: (0.4, 0.5, 0.9)})
    profile.save(tmp_path / "profile.json")
    again = Profile.load(tmp_path / "profile.json")
    assert again == profile
    assert [again.answer_ms(batch) for batch in (1, 2, 4, 6)] == pytest.approx([0.2, 0.3, 0.5, 0.7])
    assert set_profile(bundle).answer_ms(3) == 0.0
