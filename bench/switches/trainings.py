"""Short trainings, each on one thread, a few processes side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...training.data import Data, load_data
from ...training.fit import FitOptions, Progress
from ...training.task import TrainTask, run_training
from ..jobs import (
    JobFiles,
    Record,
    check_settings,
    do_missing,
    plain_settings,
    read_record,
    remove_leftovers,
    write_record,
)

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Run(JobFiles):
    """One training. `expected_s`: about how long it takes; only the time left is told by it."""

    name: str
    task: TrainTask
    options: FitOptions
    folder: Path
    expected_s: float

    def settings(self) -> Record:
        """All that the training depends on, as `plain_settings` has it."""
        task, options = plain_settings(self.task, self.options)
        return task | options

    def result(self) -> Record | None:
        """`points` and `history` as `run_training` gives them, training `seconds`, `machine`; None before the end.

        Raises:
            JobError: the record is of other settings, or can't be read.
        """
        record = read_record(self.record, "points", "seconds", "machine")
        if record is not None:
            check_settings(self.record, self.settings(), record["settings"])
        return record

    def train(self, data: Data, tell: Callable[[float], None]) -> None:
        """Trains and writes the record; `tell` gets the share of the batches done, in (0, 1]."""

        def progress(now: Progress) -> None:
            tell(((now.epoch - 1) * now.batches + now.batch) / (now.epochs * now.batches))

        remove_leftovers(self.checkpoint)
        report = run_training(self.task, self.options, self.checkpoint, progress, data=data)
        seconds = sum(epoch["seconds"] for epoch in report["history"])
        write_record(self.record, self.settings(), seconds=seconds, **report)
        self.checkpoint.unlink()


def run_all(runs: Sequence[Run], workers: int, tell: Tell) -> None:
    """Trains what has no result yet, as `do_missing` does; `tell`: of "runs" and of the "expected s" of all."""
    expected_s = {run.name: run.expected_s for run in runs}
    do_missing(runs, _train, workers, expected_s, ("runs", "expected s"), tell)


def _train(run: Run, send: Callable[[Any], None]) -> None:
    """What a process does with a run."""
    import torch

    torch.set_num_threads(1)
    run.train(_data(run.task.data, run.task.size, run.task.holdout), send)


@cache
def _data(path: str, size: int | None, holdout: float) -> Data:
    """Data that a process reads once."""
    return load_data(path, size=size, calibration=holdout)
