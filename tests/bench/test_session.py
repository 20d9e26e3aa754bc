import json
import subprocess
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from stretto.bench import bundles, fresh
from stretto.bench.bundles import Files, Subject, build, full_graph_session
from stretto.bench.pools import SETTINGS, SetEngine
from stretto.bench.session import QUICK, run
from stretto.policies.situation import Step
from stretto.runtime.bundle import Bundle

from ..runtime.toy import toy_bundle

FIGURES = (
    "import stretto", "import stretto and its runtime", "imports that bring torch", "core requirements on disk",
    "bundle over ONNX file with the same heads", "load, profile warm-up", "load, profile measured",
    "memory, resident", "memory, resident past the imports", "memory past the imports, no arenas",
    "decision, fixed, at the start, 6 points", "decision, deadline, after an exit",
    "infer over raw, 1 thread", "infer over raw, 2 threads", "every exit in turn over raw, 1 thread",
    "chain of steps, 2 threads, as the engine sets it, width 1",
    "chain of steps, 2 threads, spinning by default, width 0.5",
    "deadlines met, back to back", "deadlines met, paced",
)  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The toy network's bundle, and its widest graph as one ONNX file."""
    folder = tmp_path_factory.mktemp("bench")
    files = Files("toy", folder / "toy.stretto", folder / "toy.onnx", folder / "toy.heads.onnx")
    bundle = Bundle.open(toy_bundle(files.bundle).path)
    model = bundle.model(Step(0, bundle.manifest.depths, 1.0))
    proto = onnx.load_from_string(model.model)
    for tensor in proto.graph.initializer:
        if tensor.name in model.initializers:
            tensor.CopyFrom(numpy_helper.from_array(model.initializers[tensor.name], tensor.name))
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(proto, files.plain)
    onnx.save(proto, files.with_heads)
    return files


@pytest.fixture(scope="module")
def report(toy, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "session.json"
    returned = run(path, effort=QUICK, networks=[toy])
    assert json.loads(path.read_text()) == json.loads(json.dumps(returned))
    return returned


def test_report_has_every_figure_with_its_goal_and_a_finite_value(report):
    assert report["bench"] == "session" and report["machine"]["cores"] >= 1
    rows = {row["figure"]: row for row in report["rows"]}
    assert set(FIGURES) <= set(rows)
    assert all(np.isfinite(row["value"]) for row in rows.values())
    assert all(set(row) >= {"network", "unit", "goal", "met", "spread", "control"} for row in rows.values())
    assert {figure: rows[figure]["goal"] for figure in FIGURES if rows[figure]["goal"]} == {
        "import stretto": "≤ 0.3", "imports that bring torch": "≤ 0", "core requirements on disk": "≤ 200",
        "bundle over ONNX file with the same heads": "≤ 1.1", "load, profile warm-up": "≤ 1",
        "load, profile measured": "≤ 1", "memory, resident": "≤ 2.5", "memory, resident past the imports": "≤ 2.5",
        "decision, fixed, at the start, 6 points": "≤ 20", "decision, deadline, after an exit": "≤ 20",
        "infer over raw, 1 thread": "≤ 1.05", "infer over raw, 2 threads": "≤ 1.05",
        "deadlines met, back to back": "≥ 0.99", "deadlines met, paced": "≥ 0.99",
    }  # fmt: skip


def test_ratio_comes_with_what_chance_alone_does(report):
    row = next(row for row in report["rows"] if row["figure"] == "infer over raw, 2 threads")
    assert row["control"]["raw over raw"]["count"] == row["spread"]["count"] == QUICK.rounds


def test_every_budget_of_the_sweep_is_asked_as_often_as_said(report):
    row = next(row for row in report["rows"] if row["figure"] == "deadlines met, paced")
    budgets = row["control"]["budgets"]
    assert [budget["requests"] for budget in budgets] == [QUICK.requests] * len(budgets)
    assert all(0 <= budget["met"] <= 1 for budget in budgets)
    assert row["value"] == pytest.approx(np.mean([budget["met"] for budget in budgets]))


def test_neither_stretto_nor_its_runtime_imports_torch():
    told = fresh.imported()
    assert told["torch"] is told["torch_with_runtime"] is False


def test_a_fresh_process_that_fails_says_what_it_said(tmp_path):
    with pytest.raises(RuntimeError, match=r"BundleError: .*missing\.stretto"):
        fresh.loaded(tmp_path / "missing.stretto", tmp_path)


def test_core_counts_what_its_requirements_require_but_no_extras():
    sizes = fresh.core_bytes()
    assert {"numpy", "onnxruntime", "flatbuffers"} <= set(sizes)
    assert not {"torch", "pytest", "fastapi"} & set(sizes)


def test_a_requirement_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(fresh.importlib.metadata, "requires", lambda package: ["no-such-package>=1"])
    with pytest.raises(RuntimeError, match="no-such-package isn't installed"):
        fresh.core_bytes()


@pytest.mark.parametrize("setting", SETTINGS)
def test_thread_settings_change_times_and_no_answer(toy, setting):
    bundle = Bundle.open(toy.bundle)
    step = Step(0, bundle.manifest.depths, 1.0)
    x = np.random.default_rng(0).standard_normal((1, *bundle.manifest.input.shape), np.float32)
    engine = SetEngine(bundle, 2, SETTINGS[setting])
    (expected,) = full_graph_session(toy.plain, 1).run(None, {"input": x})
    assert engine.run(step, x)[0] == pytest.approx(expected, abs=1e-5)
    engine.close()


def test_built_network_answers_as_its_plain_graph_and_accuracy_rises_with_macs(tmp_path):
    files = build(Subject("lenet300", "lenet300", (1, 8, 8), 10), tmp_path, widths=(0.5, 1.0), exits=2)
    bundle = Bundle.open(files.bundle)
    x = np.random.default_rng(0).standard_normal((1, 1, 8, 8), np.float32)
    plain = full_graph_session(files.plain, 1)
    (expected,) = plain.run(None, {plain.get_inputs()[0].name: x})
    engine = SetEngine(bundle, 1, {})
    assert engine.run(Step(0, 2, 1.0), x)[0] == pytest.approx(expected, abs=1e-4)
    engine.close()
    assert len(full_graph_session(files.with_heads, 1).get_outputs()) == 2
    points = sorted(bundle.manifest.points, key=lambda point: point.macs)
    assert points == sorted(points, key=lambda point: point.accuracy)
    assert len({point.accuracy for point in points}) == 4


def test_what_lies_in_the_folder_hides_nothing_installed_from_the_process_that_builds(tmp_path, monkeypatch):
    (tmp_path / "stretto").mkdir()
    (tmp_path / "stretto" / "__init__.py").write_text("raise ImportError('not the one installed')")
    commands, run_really = [], subprocess.run

    def run_nothing(command, **options):
        commands.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(bundles.subprocess, "run", run_nothing)
    bundles.build_apart(tmp_path / "out")
    (command,) = commands
    importing = [*command[: command.index("-m")], "-c", "import stretto"]
    assert run_really(importing, cwd=tmp_path, timeout=60, check=False).returncode == 0
