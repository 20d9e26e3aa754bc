"""A supernet computes what its network does: full width against the network, every width against the network without
the dropped channels; and how long it takes to make one."""

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from ..policies.situation import Step
from ..runtime.engines import Engine, make_engine
from ..runtime.manifest import InputSpec
from ..training.export import export
from ..training.nets import make_net
from ..training.supernet import Supernet, make_supernet
from .report import Row, machine, print_rows, write_json

WIDTHS = (0.25, 0.5, 0.75, 1.0)
GOALS = {torch.float64: 1e-5, torch.float32: 1e-4}
REPEATS = 5
SECONDS = {"resnet": 1.0}


def run(json: Path | None = None, console: Console | None = None) -> dict[str, Any]:
    """Measure the built-in networks; prints a table and writes JSON."""
    rows = []
    for name, (shape, options, exits, producers) in NETWORKS.items():
        torch.manual_seed(0)
        model = _settled(make_net(name, 10, shape, **options))
        for dtype, goal in GOALS.items():
            rows += _errors(name, copy.deepcopy(model).to(dtype), torch.randn(4, *shape, dtype=dtype), producers, goal)
        rows.append(_compiled(name, model, torch.randn(3, *shape), exits))
        times = [_seconds(model, torch.zeros(1, *shape), exits) for _ in range(REPEATS)]
        rows.append(
            Row("time to make a supernet of 4 widths", name, statistics.median(times), "s", at_most=SECONDS.get(name))
        )
    print_rows(console or Console(), rows, "supernets against their networks")
    report = {"machine": machine(), "rows": [row.to_json() for row in rows]}
    if json is not None:
        write_json(json, report)
    return report


def _errors(
    name: str, model: nn.Module, x: torch.Tensor, producers: Callable[[], Iterable[tuple[str, ...]]], goal: float
) -> list[Row]:
    """Errors of the full width, channels sorted, and of every width, unsorted so that it is known which stay."""
    kind = str(x.dtype).removeprefix("torch.")
    with torch.no_grad():
        net = make_supernet(model, x, WIDTHS, exits=1).eval()
        full = _relative(net(x)[-1], model(x))
        net = make_supernet(model, x, WIDTHS, exits=1, sort=False).eval()
        zeroed = [_relative(net(x, w)[-1], _without(model, producers(), w)(x)) for w in WIDTHS]
    return [
        Row(f"full width against the network, {kind}", name, full, "", at_most=goal),
        Row(f"worst width against the network without its channels, {kind}", name, max(zeroed), "", at_most=goal),
    ]


def _compiled(name: str, model: nn.Module, x: torch.Tensor, exits: int) -> Row:
    """Error of every step and span, loaded from a bundle, against the supernet at that width and depth."""
    net = make_supernet(model, x, WIDTHS, exits).eval()
    labels = np.zeros(len(x), np.int64)
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(net, [(x, labels)], Path(folder) / "net.stretto", input=InputSpec(tuple(x.shape[1:])))
        engine = make_engine("onnx", bundle)
        worst = max(_step_errors(net, engine, x, width) for width in net.widths)
        engine.close()
    return Row("worst compiled step or span against the supernet, float32", name, worst, "", at_most=1e-4)


def _step_errors(net: Supernet, engine: Engine, x: torch.Tensor, width: float) -> float:
    """The worst of all steps of one width, each from every place where it can start."""
    with torch.no_grad():
        expected = net(x, width)
    starts, errors = {0: x.numpy()}, []
    for depth, logits in enumerate(expected, start=1):
        for first, given in list(starts.items()):
            found, features = engine.run(Step(first, depth, width), given)
            errors.append(_relative(torch.from_numpy(found), logits))
        if features is not None:
            starts[depth + 1] = features
    return max(errors)


def _without(model: nn.Module, producers: Iterable[tuple[str, ...]], width: float) -> nn.Module:
    """A copy with zero for all that makes a dropped channel; every entry: layers that put out the same channels.

    Nothing of the supernet's own code: which layers these are is known of each network.
    """
    model = copy.deepcopy(model)
    for layers in producers:
        for layer in map(model.get_submodule, layers):
            for value in layer.parameters(recurse=False):
                value[max(8, int(width * len(value) / 8 + 0.5) * 8) :] = 0
    return model


def resnet_producers(blocks: int) -> list[tuple[str, ...]]:
    """Layers of `nets.resnet` that put out the same channels, one entry for each channel group."""
    streams = [[f"layer{s}.{b}.{kind}2" for b in range(blocks) for kind in ("conv", "bn")] for s in (1, 2, 3)]
    streams[0] += ["conv1", "bn1"]
    for s in (2, 3):
        streams[s - 1] += [f"layer{s}.0.shortcut.0", f"layer{s}.0.shortcut.1"]
    inner = [(f"layer{s}.{b}.conv1", f"layer{s}.{b}.bn1") for s in (1, 2, 3) for b in range(blocks)]
    return [*map(tuple, streams), *inner]


def mobilenet_producers() -> list[tuple[str, ...]]:
    """The same of `nets.mobilenet`."""
    return [("stem.0", "stem.1"), *((f"blocks.{b}.{i}",) for b in range(13) for i in (0, 1, 3, 4))]


NETWORKS: dict[str, tuple[tuple[int, int, int], dict[str, Any], int, Callable[[], Iterable[tuple[str, ...]]]]] = {
    "resnet": ((3, 32, 32), {"blocks": 2}, 4, lambda: resnet_producers(2)),
    "mobilenet": ((3, 96, 96), {}, 4, mobilenet_producers),
    "lenet5": ((1, 28, 28), {"base": 24}, 3, lambda: [("0",), ("3",), ("7",), ("9",)]),
    "lenet300": ((1, 28, 28), {}, 2, lambda: [("1",), ("3",)]),
}


def _settled(model: nn.Module) -> nn.Module:
    """With batch norms that are neither fresh nor alike, as after training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.3, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


def _seconds(model: nn.Module, example: torch.Tensor, exits: int) -> float:
    started = time.perf_counter()
    make_supernet(model, example, WIDTHS, exits)
    return time.perf_counter() - started


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def main(json: Path = Path("bench/results/exact.json")) -> None:
    """Full width and every width against the built-in networks."""
    run(json)


if __name__ == "__main__":
    import typer

    typer.run(main)
