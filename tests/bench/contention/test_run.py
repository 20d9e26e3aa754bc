"""The whole bench, on a toy bundle and as short as it gets."""

import json
import time
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("sklearn", reason="digits come with scikit-learn")

from stretto.bench.contention import rounds
from stretto.bench.contention import run as module
from stretto.bench.contention.comparisons import (
    BEST_FIXED,
    BEST_HERE,
    CLAIRVOYANT,
    HERE_BY_ALL,
    PHASE_BY_ALL,
    PHASE_ORACLE,
)
from stretto.bench.contention.contestants import (
    AGAIN,
    ALERT,
    BY_EXIT,
    FULL,
    FULL_FP32,
    ONWARD,
    OURS,
    PRIORITISED,
    PROFILE,
    SMALLEST,
    SUBMITTED,
    SWITCHED,
    Runtime,
    full_point,
    open_session,
    smallest_point,
)
from stretto.bench.contention.costs import idle_p99_ms
from stretto.bench.contention.load import ENVIRONMENTS
from stretto.bench.contention.rounds import Effort
from stretto.bench.contention.run import Asked, Files, deadlines_of, run
from stretto.bench.contention.switched import SwitchedEngine, by_width, find_controls, merge
from stretto.bench.recordings import Recording
from stretto.policies.load import UNKNOWN, Load
from stretto.policies.situation import Step
from stretto.runtime.bundle import Bundle
from stretto.runtime.engines import make_engine
from stretto.runtime.options import TIME_MODEL
from stretto.runtime.session import load

from stretto.cli import app

from ...runtime.fakes import set_profile
from ...runtime.toy import toy_bundle

DIGITS = {"shape": (1, 8, 8), "classes": 10, "precisions": ("fp32", "int8")}
HINDSIGHT = {BEST_FIXED, BEST_HERE, HERE_BY_ALL, PHASE_ORACLE, PHASE_BY_ALL, CLAIRVOYANT}
EVERYBODY = {
    OURS,
    PROFILE,
    SMALLEST,
    AGAIN,
    FULL,
    FULL_FP32,
    BY_EXIT,
    ALERT,
    SUBMITTED,
    PRIORITISED,
    ONWARD,
    SWITCHED,
} | HINDSIGHT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle and, beside it, two controls."""
    folder = tmp_path_factory.mktemp("contention")
    toy_bundle(folder / "toy.stretto", **DIGITS)
    for width in (0.5, 1.0):
        toy_bundle(folder / f"width-{width:g}.stretto", widths=(width,), depths=1, seed=int(10 * width), **DIGITS)
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> dict:
    asked = Asked(
        folder / "toy.stretto", "digits", controls=(folder,), samples=20, profile_rounds=1, overhead_rounds=3,
        deadline_rounds=3, sensors_s=0.05,
    )  # fmt: skip
    files = Files(folder / "c.json", None, folder / "deep" / "c.npz")
    made = run(asked, Runtime("alert", "slices"), Effort(rounds=1), files)
    assert json.loads(files.json.read_text()) == json.loads(json.dumps(made))
    return made


def test_everybody_takes_part_in_every_environment(report: dict) -> None:
    places = {(count["environment"], count["who"]) for count in report["counts"]}
    assert {who for _, who in places} >= EVERYBODY
    assert places == {(place.name, who) for place in ENVIRONMENTS for _, who in places}
    assert report["rounds"] == len(ENVIRONMENTS)
    assert report["controls"] == ["width-0.5.stretto", "width-1.stretto"]


def test_rows_are_finite_and_have_the_issues_goals(report: dict) -> None:
    rows = {row["figure"]: row for row in report["rows"]}
    assert not [row for row in rows.values() if not np.isfinite(row["value"])]
    overhead = "overhead per request over the bare steps"
    goals = {
        f"{overhead}, paced": "≤ 150",
        f"{overhead}, back to back, profile": "≤ 150",
        "int8 faster than fp32, full width, idle": "≥ 2.5",
    }
    assert {figure: rows[figure]["goal"] for figure in goals} == goals


@pytest.mark.parametrize(("time_model", "looks"), [("profile", False), ("scalar", False), ("slices", True)])
def test_only_a_time_model_that_looks_at_the_load_is_told_it(folder: Path, time_model: str, looks: bool) -> None:
    class Watched:
        asked = 0

        @property
        def now(self) -> Load:
            self.asked += 1
            return UNKNOWN

    bundle, sensors = Bundle.open(folder / "toy.stretto"), Watched()
    engine, runtime = make_engine("onnx", bundle), Runtime("deadline", time_model)
    with open_session(bundle, engine, set_profile(bundle, stage_ms=2.0), runtime, sensors) as session:
        session.infer(np.zeros((1, 8, 8), np.float32))
    assert (sensors.asked > 0) == looks


def test_recorded_times_are_kept_whatever_comes_of_the_report(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*anything: object) -> None:
        raise FloatingPointError("made up")

    monkeypatch.setattr(rounds, "ENVIRONMENTS", ENVIRONMENTS[:1])
    monkeypatch.setattr(module, "foresight", fails)
    asked = Asked(
        folder / "toy.stretto",
        "digits",
        samples=5,
        profile_rounds=1,
        overhead_rounds=1,
        deadline_rounds=5,
        sensors_s=0.05,
    )
    with pytest.raises(FloatingPointError, match="made up"):
        run(asked, Runtime("deadline", "profile"), Effort(rounds=1), Files(recording=tmp_path / "deep" / "c.npz"))
    assert len(Recording.load(tmp_path / "deep" / "c.npz").paths) == 2 * 4


@pytest.fixture
def commanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple]:
    """What the command line, in an empty folder, asks `run` for."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    monkeypatch.chdir(tmp_path)
    measured = []
    monkeypatch.setattr(module, "run", lambda *given: measured.append(given))

    def command() -> tuple:
        words = ["bench", "contention", "toy.stretto", "--data", "digits"]
        assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
        return measured[-1]

    return command


