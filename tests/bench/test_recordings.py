from contextlib import closing

import numpy as np
import pytest
from stretto.bench.recordings import Leg, RecordedPath, Recorder, Recording
from stretto.policies.load import Load
from stretto.policies.situation import Step
from stretto.runtime.bundle import Bundle
from stretto.runtime.engines import make_engine
from stretto.runtime.steps import legs, ways

from ..runtime.toy import toy_bundle

BUSY = Load(others=3.0, cores=2.0, machine_cores=4.0)


def made_up(phase="idle", round=0, at_s=0.0, width=1.0, times_ms=((1.0, 1.0), (2.0, 6.0)), load=BUSY):
    """A path of as many steps as there are pairs of processor and wall time."""
    ran_ms = np.cumsum([0.0, *(cpu_ms or 0.0 for cpu_ms, _ in times_ms)]).tolist()
    taken = [
        Leg(Step(at + 1 if at else 0, at + 1, width), ran_ms[at], cpu_ms, wall_ms, load)
        for at, (cpu_ms, wall_ms) in enumerate(times_ms)
    ]
    return RecordedPath(round, phase, at_s, tuple(taken))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.open(toy_bundle(tmp_path_factory.mktemp("toy") / "toy.stretto").path)


@pytest.fixture(scope="module")
def recording(bundle):
    with closing(make_engine("onnx", bundle)) as engine:
        x = np.random.default_rng(0).standard_normal(bundle.manifest.input.shape, np.float32)
        recorder = Recorder(engine, bundle, x, lambda: BUSY)
        phases = ("idle", "idle", "busy")
        return Recording(tuple(recorder.path(route, x, phase) for phase in phases for route in recorder.routes))


def test_every_way_goes_to_its_final_exit_exit_by_exit_and_in_one_graph(bundle, recording):
    expected = []
    for way in ways(bundle.manifest):
        expected += [legs(bundle.manifest, *way), (Step(0, bundle.manifest.depths, *way),)]
    assert [tuple(leg.step for leg in path.legs) for path in recording.paths] == expected * 3


def test_paths_are_of_the_phase_and_time_that_they_ran_in(recording):
    count = len(recording.paths) // 3
    assert [path.phase for path in recording.paths] == ["idle"] * 2 * count + ["busy"] * count
    at_s = [path.at_s for path in recording.paths]
    assert at_s == sorted(at_s) and at_s[0] > 0


def test_times_of_a_path_go_on_from_leg_to_leg(recording):
    for path in recording.paths:
        used_ms = [leg.ran_ms + leg.cpu_ms for leg in path.legs]
        assert path.legs[0].ran_ms == 0
        assert [leg.ran_ms for leg in path.legs[1:]] == pytest.approx(used_ms[:-1])
        assert all(leg.wall_ms > 0 and leg.load == BUSY for leg in path.legs)


def test_saved_recording_is_loaded_as_it_was(recording, tmp_path):
    unknown = made_up("a phase", 3, 7.5, times_ms=((None, 2.5),), load=Load())
    kept = Recording((*recording.paths, unknown))
    kept.save(tmp_path / "kept.npz")
    assert Recording.load(tmp_path / "kept.npz") == kept


def test_recording_of_another_version_is_refused(tmp_path):
    np.savez(tmp_path / "old.npz", format=0)
    with pytest.raises(ValueError, match=r"old\.npz: format is 0, this version of stretto reads 2"):
        Recording.load(tmp_path / "old.npz")


def test_whole_path_is_one_step_from_the_input_to_the_last_exit():
    whole = made_up(times_ms=((1.0, 1.5), (2.0, 6.0), (0.5, 0.5))).whole
    assert whole == Leg(Step(0, 3, 1.0), 0.0, 3.5, 8.0, BUSY)
    assert made_up(times_ms=((1.0, 1.5), (None, 6.0))).whole.cpu_ms is None
