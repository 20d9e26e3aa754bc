"""A supernet's training and its controls', each with its bundle, cut off and gone on with at any moment."""

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...runtime.bundle import Bundle
from ...training.fit import FitOptions
from ...training.task import TrainTask, export_checkpoint, run_training
from ..job_bars import Message
from ..jobs import (
    JobError,
    JobFiles,
    Record,
    Send,
    check_settings,
    do_all,
    plain_settings,
    read_record,
    remove_leftovers,
    write_record,
)
from ..references import Reference

SUPERNET = "supernet"


@dataclass(frozen=True, slots=True)
class Job(JobFiles):
    """One training and its bundle. `width`: of a control, None for the supernet; `threads`: of torch."""

    name: str
    width: float | None
    task: TrainTask
    options: FitOptions
    splits: tuple[str, ...]
    weights: str
    folder: Path
    threads: int

    def settings(self) -> Record:
        """All that the training depends on, as `plain_settings` has it."""
        task, options = plain_settings(self.task, self.options)
        return {"task": task, "options": options, "threads": self.threads}

    def read(self) -> Record | None:
        """The record, its `history` None while training isn't over; None where there is no record.

        Raises:
            JobError: it can't be read, or is of other settings; of what is trained already, other threads are none.
        """
        record = read_record(self.record, "history")
        if record is not None:
            ours, theirs = self.settings(), record["settings"]
            if record["history"] is not None:
                ours["threads"] = theirs.get("threads")
            check_settings(self.record, ours, theirs)
        return record

    def trained(self) -> bool:
        """Whether its training is over."""
        record = self.read()
        return record is not None and record["history"] is not None

    def exported(self) -> bool:
        """Whether the bundle is of this checkpoint, where that is still there, and stored as asked."""
        if not self.bundle.exists():
            return False
        if self.checkpoint.exists() and self.bundle.stat().st_mtime < self.checkpoint.stat().st_mtime:
            return False
        said = Bundle.open(self.bundle).manifest.provenance
        return (said.get("weights"), said.get("splits")) == (self.weights, list(self.splits))

    def finished(self) -> Record:
        """The record of a job with nothing left to do.

        Raises:
            JobError: it isn't trained to its end, or has no bundle as it is asked for.
        """
        record = self.read()
        if record is None or record["history"] is None or not self.exported():
            raise JobError(f"{self.folder}: {self.name} isn't trained and exported yet; leave out --report-only")
        return record

    def begin(self) -> bool:
        """Makes folder and record; whether there is something to do.

        Raises:
            JobError: there is a training in the folder already, by other settings, or what it left is gone.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.trained():
            remove_leftovers(self.checkpoint)
            self.keep(None)
            return True
        if self.exported():
            return False
        if not self.checkpoint.exists():
            raise JobError(
                f"{self.record}: trained, but {self.checkpoint.name} isn't there to make {self.bundle.name} of, as "
                f"{self.weights} and measured on {', '.join(self.splits)}; put one of the two there, or delete the "
                "record to train again"
            )
        return True

    def keep(self, history: list[dict[str, float]] | None) -> None:
        """Writes the record."""
        write_record(self.record, self.settings(), history=history)


def make_jobs(reference: Reference, data: str, folder: Path, threads: int) -> list[Job]:
    """The supernet's job and one for each width's control, the widest first, since it tells most about the recipe."""
    task, options = reference.on(data), reference.options
    rest = (reference.splits, reference.weights, folder / reference.name, threads)
    # Training leaves these options out itself; here it is for the record, so that a control which is trained needn't
    # be again where the recipe changes in what is between widths or exits alone.
    of_one = replace(options, loss=options.loss.of_one())
    controls = [
        Job(f"width-{width:g}", width, replace(task, alone=width), of_one, *rest)
        for width in sorted(reference.task.widths, reverse=True)
    ]
    return [Job(SUPERNET, None, task, options, *rest), *controls]


def run_jobs(lanes: Sequence[Sequence[Job]], on_message: Callable[[Job, Message], None]) -> None:
    """Lanes side by side, each a process; the jobs of one lane after the other; what is done already is skipped.

    Whatever is running when this is left is ended, as `do_all` does; the next call goes on from its last epoch.

    Raises:
        JobError: a job failed, or its folder has the training of other settings.
    """
    do_all([deque(job for job in lane if job.begin()) for lane in lanes], _work, on_message)


def _work(job: Job, send: Send) -> None:
    """What a lane's process does with a job."""
    import torch

    with job.log.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(job.threads)

    def tell(what: str, done: int, total: int) -> None:
        send((what, done, total))

    if not job.trained():
        job.keep(run_training(job.task, job.options, job.checkpoint, send, tell)["history"])
    export_checkpoint(
        job.checkpoint, job.bundle, job.task.data, weights=job.weights, splits=job.splits, tell=tell
    )  # fmt: skip
