"""Joint training of a supernet, resumable at any moment."""

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .autotune import bf16_pays
from .checkpoint import CheckpointError, load_checkpoint, load_state, save_checkpoint
from .limits import Limits, imposed, limit_gradients, limits_to_plain, settle
from .losses import Lesson, accumulate_gradients, count_drawn
from .norms import recalibrate_bn
from .optimizers import SCHEDULES, make_optimizer
from .options import FitOptions, fit_options
from .supernet import Supernet

Within = Callable[[], AbstractContextManager[Any]]
Batch = tuple[torch.Tensor, torch.Tensor] | tuple[torch.Tensor, torch.Tensor, Lesson]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands, told after every batch.

    `loss`, summed over widths and exits, and `accuracy`, of the widest final exit, are means over the epoch so far;
    `left_s` is the estimated time to the end of the last epoch.
    """

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
    limits: Limits | None = None,
    within: Within = nullcontext,
    **changes: Any,
) -> list[dict[str, float]]:
    """Train jointly on the summed loss of all widths and exits; returns each epoch's mean loss, accuracy, and time.

    An entry has `epoch`, from 1; `loss`, summed over widths and exits; `accuracy` of the widest final exit on the
    training batches; and `seconds` of wall time, of the pass that finished: one that was cut off doesn't count.
    In the end the network is on the device that it was on before.

    Args:
        loader: gives (x, y) batches, or (x, y, lesson) of what teachers say of them, each time it is iterated and has
            a length, such as a torch `DataLoader`. Before
            every epoch all randomness is seeded anew, its generator's included, and `set_epoch` called where it or its
            sampler has one, so that a resumed run repeats an uncut one.
        options: or name single options instead: `fit(net, loader, epochs=3, lr=0.05)`.
        checkpoint: written at the start and after every epoch; where it exists already, training goes on from it.
        about: plain values kept in the checkpoint, such as what made the network.
        limits: the values that parameters may have, by their names in `net.shared`; they have them in every forward
            pass and at the end.
        within: entered while the network runs and its gradients are found, in training alone.

    Raises:
        TypeError: an unknown option.
        ValueError: an option's value isn't allowed, or the loader has no length or no batches.
        CheckpointError: the checkpoint can't be read, or belongs to another network or other options; names them.
        FloatingPointError: the loss isn't finite any more.
    """
    if options is not None and changes:
        raise TypeError(f"give either options or single ones ({', '.join(changes)}), not both")
    run = _Run(net, loader, options or fit_options(**changes), checkpoint, about or {}, limits or {}, within)
    for epoch in range(run.epoch, run.options.epochs):
        run.train_epoch(epoch, on_progress)
    run.finish()
    return run.history


class _Run:
    """One training run: network, optimizer, and where it stands."""

    def __init__(
        self,
        net: Supernet,
        loader: Any,
        options: FitOptions,
        path: str | Path | None,
        about: dict[str, Any],
        limits: Limits,
        within: Within,
    ) -> None:
        self.net, self.loader, self.options, self.about = net, loader, options, about
        self.limits, self.within = limits, within
        self.path = None if path is None else Path(path)
        self.batches = _length(loader)
        self.epoch, self.done = 0, False
        self.history: list[dict[str, float]] = []
        self.home = next((p.device for p in net.parameters()), torch.device("cpu"))
        self.device = torch.device(_device(options.device))
        self.net.to(self.device)
        content = load_checkpoint(self.path) if self.path is not None and self.path.exists() else None
        self.fast = self._choose_fast(content)
        if self.fast["channels_last"]:
            self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(options.optimizer, net, options.lr, options.momentum, options.weight_decay)
        self.started, self.steps_done = time.monotonic(), 0
        if content is None:
            self._save()
        else:
            self._resume(content)

    def train_epoch(self, epoch: int, on_progress: Callable[[Progress], None] | None) -> None:
        """One pass over the data, and the checkpoint after it."""
        rng = self._begin(epoch)
        self.net.train()
        began = time.monotonic()
        total, right, seen = 0.0, 0, 0
        for i, (x, y, *lessons) in enumerate(self._on_device(self.loader)):
            loss, correct = self._step(epoch * self.batches + i, x, y, rng, *lessons)
            total, right, seen = total + loss * len(y), right + correct, seen + len(y)
            if on_progress is not None:
                place = (epoch + 1, self.options.epochs, i + 1, self.batches)
                on_progress(Progress(*place, total / seen, right / seen, self._left_s(epoch, i)))
        if seen == 0:
            raise ValueError(
                f"the loader gave no batch in epoch {epoch + 1}; it must give them each time it is iterated"
            )
        self.epoch = epoch + 1
        seconds = time.monotonic() - began
        self.history.append({"epoch": epoch + 1, "loss": total / seen, "accuracy": right / seen, "seconds": seconds})
        self._save()

    def finish(self) -> None:
        """Settle the batch norms, once, and give the network back to the device that it came from."""
        if not self.done:
            self._begin(self.options.epochs)
            settle(self.net, self.limits)
            inputs = self._on_device(getattr(self.loader, "without_lessons", self.loader))
            recalibrate_bn(self.net, (batch[0] for batch in inputs), self.options.recalibrate)
            self.done = True
            self._save()
        self.net.eval().to(self.home)

    def _begin(self, epoch: int) -> random.Random:
        """Make all that is random depend on seed and epoch alone; returns what draws the widths."""
        number = seed_everything(self.options.seed, epoch)
        for holder in _holders(self.loader):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(number)
            if hasattr(holder, "set_epoch"):
                holder.set_epoch(epoch)
        return random.Random(number)

    def _step(
        self, step: int, x: torch.Tensor, y: torch.Tensor, rng: random.Random, lesson: Lesson | None = None
    ) -> tuple[float, int]:
        options = self.options
        rate = options.lr * SCHEDULES[options.schedule](step / (options.epochs * self.batches))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        try:
            found = train_step(
                self.net, self.optimizer, x, y, options, rng, self.fast["autocast"], self.limits, lesson, self.within
            )
        except FloatingPointError as error:
            raise FloatingPointError(f"{error} at step {step}; a lower lr than {options.lr} may help") from error
        self.steps_done += 1
        return found

    def _on_device(self, loader: Any) -> Iterator[Batch]:
        for x, y, *lessons in loader:
            x = x.to(self.device)
            if self.fast["channels_last"] and x.dim() == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            moved = [lesson._replace(scores=lesson.scores.to(self.device)) for lesson in lessons]
            yield (x, y.to(self.device), *moved)

    def _left_s(self, epoch: int, batch: int) -> float:
        steps = (self.options.epochs - epoch) * self.batches - batch - 1
        return steps * (time.monotonic() - self.started) / self.steps_done

    def _choose_fast(self, content: dict[str, Any] | None) -> dict[str, bool]:
        """bf16 and channels-last: as the checkpoint had it, as asked, or by trial."""
        if content is not None:
            return dict(content["options"]["fast"])
        asked = {"autocast": self.options.autocast, "channels_last": self.options.channels_last}
        if None in asked.values():
            pays = bf16_pays(self.net, *next(iter(self.loader))[:2])
            asked = {name: pays if value is None else value for name, value in asked.items()}
        return {name: bool(value) for name, value in asked.items()}

    def _resume(self, content: dict[str, Any]) -> None:
        ours, theirs = self._described(), content["options"]
        differing = [f"{k} is {theirs.get(k)!r} there, {v!r} here" for k, v in ours.items() if theirs.get(k) != v]
        if differing:
            raise CheckpointError(
                f"{self.path}: was trained with other options: {'; '.join(differing)}; use the same or another file"
            )
        load_state(self.path or "", self.net, content)
        self.optimizer.load_state_dict(content["optimizer"])
        self.epoch, self.history, self.done = content["epoch"], content["history"], theirs["done"]

    def _described(self) -> dict[str, Any]:
        """All that a run's result depends on, flat."""
        described = asdict(self.options)
        del described["device"]
        return described.pop("loss") | described | {"fast": self.fast, "batches": self.batches}

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
                **({"limits": limits_to_plain(self.limits)} if self.limits else {}),
            )


