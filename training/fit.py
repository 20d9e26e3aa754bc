"""Joint training of a supernet, resumable at any moment."""

import difflib
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .autotune import bf16_pays
from .checkpoint import CheckpointError, load_checkpoint, load_state, save_checkpoint
from .losses import LossOptions, accumulate_gradients
from .norms import recalibrate_bn
from .supernet import Supernet

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How to train. `lr` is for the loss of one width: gradients of several widths are averaged.

    optimizer: "sgd" (Nesterov momentum) or "adamw"; weight decay is off for norms and biases.
    schedule: "one_cycle" (rises over the first 30 % of the steps, then falls to zero; Smith & Topin 2018), "cosine"
        (5 % rise) or "constant".
    autocast, channels_last: True, False, or None to take bf16 and channels-last where a trial step is faster with them.
    recalibrate: batches that settle every width's batch norms after the last epoch; 0 leaves the running averages.
    device: "auto" is CUDA where there is one.
    """

    epochs: int = 10
    lr: float = 0.1
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "one_cycle"
    clip_norm: float | None = 5.0
    seed: int = 0
    autocast: bool | None = None
    channels_last: bool | None = None
    recalibrate: int = 50
    device: str = "auto"
    loss: LossOptions = field(default_factory=LossOptions)

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs {self.epochs}: must be 1 or more")
        if self.lr <= 0:
            raise ValueError(f"lr {self.lr}: must be above 0")
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("schedule", self.schedule, SCHEDULES)


def fit_options(**given: Any) -> FitOptions:
    """Options from one flat set of names, those of the loss among them.

    Raises:
        TypeError: an unknown name; says the nearest valid one.
    """
    loss_names = {f.name for f in fields(LossOptions)}
    names = {f.name for f in fields(FitOptions)} - {"loss"} | loss_names
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, sorted(names), 1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; options are {', '.join(sorted(names))}"
            raise TypeError(f"unknown training option '{name}'{hint}")
    loss = LossOptions(**{k: v for k, v in given.items() if k in loss_names})
    return FitOptions(loss=loss, **{k: v for k, v in given.items() if k not in loss_names})


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands, told after every batch: means over the epoch so far, estimated seconds to the end."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    accuracy: float
    left_s: float


def fit(
    net: Supernet,
    loader: Iterable[Batch],
    options: FitOptions | None = None,
    *,
    checkpoint: str | Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    about: dict[str, Any] | None = None,
    **changes: Any,
) -> list[dict[str, float]]:
    """Train jointly on the summed loss of all widths and exits; returns each epoch's mean loss and accuracy.

    Args:
        loader: gives (x, y) batches each time it is iterated and has a length; a `set_epoch` method is called first
            where there is one. Randomness is seeded anew each epoch, so a resumed run repeats an uncut one.
        options: or name single options: `fit(net, loader, epochs=3, lr=0.05)`.
        checkpoint: written after every epoch; where it exists already, training goes on from it.
        about: plain values kept in the checkpoint, such as what made the network.

    Raises:
        TypeError: an unknown option.
        CheckpointError: the checkpoint belongs to another network or other options; names them.
        FloatingPointError: the loss isn't finite any more.
    """
    options = fit_options(**changes) if options is None else options
    run = _Run(net, loader, options, checkpoint, about or {})
    for epoch in range(run.epoch, options.epochs):
        run.train_epoch(epoch, on_progress)
    run.finish()
    return run.history


class _Run:
    """One training run: network, optimizer, and where it stands."""

    def __init__(
        self, net: Supernet, loader: Any, options: FitOptions, path: str | Path | None, about: dict[str, Any]
    ) -> None:
        if not isinstance(loader, Sized) or len(loader) == 0:
            raise ValueError("the loader must have a length and give at least one batch")
        self.net, self.loader, self.options, self.about = net, loader, options, about
        self.path = None if path is None else Path(path)
        self.epoch, self.history, self.done = 0, [], False
        device = options.device
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.net.to(self.device)
        content = load_checkpoint(self.path) if self.path is not None and self.path.exists() else None
        self.fast = self._choose_fast(content)
        if self.fast["channels_last"]:
            self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = OPTIMIZERS[options.optimizer](_decay_groups(net, options.weight_decay), options)
        self.started, self.steps_done = time.monotonic(), 0
        if content is not None:
            self._resume(content)
        else:
            self._save()

    def train_epoch(self, epoch: int, on_progress: Callable[[Progress], None] | None) -> None:
        seed_everything(self.options.seed, epoch)
        rng = random.Random(f"{self.options.seed}/{epoch}")
        if hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(epoch)
        self.net.train()
        total, right, seen = 0.0, 0, 0
        for i, (x, y) in enumerate(self._batches()):
            loss, correct = self._step(epoch * len(self.loader) + i, x, y, rng)
            total, right, seen = total + loss * len(y), right + correct, seen + len(y)
            if on_progress is not None:
                place = (epoch + 1, self.options.epochs, i + 1, len(self.loader))
                on_progress(Progress(*place, total / seen, right / seen, self._left_s(epoch, i)))
        self.epoch = epoch + 1
        self.history.append({"epoch": epoch + 1, "loss": total / seen, "accuracy": right / seen})
        self._save()

    def finish(self) -> None:
        """Settle the batch norms, once."""
        if self.options.recalibrate and not self.done:
            seed_everything(self.options.seed, self.options.epochs)
            if hasattr(self.loader, "set_epoch"):
                self.loader.set_epoch(self.options.epochs)
            recalibrate_bn(self.net, (x for x, _ in self._batches()), self.options.recalibrate)
        self.done = True
        self.net.eval()
        self._save()

    def _step(self, step: int, x: torch.Tensor, y: torch.Tensor, rng: random.Random) -> tuple[float, int]:
        options = self.options
        rate = options.lr * SCHEDULES[options.schedule](step / (options.epochs * len(self.loader)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        dtype = torch.bfloat16 if self.fast["autocast"] else None
        loss, right = accumulate_gradients(self.net, x, y, options.loss, rng, dtype)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {step}; a lower lr than {options.lr} may help")
        grads = [p.grad for p in self.net.parameters() if p.grad is not None]
        torch._foreach_div_(grads, len(self.net.widths) if options.loss.sandwich is None else self._sandwiched())
        if options.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.net.parameters(), options.clip_norm)
        self.optimizer.step()
        self.steps_done += 1
        return loss, right

    def _sandwiched(self) -> int:
        return min(len(self.net.widths), 2 + (self.options.loss.sandwich or 0))

    def _batches(self) -> Iterator[Batch]:
        for x, y in self.loader:
            x = x.to(self.device)
            if self.fast["channels_last"] and x.dim() == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            yield x, y.to(self.device)

    def _left_s(self, epoch: int, batch: int) -> float:
        steps = (self.options.epochs - epoch) * len(self.loader) - batch - 1
        return steps * (time.monotonic() - self.started) / max(self.steps_done, 1)

    def _choose_fast(self, content: dict[str, Any] | None) -> dict[str, bool]:
        """bf16 and channels-last: as asked, as the checkpoint had it, or by trial."""
        asked = {"autocast": self.options.autocast, "channels_last": self.options.channels_last}
        if content is not None:
            return dict(content["options"]["fast"])
        if None in asked.values():
            pays = bf16_pays(self.net, *next(iter(self.loader)))
            asked = {name: pays if value is None else value for name, value in asked.items()}
        return {name: bool(value) for name, value in asked.items()}

    def _resume(self, content: dict[str, Any]) -> None:
        ours, theirs = self._described(), content["options"]
        differing = [f"{k} {theirs.get(k)!r} there, {v!r} here" for k, v in ours.items() if theirs.get(k) != v]
        if differing:
            raise CheckpointError(
                f"{self.path}: was trained with other options: {'; '.join(differing)}; use the same or another file"
            )
        load_state(self.path or "", self.net, content)
        self.optimizer.load_state_dict(content["optimizer"])
        self.epoch, self.history = content["epoch"], content["history"]
        self.done = theirs["done"]

    def _described(self) -> dict[str, Any]:
        described = asdict(self.options)
        described["loss"]["depth_weights"] = list(self.options.loss.depth_weights or ()) or None
        return {k: v for k, v in described.items() if k != "device"} | {"fast": self.fast, "steps": len(self.loader)}

    def _save(self) -> None:
        if self.path is not None:
            save_checkpoint(
                self.path,
                self.net,
                optimizer=self.optimizer.state_dict(),
                epoch=self.epoch,
                options=self._described() | {"done": self.done},
                history=self.history,
                about=self.about,
            )


def seed_everything(seed: int, epoch: int) -> None:
    """Seed torch, numpy and Python for one epoch, so that it doesn't matter what ran before in this process."""
    number = np.random.SeedSequence([seed, epoch]).generate_state(1)[0].item()
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


def one_cycle(done: float) -> float:
    """Factor of the learning rate at a share of all steps done, in [0, 1)."""
    rise = 0.3
    return 0.04 + 0.96 * done / rise if done < rise else 0.5 * (1 + math.cos(math.pi * (done - rise) / (1 - rise)))


def cosine(done: float) -> float:
    """Like `one_cycle`, with a short linear rise."""
    rise = 0.05
    return (done + 1e-3) / rise if done < rise else 0.5 * (1 + math.cos(math.pi * (done - rise) / (1 - rise)))


def _sgd(groups: list[dict[str, Any]], options: FitOptions) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=options.momentum > 0)


def _adamw(groups: list[dict[str, Any]], options: FitOptions) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=options.lr)


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], FitOptions], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adamw": _adamw,
}
SCHEDULES: dict[str, Callable[[float], float]] = {
    "one_cycle": one_cycle,
    "cosine": cosine,
    "constant": lambda done: 1.0,
}


def _decay_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [p for p in net.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _one_of(what: str, name: str, table: dict[str, Any]) -> None:
    if name not in table:
        raise ValueError(f"{what} '{name}' isn't known; one of {', '.join(table)}")
