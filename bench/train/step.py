"""A joint training step against the steps of as many separate networks: `stretto bench train-step`.

The joint step is `fit`'s own: every width's every exit, gradients cut, one optimizer step. The separate networks are
the widths of a supernet without a shared stem, which they wouldn't have, with all exits: plain modules with parameters
of their own, each with an optimizer of the same kind. Both see the same batch, in the number format that `fit` would
choose here, in a process that keeps its freed memory as `stretto train` does.
"""

import argparse
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from ...training.autotune import bf16_pays, keep_freed_memory
from ...training.fit import FitOptions, fit_options, train_step
from ...training.nets import make_net
from ...training.optimizers import make_optimizer
from ...training.supernet import Supernet, make_supernet
from ...training.supernet.supernet import with_numbers
from ..report import Row, interleaved, machine, print_rows, spread, write_json

SHAPE, CLASSES = (3, 32, 32), 10
NETWORK = "resnet-14, 32 pixels"


@dataclass(frozen=True, slots=True)
class Setting:
    """How much to measure, and on how many threads."""

    batch: int = 128
    threads: int = 2
    rounds: int = 40


QUICK = Setting(batch=4, threads=1, rounds=2)


class Separate(nn.Module):
    """One width of a supernet with all its exits, as a network of its own."""

    def __init__(self, net: Supernet, width: float) -> None:
        super().__init__()
        self.stem = with_numbers(*net.part(None, 0, "body"))
        stages = range(1, net.depths + 1)
        self.bodies = nn.ModuleList(with_numbers(*net.part(width, stage, "body")) for stage in stages[:-1])
        self.heads = nn.ModuleList(with_numbers(*net.part(width, stage, "head")) for stage in stages)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        features = [self.stem(x)]
        for body in self.bodies:
            features.append(body(features[-1]))
        return [head(z) for head, z in zip(self.heads, [*features[1:], features[-1]], strict=True)]


def run(json_path: Path | None = None, setting: Setting | None = None) -> list[Row]:
    """Measure, print a table, and write it to `json_path`."""
    setting = setting or Setting()
    with torch_threads(setting.threads):
        rows, fast = measure(setting)
    print_rows(Console(), rows, "Training steps")
    if json_path is not None:
        report = {"batch": setting.batch, "threads": setting.threads, "bf16 and channels-last": fast}
        write_json(json_path, {"machine": machine(), **report, "rows": [row.to_json() for row in rows]})
    return rows


def measure(setting: Setting) -> tuple[list[Row], bool]:
    """The figures, and whether they were taken in bf16 with channels-last."""
    keep_freed_memory()
    torch.manual_seed(0)
    model, example = make_net("resnet", CLASSES, SHAPE, blocks=2, base=16), torch.zeros(1, *SHAPE)
    net, unshared = make_supernet(model, example).train(), make_supernet(model, example, shared_stem=False)
    x, y = torch.randn(setting.batch, *SHAPE), torch.randint(CLASSES, (setting.batch,))
    separate = [Separate(unshared, width).train() for width in net.widths]
    fast = bf16_pays(net, x, y)
    if fast:
        for module in (net, *separate):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.contiguous(memory_format=torch.channels_last)
    options = fit_options(lr=0.01)
    sandwich = replace(options, loss=replace(options.loss, sandwich=1))
    apart = separate_step(separate, x, y, options, fast)
    tasks = {
        "joint": joint_step(net, x, y, options, fast),
        "sandwich of three": joint_step(net, x, y, sandwich, fast),
        "separate": apart,
        "separate again": apart,
    }
    times = interleaved(tasks, setting.rounds)
    return rows(times), fast


def rows(times: dict[str, Any]) -> list[Row]:
    """The steps' times, and their ratios to the separate networks' step of the same round."""
    ms = {name: of[:, 0] for name, of in times.items()}
    made = [Row(f"{name}, step", NETWORK, spread(ms[name])["median"], "ms", spread=spread(ms[name])) for name in ms]
    control = {"separate again over separate": spread(ms["separate again"] / ms["separate"])}
    for name, goal in (("joint", 1.0), ("sandwich of three", 0.85)):
        ratio = spread(ms[name] / ms["separate"])
        figure = f"{name}, over four separate networks"
        made.append(Row(figure, NETWORK, ratio["median"], "", at_most=goal, spread=ratio, control=control))
    return made


def joint_step(
    net: Supernet, x: torch.Tensor, y: torch.Tensor, options: FitOptions, bf16: bool
) -> Callable[[], object]:
    """`fit`'s step on one supernet."""
    optimizer, rng = optimizer_for(net, options), random.Random(0)
    return lambda: train_step(net, optimizer, x, y, options, rng, bf16)


def separate_step(
    nets: list[Separate], x: torch.Tensor, y: torch.Tensor, options: FitOptions, bf16: bool
) -> Callable[[], object]:
    """A step of each of these networks, with nothing in it that theirs alone wouldn't need."""
    optimizers = [optimizer_for(net, options) for net in nets]

    def step() -> None:
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = net(x)
            loss = torch.stack([F.cross_entropy(z.float(), y) for z in logits]).sum()
            loss.backward()
            loss.item()
            nn.utils.clip_grad_norm_(net.parameters(), options.clip_norm or torch.inf)
            optimizer.step()

    return step


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """So many threads for torch, as long as this lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def optimizer_for(net: nn.Module, options: FitOptions) -> torch.optim.Optimizer:
    """As `fit` makes it, but for the schedule."""
    return make_optimizer(options.optimizer, net, options.lr, options.momentum, options.weight_decay)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="as little as possible, to see that it runs")
    given = parser.parse_args()
    run(given.json, QUICK if given.quick else Setting(threads=given.threads))


if __name__ == "__main__":
    main()
