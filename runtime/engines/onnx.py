"""Runs steps by ONNX Runtime: on the processor, or by any other provider that the installed package has."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ...policies.situation import Step
from ..bundle import Bundle, StepModel
from ..errors import BundleError, ClosedError
from ..manifest import graphs_of
from .cut import Cut, CutOff
from .processor import has_vnni

CPU = "CPUExecutionProvider"
_ERRORS_ONLY, _FATAL_ONLY = 3, 4
_TERMINATED = "terminate flag"  # in the message of a run that was terminated, whose error has no type of its own

# Each step's session has its own pool of threads, which by default spin on after a run (2^20 pauses, 3 to 47 ms by
# processor: github.com/microsoft/onnxruntime/pull/27916) and take the cores from the next step's pool. One graph and
# the chain of its four steps with 2 threads on 2 cores, median milliseconds by `stretto bench session` on an idle
# machine, ONNX Runtime 1.32:
#
#   spinning                            ResNet-14, base 64     MobileNet, 224 pixels
#   default                             3.96 and 18.0          6.1 and 26.3
#   off                                 5.71 and 6.0           6.5 and 8.5
#   default, force_spinning_stop        4.00 and 7.6           6.2 and 7.2
#   for 50 us                           3.98 and 6.0           6.1 and 8.0
#
# A pool shared by all (`set_global_thread_pool_sizes`) is no choice: it belongs to the process, and from then on
# every session that the host program makes with default options fails.
#
# An initialiser that nothing is bound to must fail, not be read from a file.
#
# Pairs of int8 products are added in 16 bits where an x86 processor lacks VNNI, and may overflow. Precise mode takes
# slower instructions for layers whose weights are above 64; where VNNI makes that needless, a ResNet-14 of base 64
# would take 1.86 ms of processor time instead of 0.87.
SETTINGS = {
    "session.intra_op.spin_duration_us": "50",  # ONNX Runtime before 1.26 doesn't know it and spins as by default
    "session.model_external_initializers_file_folder_path": os.path.join(os.devnull, "nothing"),  # can't exist
    "session.x64quantprecision": "0" if has_vnni() else "1",
}


@dataclass(frozen=True, slots=True)
class _Ready:
    run: Callable[..., Sequence[Any]]
    input: str
    outputs: list[str]


class OnnxEngine:
    """Runs steps by ONNX Runtime; a session a step, made when it is first needed.

    Args:
        bundle: where the steps come from.
        threads: that one step uses, at least 1.
        providers: ONNX Runtime's execution providers in order of preference; None for the processor.

    Raises:
        ValueError: threads below 1, or a provider that the installed ONNX Runtime lacks.
    """

    name = "onnx"
    settings: Mapping[str, str] = SETTINGS  # of every session, by ONNX Runtime's own keys

    def __init__(self, bundle: Bundle, threads: int = 1, providers: Sequence[str] | None = None):
        available = onnxruntime.get_available_providers()
        self._providers = list(providers) if providers is not None else [CPU]
        for provider in self._providers:
            if provider not in available:
                raise ValueError(f"provider {provider!r} isn't in this onnxruntime, which has {', '.join(available)}")
        if threads < 1:
            raise ValueError(f"threads is {threads}, expected at least 1")
        self._bundle, self.threads = bundle, threads
        self.in_caller = threads == 1 and self._providers == [CPU]
        self._ready: dict[Step, _Ready] = {}
        self._loading = Lock()
        self._closed = False

    def runs(self, precision: str) -> bool:
        """Whatever has graphs of its own."""
        return graphs_of(precision) == precision

    def load(self, step: Step) -> None:
        """Builds the step's session now, unless it was.

        Raises:
            ValueError: the bundle doesn't have the step.
            BundleError: ONNX Runtime can't load it.
            ClosedError: the engine is closed.
            RuntimeError: the process has ONNX Runtime's global thread pool.
        """
        self._load(step)

    def run(
        self, step: Step, x: NDArray[np.float32], cut: Cut | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Logits, (samples, classes), and the features for the next step, None at the final exit."""
        ready = self._ready.get(step) or self._load(step)
        feed = {ready.input: x}
        answers = ready.run(ready.outputs, feed) if cut is None else _run_until(ready, feed, cut)
        return answers[0], answers[1] if len(answers) > 1 else None

    def close(self) -> None:
        """Lets go of all sessions; runs under way end normally, later ones raise `ClosedError`."""
        with self._loading:
            self._closed = True
            self._ready = {}

    def _load(self, step: Step) -> _Ready:
        with self._loading:
            if self._closed:
                raise ClosedError(f"the engine of {self._bundle.path} is closed; load the bundle again")
            if step not in self._ready:
                self._ready[step] = self._make(step)
            return self._ready[step]

    def _make(self, step: Step) -> _Ready:
        model = self._bundle.model(step)
        try:
            session = self._session(model)
        except Exception as error:  # ONNX Runtime's errors have no base class of their own
            if "global thread pool" in str(error):
                raise RuntimeError(
                    "this process called onnxruntime.set_global_thread_pool_sizes, after which no session can have "
                    "threads of its own, as stretto's steps do; leave that call out, or run stretto in another process"
                ) from error
            raise BundleError(f"{self._bundle.path}: ONNX Runtime can't load {step}: {error}") from error
        return _Ready(session.run, model.input.name, list(model.outputs))

    def _session(self, model: StepModel) -> onnxruntime.InferenceSession:
        options = self._options()
        # ONNX Runtime copies the weights while it makes the session (a test holds it to that), not after
        weights = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in model.initializers.values()]
        options.add_external_initializers(list(model.initializers), weights)
        # without fallback: it would print, and answer from another device than asked
        session = onnxruntime.InferenceSession(model.model, options, self._providers, enable_fallback=0)
        if not set(self._providers) <= set(session.get_providers()):
            raise RuntimeError(f"providers {self._providers} asked, {session.get_providers()} granted")
        return session

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = _ERRORS_ONLY
        # a plan of the memory saves no time here and rounds blocks up to powers of two: with it, the steps of MobileNet
        # at four widths take 161 MB, without 132 (`stretto bench session`); without arenas it would be 95, but a batch
        # of large images then asks the system for its memory anew in every run
        options.enable_mem_pattern = False
        for key, value in self.settings.items():
            options.add_session_config_entry(key, value)
        return options


def _run_until(ready: _Ready, feed: dict[str, NDArray[Any]], cut: Cut) -> Sequence[Any]:
    """Options of its own for each run, 0.5 µs: ONNX Runtime looks at the flag between two nodes and never clears it."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = _FATAL_ONLY  # to be cut off is no error; real ones are raised all the same
    cut.ended_by(lambda: setattr(options, "terminate", True))
    try:
        return ready.run(ready.outputs, feed, options)
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        if cut.asked and _TERMINATED in str(error):
            raise CutOff from None
        raise
