"""Engines run one step. A new one: a file here, a line in `ENGINES`, and the contract tests run on it."""

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...policies.situation import Step
from ..bundle import Bundle
from .cut import Cut

# name → module:class, relative to here; a string, so that listing names imports nothing
ENGINES = {"onnx": ".onnx:OnnxEngine", "openvino": ".openvino:OpenVinoEngine"}


class Engine(Protocol):
    """Runs a bundle's steps. Safe to call from several threads.

    `name`: its key in `ENGINES`; `threads`: that one step may use; `in_caller`: whether a step runs on the thread that
    calls `run` and on no other, so that this thread's clock tells what processor time the step took.
    """

    name: str
    threads: int
    in_caller: bool

    def runs(self, precision: str) -> bool:
        """Whether this engine, on this device, computes in a precision rather than fails or computes in another."""

    def load(self, step: Step) -> None:
        """Gets the step ready, so that its first run is as fast as the next; does nothing where it is."""

    def run(
        self, step: Step, x: NDArray[np.float32], cut: Cut | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Logits, (samples, classes), and the features that the next step takes, None at the final exit.

        Loads the step where that wasn't done.

        Args:
            x: (samples, …), the network's input for a step from stage 0, else the features that the step before gave.
            cut: what may end the run early; an engine that can't do that ends normally.

        Raises:
            CutOff: `cut` ended it; the engine stays usable.
        """

    def close(self) -> None:
        """Frees what the steps hold; what is running ends normally, later calls raise `ClosedError`."""


def runnable(engine: Engine, bundle: Bundle) -> Bundle:
    """The bundle with the precisions that the engine runs."""
    return bundle.only([precision for precision in bundle.manifest.precisions if engine.runs(precision)])


def make_engine(name: str, bundle: Bundle, threads: int = 1, providers: Sequence[str] | None = None) -> Engine:
    """The engine of that name for a bundle.

    Args:
        threads: that one step may use.
        providers: of the engine's own choice of devices, in order of preference; None for the processor.

    Raises:
        ValueError: no such engine, threads below 1, or a provider that isn't there; names what is.
        ImportError: the engine's library isn't installed; names the extra that brings it.
    """
    if name not in ENGINES:
        raise ValueError(f"engine {name!r} isn't known; there are {', '.join(ENGINES)}")
    module, cls = ENGINES[name].split(":")
    return getattr(import_module(module, __package__), cls)(bundle, threads, providers)
