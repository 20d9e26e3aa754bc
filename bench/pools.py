"""What the thread settings of `runtime/engines/onnx.py` are chosen by: a chain of steps against one graph.

Each step's ONNX Runtime session has its own threads, which by default spin on after a run.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import product

import numpy as np

from ..policies.situation import Step
from ..runtime.bundle import Bundle
from ..runtime.engines import Engine
from ..runtime.engines.onnx import OnnxEngine
from ..runtime.steps import legs
from .report import FloatArray, Row, interleaved, spread

THREADS = 2
PAUSE_S = (
    0.06  # before each block: longer than the threads of the block before spin by default (26 ms on 2.6 GHz Zen 4)
)
# of the engine's own settings, what is set differently; -1 is ONNX Runtime's default, which spins for 2^20 pauses
_DURATION = "session.intra_op.spin_duration_us"
SETTINGS: dict[str, dict[str, str]] = {
    "spinning by default": {_DURATION: "-1"},
    "spinning off": {"session.intra_op.allow_spinning": "0"},
    "by default, force_spinning_stop": {_DURATION: "-1", "session.force_spinning_stop": "1"},
    "as the engine sets it": {},
}


class SetEngine(OnnxEngine):
    """The engine with some of its settings changed."""

    def __init__(self, bundle: Bundle, threads: int, changes: Mapping[str, str]):
        super().__init__(bundle, threads)
        self.settings = {**self.settings, **changes}


def pool_rows(bundle: Bundle, network: str, rounds: int, calls: int) -> list[Row]:
    """One graph and the chain of its steps under every setting, at the widest and the narrowest width, interleaved."""
    x = np.random.default_rng(0).standard_normal((1, *bundle.manifest.input.shape), np.float32)
    widths = (bundle.manifest.widths[-1], bundle.manifest.widths[0])
    tasks: dict[tuple[str, float, str], Callable[[], object]] = {}
    with ExitStack() as stack:
        for setting, entries in SETTINGS.items():
            engine = stack.enter_context(closing(SetEngine(bundle, THREADS, entries)))
            for width in widths:
                whole = (Step(0, bundle.manifest.depths, width, bundle.manifest.precisions[0]),)
                steps = legs(bundle.manifest, width, bundle.manifest.precisions[0])
                tasks[setting, width, "one graph"] = partial(run_way, engine, whole, x)
                tasks[setting, width, "chain"] = partial(run_way, engine, steps, x)
        times = interleaved(tasks, rounds, calls, PAUSE_S)
    return [_row(network, times, setting, width) for setting, width in product(SETTINGS, widths)]


def run_way(engine: Engine, steps: Sequence[Step], x: np.ndarray) -> None:
    """One request through bare `steps`, one after the other; `x`: (samples, …)."""
    features: np.ndarray | None = x
    for step in steps:
        if features is None:
            raise ValueError(f"nothing goes on to {step}: the step before it ended at the final exit")
        _, features = engine.run(step, features)


def _row(network: str, times: Mapping[tuple[str, float, str], FloatArray], setting: str, width: float) -> Row:
    """The chain's time, with that of the one graph and their lower deciles beside it."""
    chain, one = (np.median(times[setting, width, kind], axis=1) for kind in ("chain", "one graph"))
    control = {
        "one graph, ms": float(np.median(one)),
        "chain over one graph": spread(chain / one),
        "lower deciles, ms": {
            "one graph": float(np.quantile(times[setting, width, "one graph"], 0.1)),
            "chain": float(np.quantile(times[setting, width, "chain"], 0.1)),
        },
    }
    return Row(
        f"chain of steps, {THREADS} threads, {setting}, width {width:g}", network, float(np.median(chain)), "ms",
        spread=spread(chain), control=control,
    )  # fmt: skip
