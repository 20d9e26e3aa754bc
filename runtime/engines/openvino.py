"""Runs steps by OpenVINO, which also computes the fp32 graphs in bfloat16 where the processor has that."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...policies.situation import Step
from ..bundle import Bundle, StepModel
from ..errors import BundleError, ClosedError
from .cut import Cut, CutOff

CPU = "CPU"
HINTS = {"bf16": "bf16"}  # what computes in float; all else in float32
_BATCH_1, _ANY_BATCH = 1, -1


@dataclass(frozen=True, slots=True)
class _Ready:
    """A compiled step. `idle`: requests that no thread is using; each has buffers of its own."""

    compiled: Any
    outputs: tuple[Any, ...]
    idle: deque[Any] = field(default_factory=deque)


class OpenVinoEngine:
    """Runs steps by OpenVINO; a step is compiled for one sample, which is faster, and for any number when that comes.

    Args:
        bundle: where the steps come from.
        threads: that one step uses, at least 1.
        providers: OpenVINO's devices in order of preference; None for the processor.

    Raises:
        ValueError: threads below 1, or a device that OpenVINO doesn't find.
        ImportError: the packages openvino or onnx aren't installed.
    """

    name = "openvino"

    def __init__(self, bundle: Bundle, threads: int = 1, providers: Sequence[str] | None = None):
        self._core = _core()
        wanted, available = list(providers or [CPU]), self._core.available_devices
        for device in wanted:
            if device not in available:
                raise ValueError(f"provider {device!r} isn't a device that OpenVINO finds: {', '.join(available)}")
        if threads < 1:
            raise ValueError(f"threads is {threads}, expected at least 1")
        self._device = wanted[0] if len(wanted) == 1 else f"AUTO:{','.join(wanted)}"
        self._capabilities = [set(self._core.get_property(device, "OPTIMIZATION_CAPABILITIES")) for device in wanted]
        self._bundle, self.threads = bundle, threads
        self.in_caller = threads == 1 and self._device == CPU
        self._ready: dict[tuple[Step, int], _Ready] = {}
        self._loading = Lock()
        self._closed = False

    def runs(self, precision: str) -> bool:
        """All that has graphs of its own, and bf16 where the devices have it."""
        return precision not in HINTS or all(HINTS[precision].upper() in has for has in self._capabilities)

    def load(self, step: Step) -> None:
        """Compiles the step for one sample now, unless it was.

        Raises:
            ValueError: the bundle doesn't have the step.
            BundleError: OpenVINO can't load it.
            ClosedError: the engine is closed.
        """
        self._load(step, _BATCH_1)

    def run(
        self, step: Step, x: NDArray[np.float32], cut: Cut | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Logits, (samples, classes), and the features for the next step, None at the final exit.

        `cut` ends what hasn't begun yet: OpenVINO cancels only requests that run on threads of its own, which would
        cost a hand-over each, and the thread's clock as a measure of what a step takes.
        """
        if cut is not None and cut.asked:
            raise CutOff
        batch = _BATCH_1 if len(x) == 1 else _ANY_BATCH
        ready = self._ready.get((step, batch)) or self._load(step, batch)
        try:
            request = ready.idle.pop()
        except IndexError:
            request = ready.compiled.create_infer_request()
        try:
            request.infer([x], share_inputs=True)
            answers = [request.get_tensor(output).data.copy() for output in ready.outputs]
        finally:
            ready.idle.append(request)
        return answers[0], answers[1] if len(answers) > 1 else None

    def close(self) -> None:
        """Lets go of all models; runs under way end normally, later ones raise `ClosedError`."""
        with self._loading:
            self._closed = True
            self._ready = {}

    def _load(self, step: Step, batch: int) -> _Ready:
        with self._loading:
            if self._closed:
                raise ClosedError(f"the engine of {self._bundle.path} is closed; load the bundle again")
            if (step, batch) not in self._ready:
                self._ready[step, batch] = self._make(step, batch)
            return self._ready[step, batch]

    def _make(self, step: Step, batch: int) -> _Ready:
        model = self._bundle.model(step)
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": HINTS.get(step.precision, "f32"),
        }
        try:
            read = self._core.read_model(_with_weights(model))
            read.reshape([batch, *model.input.shape])
            compiled = self._core.compile_model(read, self._device, config)
        except Exception as error:  # OpenVINO's errors are RuntimeErrors of many kinds
            raise BundleError(f"{self._bundle.path}: OpenVINO can't load {step}: {error}") from error
        return _Ready(compiled, tuple(compiled.output(name) for name in model.outputs))


def _core() -> Any:
    try:
        import onnx  # noqa: F401
        import openvino
    except ImportError as error:
        raise ImportError(
            f"engine 'openvino' needs the package {error.name}; install it by: pip install 'stretto[openvino]'"
        ) from error
    return openvino.Core()


def _with_weights(model: StepModel) -> bytes:
    """The model with its weights inside, as OpenVINO takes none from memory."""
    import onnx

    proto = onnx.load_from_string(model.model)
    for tensor in proto.graph.initializer:
        if tensor.name in model.initializers:
            tensor.CopyFrom(onnx.numpy_helper.from_array(model.initializers[tensor.name], tensor.name))
    return proto.SerializeToString()
