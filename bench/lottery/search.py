"""One search for lottery tickets: a network trained, pruned, rewound, round after round, its shapes trained otherwise.

Every training keeps a checkpoint until the search is over, so that one that was cut off goes on where it was.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...training.checkpoint import load_checkpoint
from ...training.data import Data, load_data
from ...training.fit import FitOptions, Progress, fit
from ...training.limits import Limits
from ...training.supernet import Supernet
from ...training.task import EVALUATION_BATCH, TrainTask, batches, begin, point_accuracies, training_batches
from ..jobs import Record, check_settings, do_missing, plain_settings, read_record, write_record
from .shapes import KINDS, NEURON_IMPORTANCE, Shape, next_shape, share_left
from .variants import TICKET, VARIANTS, Origin, Variant

Tell = Callable[[str, int, int], None]
SCORED = 1024  # training images, by which neurons are scored where their importance needs any


@dataclass(frozen=True, slots=True)
class Search:
    """One kind of pruning at one learning rate with one seed, which draws the first numbers.

    options: of every training; its seed is that of the search. share: of the weights left that a round removes.
    compared: the rounds whose shapes are trained from other numbers too.
    """

    name: str
    kind: str
    task: TrainTask
    options: FitOptions
    folder: Path
    rounds: int
    share: float
    compared: tuple[int, ...]

    @property
    def record(self) -> Path:
        """What came of it, once it is over."""
        return self.folder / f"{self.name}.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of its trainings until then."""
        return self.folder / self.name

    @property
    def epochs(self) -> int:
        """Of all its trainings together."""
        plan = (VARIANTS[variant].epochs for number in range(self.rounds + 1) for variant in self.variants(number))
        return self.options.epochs * sum(plan)

    def variants(self, number: int) -> list[str]:
        """What the shape of a round begins with, the ticket first; the whole network only with its own numbers."""
        return [name for name, variant in VARIANTS.items() if variant.every or number in self.compared]

    def settings(self) -> Record:
        """All that the search depends on, plain."""
        task, options = plain_settings(self.task, self.options)
        own = {"kind": self.kind, "rounds": self.rounds, "share": self.share, "compared": list(self.compared)}
        factors = {name: variant.epochs for name, variant in VARIANTS.items()}
        return task | options | own | {"importance": NEURON_IMPORTANCE, "epoch_factors": factors}

    def result(self) -> Record | None:
        """`found` as `_Searching.all` gives it, how many `classes`, training `seconds`, `machine`; None before the end.

        Raises:
            JobError: the record is of other settings, or can't be read.
        """
        record = read_record(self.record, "found", "classes", "seconds", "machine")
        if record is not None:
            check_settings(self.record, self.settings(), record["settings"])
        return record

    def run(self, data: Data, tell: Callable[[float], None]) -> None:
        """Searches and writes the record; `tell` gets the share of the epochs done, in (0, 1]."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        found, seconds = _Searching(self, data, tell).all()
        write_record(self.record, self.settings(), found=found, classes=len(data.classes), seconds=seconds)
        shutil.rmtree(self.checkpoints)
        tell(1.0)


class _Searching:
    """A search under way."""

    def __init__(self, search: Search, data: Data, tell: Callable[[float], None]) -> None:
        self._search, self._data, self._tell = search, data, tell
        torch.manual_seed(search.options.seed)
        self._initial, self._about = begin(search.task, data)
        self._kind, self._settings = KINDS[search.kind], search.settings()
        self._done, self._seconds = 0, 0.0

    def all(self) -> tuple[list[Record], float]:
        """What every round's shape came to from each start, and the trainings' seconds.

        A finding has `round`, `variant`, `left` (share of the whole's weights), and the accuracies `test` and
        `calibration`.
        """
        search, shape, found = self._search, self._kind.whole(self._initial), []
        for number in range(search.rounds + 1):
            nets = {variant: self._trained(number, variant, shape) for variant in search.variants(number)}
            found += [self._finding(number, variant, *pair) for variant, pair in nets.items()]
            if number < search.rounds:
                scored = self._batches("train", SCORED)
                shape = next_shape(self._kind, nets[TICKET][0], shape, number + 1, search.share, scored)
        return found, self._seconds

    def _trained(self, number: int, name: str, shape: Shape) -> tuple[Supernet, Limits]:
        variant, seed = VARIANTS[name], self._search.options.seed
        net, limits = variant.start(Origin(self._kind, self._initial, shape, number, seed))
        if variant.epochs:
            self._fit(net, limits, number, name, variant)
        return net.eval(), limits

    def _fit(self, net: Supernet, limits: Limits, number: int, name: str, variant: Variant) -> None:
        """Trains; the order of the images is the round's own, so that a ticket wins by no order that it was found in,
        and shared by all variants of the round."""
        options, path = self._search.options, self._search.checkpoints / f"{number}_{name}.pt"
        order = int(np.random.SeedSequence([options.seed, number, 0]).generate_state(1)[0])
        options = replace(options, epochs=options.epochs * variant.epochs, seed=order)
        if path.exists():
            check_settings(path, self._settings, load_checkpoint(path)["about"])
        loader = training_batches(self._about, self._data, order)
        history = fit(
            net, loader, options, checkpoint=path, on_progress=self._progress, about=self._settings, limits=limits
        )
        self._done += options.epochs
        self._seconds += sum(epoch["seconds"] for epoch in history)

    def _progress(self, now: Progress) -> None:
        """Once an epoch; of what is left to tell the end of the search is the last."""
        if now.batch == now.batches:
            self._tell(min((self._done + now.epoch) / self._search.epochs, math.nextafter(1, 0)))

    def _finding(self, number: int, variant: str, net: Supernet, limits: Limits) -> Record:
        accuracies = {split: self._accuracy(net, split) for split in ("test", "calibration")}
        left = share_left(net, limits, self._initial)
        return {"round": number, "variant": variant, "left": left} | accuracies

    def _accuracy(self, net: Supernet, split: str) -> float:
        (point,) = point_accuracies(net, self._batches(split))
        return float(point["accuracy"])

    def _batches(self, split: str, most: int | None = None) -> Any:
        data = self._data
        if most is not None and most < len(data.split(split)):
            some = data.split(split).parted(1 - most / len(data.split(split)))[0]
            data = replace(data, splits={**data.splits, split: some})
        return batches(data, split, EVALUATION_BATCH, self._about["data"])


def search_all(searches: Sequence[Search], workers: int, tell: Tell) -> None:
    """Does what has no result yet, as `do_missing` does; `tell`: of "searches" and of the "epochs" of all."""
    epochs = {search.name: search.epochs for search in searches}
    do_missing(searches, _search, workers, epochs, ("searches", "epochs"), tell)


def _search(search: Search, send: Callable[[Any], None]) -> None:
    """What a process does with a search."""
    torch.set_num_threads(1)
    search.run(_data(search.task.data, search.task.holdout), send)


@cache
def _data(path: str, holdout: float) -> Data:
    """Data that a process reads once."""
    return load_data(path, calibration=holdout)