def train_step(
    net: Supernet,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    options: FitOptions,
    rng: random.Random,
    bf16: bool = False,
    limits: Limits | None = None,
    lesson: Lesson | None = None,
    within: Within = nullcontext,
) -> tuple[float, int]:
    """One batch: gradients averaged over widths, cut, and the optimizer's step.

    `limits`, `lesson`, `within`: see `fit`.

    Returns the loss and how many of the batch the widest final exit got right.

    Raises:
        FloatingPointError: the loss isn't finite; the parameters are left as they were.
    """
    optimizer.zero_grad(set_to_none=True)
    with imposed(net, limits or {}), within():
        loss, right = accumulate_gradients(net, x, y, options.loss, rng, torch.bfloat16 if bf16 else None, lesson)
    limit_gradients(net, limits or {})
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss}")
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    torch._foreach_div_(grads, count_drawn(net.widths, options.loss.sandwich))
    if options.clip_norm is not None:
        nn.utils.clip_grad_norm_(net.parameters(), options.clip_norm)
    optimizer.step()
    return loss, right


def seed_everything(seed: int, epoch: int) -> int:
    """Seed torch, numpy and Python for one epoch, so that it doesn't matter what ran before in this process; returns
    the number used."""
    number: int = np.random.SeedSequence([seed, epoch]).generate_state(1)[0].item()
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)
    return number


def _holders(loader: Any) -> list[Any]:
    """The loader and its samplers, each of which may draw with a generator of its own."""
    batches = getattr(loader, "batch_sampler", None)
    found = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    return [holder for holder in found if holder is not None]


def _length(loader: Any) -> int:
    try:
        length = len(loader)
    except TypeError as error:
        raise ValueError(f"the loader has no length ({error}); give one that has, such as a DataLoader") from error
    if length == 0:
        raise ValueError("the loader gives no batch; with drop_last the batch size must not exceed the samples")
    return length


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
