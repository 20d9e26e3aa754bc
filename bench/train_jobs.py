"""A supernet's training and its controls', each in a process of its own, cut off and gone on with at any moment."""

import json
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from ..runtime.bundle import Bundle
from ..runtime.errors import StrettoError
from ..training.fit import FitOptions, Progress
from ..training.task import TrainTask, export_checkpoint, run_training
from .references import Reference
from .report import write_json

SUPERNET = "supernet"
Message = Progress | tuple[str, int, int]  # of training; or what else is being done, how much of it, of how much


class JobError(StrettoError):
    """A training can't go on; names the job, and what happened or what to do."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training and its bundle. `width`: of a control, None for the supernet; `threads`: of torch."""

    name: str
    width: float | None
    task: TrainTask
    options: FitOptions
    splits: tuple[str, ...]
    weights: str
    folder: Path
    threads: int

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.pt"

    @property
    def bundle(self) -> Path:
        return self.folder / f"{self.name}.stretto"

    @property
    def log(self) -> Path:
        """What the job's process wrote on its standard output and error."""
        return self.folder / f"{self.name}.log"

    @property
    def record(self) -> Path:
        """The settings, and once training is over, its history."""
        return self.folder / f"{self.name}.json"

    def settings(self) -> dict[str, Any]:
        """All that the training depends on, as JSON has it; of paths only the names, as files may be moved."""
        task = asdict(self.task)
        named = {key: task[key] and Path(task[key]).name for key in ("data", "weights")}
        settings = {"task": task | named, "options": asdict(self.options), "threads": self.threads}
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain

    def history(self) -> list[dict[str, float]] | None:
        """Every epoch of a training that is over; None while it isn't."""
        history: list[dict[str, float]] | None = _read(self.record)["history"] if self.record.exists() else None
        return history

    def keep(self, history: list[dict[str, float]] | None) -> None:
        """Writes the record."""
        write_json(self.record, {"settings": self.settings(), "history": history})

    def exported(self) -> bool:
        """Whether the bundle is of this checkpoint and stored as asked."""
        if not self.bundle.exists() or self.bundle.stat().st_mtime < self.checkpoint.stat().st_mtime:
            return False
        said = Bundle.open(self.bundle).manifest.provenance
        return (said["weights"], said["splits"]) == (self.weights, list(self.splits))

    def begin(self) -> None:
        """Makes folder and record.

        Raises:
            JobError: there is a training in the folder already, by other settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.record.exists():
            self.keep(None)
            return
        ours, theirs = _flat(self.settings()), _flat(_read(self.record)["settings"])
        differing = [f"{k} is {theirs.get(k)!r} there, {ours.get(k)!r} here" for k in ours | theirs
                     if theirs.get(k) != ours.get(k)]  # fmt: skip
        if differing:
            raise JobError(f"{self.record}: of another training: {'; '.join(differing)}; use another --folder")


def make_jobs(reference: Reference, data: str, folder: Path, threads: int) -> list[Job]:
    """The supernet's job and one for each width's control, the widest first, since it tells most about the recipe."""
    task, options = reference.on(data), reference.options
    rest = (reference.splits, reference.weights, folder / reference.name, threads)
    of_one = replace(options, loss=options.loss.of_one())
    controls = [
        Job(f"width-{width:g}", width, replace(task, alone=width), of_one, *rest)
        for width in sorted(reference.task.widths, reverse=True)
    ]
    return [Job(SUPERNET, None, task, options, *rest), *controls]


def run_jobs(lanes: Sequence[Sequence[Job]], on_message: Callable[[Job, Message], None]) -> None:
    """Lanes side by side, the jobs of one lane after the other; what is done already is skipped.

    Whatever is running when this is left, by an error or Ctrl-C, is ended; the next call goes on from its last epoch.

    Raises:
        JobError: a job's process failed, or its folder has the training of other settings.
    """
    for job in (job for lane in lanes for job in lane):
        job.begin()
    running: dict[Connection, _Running] = {}
    try:
        for lane in lanes:
            _start_next(deque(lane), running)
        while running:
            for pipe in wait(list(running)):
                _listen(cast(Connection, pipe), running, on_message)
    finally:
        for one in running.values():
            one.process.terminate()
            one.process.join()


@dataclass(frozen=True, slots=True)
class _Running:
    job: Job
    process: BaseProcess
    after: deque[Job]


def _start_next(lane: deque[Job], running: dict[Connection, _Running]) -> None:
    """Starts the first job of a lane that there is something to do in."""
    while lane:
        job = lane.popleft()
        if job.history() is None or not job.exported():
            context = multiprocessing.get_context("spawn")  # torch's threads don't survive a fork
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(job, theirs), name=job.name, daemon=True)
            process.start()
            theirs.close()  # so that the pipe ends when the process does
            running[ours] = _Running(job, process, lane)
            return


def _listen(pipe: Connection, running: dict[Connection, _Running], on_message: Callable[[Job, Message], None]) -> None:
    """Passes on what a process told, or starts the next one where it ended."""
    try:
        on_message(running[pipe].job, pipe.recv())
    except EOFError:
        one = running.pop(pipe)
        one.process.join()
        if one.process.exitcode:
            raise JobError(
                f"{one.job.name} failed with exit code {one.process.exitcode}; {one.job.log} says why"
            ) from None
        _start_next(one.after, running)


def _work(job: Job, pipe: Connection) -> None:
    """What a job's process does. If nobody listens any more, the next message ends it."""
    import torch

    with job.log.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(job.threads)

    def tell(what: str, done: int, total: int) -> None:
        pipe.send((what, done, total))

    if job.history() is None:
        job.keep(run_training(job.task, job.options, job.checkpoint, pipe.send, tell)["history"])
    export_checkpoint(
        job.checkpoint, job.bundle, job.task.data, weights=job.weights, splits=job.splits, tell=tell
    )  # fmt: skip


class JobBars:
    """A bar for every job, and a line an epoch that stays."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description:<10}"), BarColumn(), TextColumn("{task.fields[doing]}"))
        self._bar = Bar(*columns, console=console, transient=True)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "JobBars":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def show(self, job: Job, message: Message) -> None:
        if isinstance(message, Progress):
            doing = _line(message)
            done, total = (message.epoch - 1) * message.batches + message.batch, message.epochs * message.batches
        else:
            doing, done, total = message
        if job.name not in self._tasks:
            self._tasks[job.name] = self._bar.add_task(job.name, doing=doing)
        self._bar.update(self._tasks[job.name], completed=done, total=total, doing=doing)
        if isinstance(message, Progress) and message.batch == message.batches:
            self._bar.console.print(f"{job.name}  {doing}", highlight=False)


def _line(now: Progress) -> str:
    left = f"{now.left_s // 60:.0f}:{now.left_s % 60:02.0f} left"
    return f"epoch {now.epoch}/{now.epochs}  loss {now.loss:.3f}  accuracy {now.accuracy:.2%}  {left}"


def _read(record: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(record.read_text())
    except ValueError as error:
        raise JobError(f"{record}: can't be read ({error}); delete it, training goes on from its checkpoint") from error
    return content


def _flat(settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings with their places as names, such as options.loss.sandwich."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
    return flat
