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
from ..errors import BundleError

CPU = "CPUExecutionProvider"
_ERRORS_ONLY = 3

# Each step's session has its own pool of threads, which by default spin on after a run (2^20 pauses, 3 to 47 ms by
# processor: github.com/microsoft/onnxruntime/pull/27916) and take the cores from the next step's pool. A chain of four
# steps against the same network as one graph, ResNet on 32 pixels, 2 threads on 2 cores, ONNX Runtime 1.32,
# interleaved blocks of runs, milliseconds; lower decile, because the machine had other work (in brackets: a quarter of
# the channels):
#
#   spinning                                  one graph      chain of four
#   default                                   5.1 (0.35)     19.8 (0.64)
#   off                                       5.3 (0.61)      5.8 (0.77)
#   default, force_spinning_stop              5.1 (0.38)      5.5 (0.59)
#   for 50 us                                 5.2 (0.35)      5.5 (0.60)
#
# A later run beside more work (medians): default 21.8 and 57, for 50 us 10.9 and 12.2.
#
# A pool shared by all (`set_global_thread_pool_sizes`) is no choice: it belongs to the process, and from then on
# every session that the host program makes with default options fails.
#
# Weights lie outside the arena, which grows in powers of two: 16 steps of a 28 MB network then take 171 MB, in it 171
# to 217; a session of the whole network takes 99. An initialiser that nothing is bound to must fail, not be read from
# a file.
SETTINGS = {
    "session.intra_op.spin_duration_us": "50",  # ONNX Runtime before 1.26 doesn't know it and spins as by default
    "session.use_device_allocator_for_initializers": "1",
    "session.model_external_initializers_file_folder_path": os.path.join(os.devnull, "nothing"),  # can't exist
}


@dataclass(frozen=True, slots=True)
class _Ready:
    run: Callable[[list[str], dict[str, NDArray[Any]]], Sequence[Any]]
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
        self._ready: dict[Step, _Ready] = {}
        self._loading = Lock()
        self._closed = False

    def load(self, step: Step) -> None:
        """Builds the step's session now, unless it was.

        Raises:
            ValueError: the bundle doesn't have the step.
            BundleError: ONNX Runtime can't load it.
            RuntimeError: the engine is closed, or the process has ONNX Runtime's global thread pool.
        """
        self._load(step)

    def run(self, step: Step, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Logits, (samples, classes), and the features for the next step, None at the final exit."""
        ready = self._ready.get(step) or self._load(step)
        answers = ready.run(ready.outputs, {ready.input: x})
        return answers[0], answers[1] if len(answers) > 1 else None

    def close(self) -> None:
        """Lets go of all sessions; runs under way end normally, later ones raise `RuntimeError`."""
        with self._loading:
            self._closed = True
            self._ready = {}

    def _load(self, step: Step) -> _Ready:
        with self._loading:
            if self._closed:
                raise RuntimeError(f"the engine of {self._bundle.path} is closed; load the bundle again")
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
        # a plan of the memory saves no time here and rounds blocks up to powers of two: with it, 16 steps of MobileNet
        # on 224 pixels take 162 MB, without 131; without arenas 95, but batches of 8 then take 1.3 times as long
        options.enable_mem_pattern = False
        for key, value in self.settings.items():
            options.add_session_config_entry(key, value)
        return options