def test_command_line_writes_among_the_results_or_else_in_out(commanded: Callable[[], tuple], tmp_path: Path) -> None:
    name = "contention_toy"
    recording = Path("out", f"{name}.npz")
    assert commanded()[3] == Files(Path("out", f"{name}.json"), Path("out", f"{name}.png"), recording)
    for place in ("bench/results", "docs"):
        (tmp_path / place).mkdir(parents=True)
    assert commanded()[3] == Files(Path("bench/results", f"{name}.json"), Path("docs", f"{name}.png"), recording)


def test_command_line_measures_the_runtime_as_a_user_gets_it(commanded: Callable[[], tuple]) -> None:
    default = signature(load).parameters
    assert default["time_model"].default is None
    assert commanded()[1] == Runtime(default["policy"].default, TIME_MODEL)


def test_deadlines_rise_from_past_the_smallest_networks_to_past_the_largests(monkeypatch: pytest.MonkeyPatch) -> None:
    p99_ms = {SMALLEST: 1.0, FULL: 4.0, FULL_FP32: 6.0, OURS: 99.0}
    monkeypatch.setattr(module, "idle_p99_ms", lambda ask, x, rounds: ask)
    deadlines_ms = deadlines_of(p99_ms, np.zeros(1), 3)  # type: ignore[arg-type]
    assert (deadlines_ms[0], deadlines_ms[-1]) == (pytest.approx(1.5), pytest.approx(1.3 * 6))
    assert np.allclose(np.diff(np.log(deadlines_ms)), np.log(1.3 * 6 / 1.5) / 4)


def test_points_of_the_fixed_networks(folder: Path) -> None:
    bundle = Bundle.open(folder / "toy.stretto")
    profile = set_profile(bundle, stage_ms=2.0)
    assert (smallest_point(bundle, profile), full_point(bundle)) == ((0.5, 1, "fp32"), (1.0, 3, "int8"))


def test_highest_percent_of_idle_requests_is_not_what_is_usual() -> None:
    took_ms = iter([1.0] * 97 + [50.0] * 3)

    def ask(x: np.ndarray, budget_ms: float) -> object:
        time.sleep(next(took_ms) / 1e3)
        return object()

    assert idle_p99_ms(ask, np.zeros(1), 100) >= 50  # type: ignore[arg-type]


def test_every_width_and_precision_is_recorded_in_every_round(report: dict, folder: Path) -> None:
    paths = Recording.load(folder / "deep" / "c.npz").paths
    routes = {(path.round, *path.legs[0].step[2:], len(path.legs)) for path in paths}
    assert len(paths) == len(routes) == 2 * 2 * 2 * report["rounds"]


def test_switched_engine_answers_as_the_control_of_that_width(folder: Path) -> None:
    controls = by_width(find_controls([folder], folder / "toy.stretto"), Bundle.open(folder / "toy.stretto"))
    merged = merge(controls)
    assert (merged.manifest.widths, merged.manifest.depths) == ((0.5, 1.0), 1)
    x = np.random.default_rng(0).standard_normal((1, 1, 8, 8), np.float32)
    switched = SwitchedEngine(controls)
    for control in controls.values():
        step = Step(0, 1, control.manifest.widths[0])
        engine = make_engine("onnx", control)
        assert np.array_equal(switched.run(step, x)[0], engine.run(step, x)[0])
        engine.close()
    switched.close()


def test_what_is_no_control_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    supernet, control = (Bundle.open(folder / name) for name in ("toy.stretto", "width-1.stretto"))
    with pytest.raises(ValueError, match=r"toy.stretto has 3 exits and widths \(0.5, 1.0\); a control has one of each"):
        by_width([supernet], supernet)
    with pytest.raises(ValueError, match="both have width 1; leave one out"):
        by_width([control, control], supernet)
    changes = {"input": DIGITS | {"shape": (1, 8, 9)}, "classes": DIGITS | {"classes": 9}}
    for what, change in changes.items():
        other = Bundle.open(toy_bundle(tmp_path / "other.stretto", widths=(0.5,), depths=1, **change).path)
        with pytest.raises(ValueError, match=rf"{what} of other.stretto: .*, of toy.stretto: .*; give controls"):
            by_width([other], supernet)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no bundle of one exit"):
        find_controls([tmp_path / "empty"], folder / "toy.stretto")
