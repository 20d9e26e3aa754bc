"""How far trainings are that run side by side."""

from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from ..training.fit import Progress

Message = Progress | tuple[str, int, int]  # of training; or what else is being done, how much of it, of how much


class Named(Protocol):
    """Whatever has a name."""

    @property
    def name(self) -> str:
        """What to call it."""


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

    def show(self, job: Named, message: Message) -> None:
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
