"""The contract of every engine, and what is particular to some."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from threading import Event, Thread

import numpy as np
import pytest
from numpy.testing import assert_allclose
from stretto.policies.situation import Step
from stretto.runtime.bundle import Bundle
from stretto.runtime.engines import ENGINES, make_engine, runnable
from stretto.runtime.engines.cut import Cut, CutOff
from stretto.runtime.engines.processor import has_vnni
from stretto.runtime.errors import BundleError

from .toy import Toy, toy_bundle

WIDTHS, DEPTHS = (0.5, 1.0), 3
ENDS = [(first, depth) for depth in range(1, DEPTHS + 1) for first in range(depth + 1)]


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Toy:
    return toy_bundle(tmp_path_factory.mktemp("engines") / "toy.stretto", WIDTHS, DEPTHS, precisions=("fp32", "twin"))


NEEDS = {"openvino": "openvino"}  # engines and the package that they need beside the runtime's own
INSTALLED = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name in NEEDS and find_spec(NEEDS[name]) is None, reason=f"{name}'s package isn't installed"
        ),
    )
    for name in ENGINES
]
openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino isn't installed")


@pytest.fixture(params=INSTALLED)
def engine(request, toy):
    engine = make_engine(request.param, Bundle.open(toy.path))
    yield engine
    engine.close()


@pytest.fixture(params=INSTALLED)
def name(request) -> str:
    return request.param


def close_to(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == np.float32
            assert_allclose(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("precision", ["fp32", "twin"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("first", "depth"), ENDS)
def test_every_step_equals_the_reference(engine, toy, first, depth, width, precision, batch):
    step, x = Step(first, depth, width, precision), toy.samples(batch)
    close_to(engine.run(step, toy.before(x, step)), toy.answer(x, step))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("first", "depth"), [(0, 2), (0, 3), (1, 3), (2, 3)])
def test_span_equals_the_chain_of_its_steps(name, toy, width, first, depth, threads):
    engine = make_engine(name, Bundle.open(toy.path), threads)
    x = toy.before(toy.samples(3), Step(first, depth, width))
    span = engine.run(Step(first, depth, width), x)
    start = first
    for end in range(max(first, 1), depth + 1):
        logits, x = engine.run(Step(start, end, width), x)
        start = end + 1
    close_to((logits, x), span)


@pytest.mark.parametrize("depths", [1, 2])
def test_shallow_network_equals_the_reference(name, tmp_path, depths):
    toy = toy_bundle(tmp_path / "toy.stretto", depths=depths)
    engine, x = make_engine(name, Bundle.open(toy.path)), toy.samples(2)
    for step in toy.steps():
        close_to(engine.run(step, toy.before(x, step)), toy.answer(x, step))


def test_two_threads_at_two_widths_agree_with_serial_runs(engine, toy):
    x = toy.samples(2)
    work = [(step, toy.before(x, step)) for step in toy.steps() if step.first == 0] * 20
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda one: engine.run(*one), work))
    for found, one in zip(together, work, strict=True):
        close_to(found, engine.run(*one))


def test_loading_twice_from_two_threads_builds_a_step_once(name, toy):
    bundle, asked = Bundle.open(toy.path), []
    original = bundle.model
    bundle.model = lambda step: asked.append(step) or original(step)
    engine, step = make_engine(name, bundle), Step(0, 1, 1.0)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(engine.load, [step] * 16))
    engine.run(step, toy.samples(1))
    assert asked == [step]


def test_steps_are_loaded_when_first_used(name, toy):
    bundle, asked = Bundle.open(toy.path), []
    original = bundle.model
    bundle.model = lambda step: asked.append(step) or original(step)
    engine = make_engine(name, bundle)
    assert asked == []
    engine.run(Step(0, 3, 0.5), toy.samples(1))
    assert asked == [Step(0, 3, 0.5)]


def test_weights_may_change_once_a_step_is_loaded(name, toy):
    bundle, given = Bundle.open(toy.path), []
    original = bundle.model

    def copied(step):
        model = original(step)
        given.append({name: array.copy() for name, array in model.initializers.items()})
        return replace(model, initializers=given[-1])

    bundle.model = copied
    engine, x = make_engine(name, bundle), toy.samples(2)
    for step in toy.steps():
        engine.load(step)
    for array in (array for arrays in given for array in arrays.values()):
        array.fill(np.nan)
    for step in toy.steps():
        close_to(engine.run(step, toy.before(x, step)), toy.answer(x, step))


def test_closed_engine_says_so(name, toy):
    engine, step = make_engine(name, Bundle.open(toy.path)), Step(0, 1, 1.0)
    engine.run(step, toy.samples(1))
    engine.close()
    engine.close()
    for use in (lambda: engine.run(step, toy.samples(1)), lambda: engine.load(step)):
        with pytest.raises(RuntimeError, match=r"the engine of .*toy.stretto is closed; load the bundle again"):
            use()


def test_unknown_step_is_told_what_there_is(engine, toy):
    with pytest.raises(ValueError, match=r"no point of width 0.6.* has widths \(0.5, 1.0\)"):
        engine.run(Step(0, 1, 0.6), toy.samples(1))


def test_engine_is_usable_after_a_run_that_failed(engine, toy):
    step, x = Step(0, 1, 1.0), toy.samples(1)
    with pytest.raises(Exception, match=r"(?i)dimension|shape"):
        engine.run(step, x[:, :1])
    close_to(engine.run(step, x), toy.answer(x, step))


def test_run_that_could_be_cut_off_but_was_not_equals_the_reference(engine, toy):
    step, x = Step(0, 3, 1.0), toy.samples(2)
    close_to(engine.run(step, x, Cut()), toy.answer(x, step))


def test_run_after_its_cut_ends_at_once_and_the_engine_stays_usable(engine, toy, capfd):
    step, x, cut = Step(0, 3, 1.0), toy.samples(2), Cut()
    cut.stop()
    with pytest.raises(CutOff):
        engine.run(step, x, cut)
    close_to(engine.run(step, x, Cut()), toy.answer(x, step))
    assert capfd.readouterr() == ("", "")


class Hasty(Cut):
    """Is stopped by another thread, which has to wait until the run gives it the interpreter."""

    def __init__(self):
        super().__init__()
        self.began = Event()
        self.thread = Thread(target=lambda: self.began.wait(10) and self.stop())
        self.thread.start()

    def ended_by(self, end):
        super().ended_by(end)
        self.began.set()


def test_graph_that_is_running_is_ended_and_can_be_run_again(toy):
    engine = make_engine("onnx", Bundle.open(toy.path))
    step, x = Step(0, 3, 1.0), toy.samples(64)
    for _ in range(12):  # until the graph takes so long that the other thread comes in between
        cut = Hasty()
        try:
            engine.run(step, x, cut)
        except CutOff:
            break
        finally:
            cut.thread.join(10)
        x = np.concatenate([x, x])
    else:
        pytest.fail(f"no run was cut off, the last of {len(x) // 2} samples")
    close_to(engine.run(step, x[:2]), toy.answer(x[:2], step))


def test_failure_of_a_run_that_could_be_cut_off_is_raised_as_it_is(engine, toy):
    with pytest.raises(Exception, match=r"(?i)dimension|shape"):
        engine.run(Step(0, 1, 1.0), toy.samples(1)[:, :1], Cut())


def test_unknown_engine_names_those_there_are(toy):
    with pytest.raises(ValueError, match=f"engine 'abacus' isn't known; there are {', '.join(ENGINES)}"):
        make_engine("abacus", Bundle.open(toy.path))


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_below_one_are_refused(name, toy, threads):
    with pytest.raises(ValueError, match=f"threads is {threads}, expected at least 1"):
        make_engine(name, Bundle.open(toy.path), threads)


def test_onnx_refuses_a_provider_it_does_not_have(toy):
    with pytest.raises(ValueError, match=r"provider 'Abacus' isn't in this onnxruntime, which has .*CPUExecution"):
        make_engine("onnx", Bundle.open(toy.path), providers=["Abacus"])


def test_onnx_never_reads_an_unbound_initialiser_from_a_file(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(bytes(10_000))
    bundle = Bundle.open(toy.path)
    model = bundle.model(Step(0, 1, 1.0))
    bound = {name: array for name, array in model.initializers.items() if name != "exit1.b"}
    bundle.model = lambda step: replace(model, initializers=bound)
    with pytest.raises(BundleError, match=r"toy.stretto: ONNX Runtime can't load Step\(first=0"):
        make_engine("onnx", bundle).load(Step(0, 1, 1.0))


def test_a_global_thread_pool_is_named_as_what_keeps_steps_from_loading(tmp_path):
    code = (
        "import sys, onnxruntime\n"
        "onnxruntime.set_global_thread_pool_sizes(1, 1)\n"  # for the rest of the process, so not in this one
        "import stretto\n"
        "stretto.load(sys.argv[1])\n"
    )
    path = toy_bundle(tmp_path / "toy.stretto").path
    ended = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert "RuntimeError: this process called onnxruntime.set_global_thread_pool_sizes" in ended.stderr


def test_precisions_that_an_engine_does_not_run_are_left_out(tmp_path):
    bundle = Bundle.open(toy_bundle(tmp_path / "toy.stretto", precisions=("fp32", "bf16"), compiled=("fp32",)).path)
    left = runnable(make_engine("onnx", bundle), bundle)
    assert left.manifest.precisions == ("fp32",)
    assert {point.precision for point in left.manifest.points} == {"fp32"}
    assert left.sha256 == bundle.sha256


@openvino
def test_openvino_answers_in_bf16_nearly_as_in_fp32_where_the_processor_has_it(tmp_path):
    toy = toy_bundle(tmp_path / "toy.stretto", precisions=("fp32", "bf16"), compiled=("fp32",))
    bundle = Bundle.open(toy.path)
    engine, step, x = make_engine("openvino", bundle), Step(0, 3, 1.0, "bf16"), toy.samples(4)
    if not engine.runs("bf16"):
        pytest.skip("this processor has no bfloat16")
    found, expected = engine.run(step, x)[0], toy.answer(x, step)[0]
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


@openvino
def test_openvino_refuses_a_device_it_does_not_find(toy):
    with pytest.raises(ValueError, match=r"provider 'Abacus' isn't a device that OpenVINO finds: CPU"):
        make_engine("openvino", Bundle.open(toy.path), providers=["Abacus"])


def test_missing_package_of_an_engine_names_the_extra(toy, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"openvino.* pip install 'stretto\[openvino\]'"):
        make_engine("openvino", Bundle.open(toy.path))


@pytest.mark.parametrize(
    ("flags", "vnni"), [("sse avx2 avx512_vnni", True), ("avx2 avx_vnni", True), ("avx2 avx512f", False), ("", False)]
)
def test_vnni_is_read_from_the_flags(tmp_path, flags, vnni):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: some\nflags\t\t: {flags}\nbugs\t: none\n")
    assert has_vnni(tmp_path / "cpuinfo") == vnni
    assert not has_vnni(tmp_path / "missing")
