"""Short trainings, each on one thread, a few processes side by side; cut off and gone on with at any moment."""

import json
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

from ..runtime.errors import StrettoError
from ..training.data import Data, load_data
from ..training.fit import FitOptions, Progress
from ..training.task import TrainTask, run_training
from .report import machine, write_json

Tell = Callable[[str, int, int], None]


class RunError(StrettoError):
    """A training can't go on; names it, and what happened or what to do."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training. `expected_s`: about how long it takes; only the time left is told by it."""

    name: str
    task: TrainTask
    options: FitOptions
    folder: Path
    expected_s: float

    @property
    def record(self) -> Path:
        """What came of it, once it is over."""
        return self.folder / f"{self.name}.json"

    @property
    def checkpoint(self) -> Path:
        """Where it stands until then."""
        return self.folder / f"{self.name}.pt"

    def settings(self) -> dict[str, Any]:
        """All that the training depends on, as JSON has it; of paths only the names, as files may be moved."""
        task = asdict(self.task)
        named = {key: task[key] and Path(task[key]).name for key in ("data", "weights")}
        settings: dict[str, Any] = json.loads(json.dumps(task | named | asdict(self.options)))
        return settings

    def result(self) -> dict[str, Any] | None:
        """`points` and `history` as `run_training` gives them, training `seconds`, `machine`; None before the end.

        Raises:
            RunError: the record is of other settings, or can't be read.
        """
        if not self.record.exists():
            return None
        try:
            result: dict[str, Any] = json.loads(self.record.read_text())
            theirs = result["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.record}: no record of a training ({error!r}); delete it") from error
        ours = self.settings()
        differing = [f"{k} is {theirs.get(k)!r} there, {v!r} here" for k, v in ours.items() if theirs.get(k) != v]
        if differing:
            raise RunError(f"{self.record}: of another training: {'; '.join(differing)}; use another --folder")
        return result

    def train(self, data: Data, tell: Callable[[float], None]) -> None:
        """Trains and writes the record; `tell` gets the share of the batches done, in (0, 1]."""

        def progress(now: Progress) -> None:
            tell(((now.epoch - 1) * now.batches + now.batch) / (now.epochs * now.batches))

        report = run_training(self.task, self.options, self.checkpoint, progress, data=data)
        seconds = sum(epoch["seconds"] for epoch in report["history"])
        write_json(self.record, {"settings": self.settings(), "machine": machine(), "seconds": seconds, **report})
        self.checkpoint.unlink()


def run_all(runs: Sequence[Run], workers: int, tell: Tell) -> None:
    """Trains what has no result yet, in that order, `workers` at a time.

    Whatever is running when this is left, by an error or Ctrl-C, is ended; the next call goes on from its last epoch.
    `tell`: of "runs" how many are over, of the "expected s" of all how many are done.

    Raises:
        RunError: a training failed, or there is a result by other settings, before anything is started.
        ValueError: no workers.
    """
    if workers < 1:
        raise ValueError(f"workers {workers}: must be 1 or more")
    todo = deque(run for run in runs if run.result() is None)
    for run in todo:
        run.folder.mkdir(parents=True, exist_ok=True)
    crew = [_Worker() for _ in range(min(workers, len(todo)))]
    try:
        _hand_out(todo, crew, tell)
    finally:
        for worker in crew:
            worker.process.terminate()
            worker.process.join()


def _hand_out(todo: deque[Run], crew: list["_Worker"], tell: Tell) -> None:
    """Gives every worker a run, and the next one whenever it is done with one."""
    count, total_s, over, over_s = len(todo), sum(run.expected_s for run in todo), 0, 0.0
    busy = {worker.pipe: worker for worker in crew}
    for worker in crew:
        worker.give(todo.popleft())
    while busy:
        for pipe in cast(list[Connection], wait(list(busy))):
            worker = busy[pipe]
            if worker.listen():
                over, over_s = over + 1, over_s + worker.expected_s
                if todo:
                    worker.give(todo.popleft())
                else:
                    del busy[pipe]
        doing_s = sum(worker.share * worker.expected_s for worker in busy.values())
        tell("runs", over, count)
        tell("expected s", round(over_s + doing_s), round(total_s))


class _Worker:
    """A process that does one run after another, what it is at and what share of that is done."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # torch's threads don't survive a fork
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends when the process does
        self.name, self.expected_s, self.share = "", 0.0, 0.0

    def give(self, run: Run) -> None:
        self.name, self.expected_s, self.share = run.name, run.expected_s, 0.0
        self.pipe.send(run)

    def listen(self) -> bool:
        """Takes one message; whether it says that the run is over."""
        try:
            said = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise RunError(
                f"{self.name}: its process ended with exit code {self.process.exitcode}; if memory was short take "
                "fewer --workers, and start again: what is done is kept"
            ) from None
        if isinstance(said, str):
            raise RunError(f"{self.name}: {said}")
        self.share = 1.0 if said is None else said
        return said is None


def _work(pipe: Connection) -> None:
    """What a worker's process does: reads each data set once. It ends when nobody listens any more."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its workers
    torch.set_num_threads(1)
    kept: dict[tuple[Any, ...], Data] = {}
    try:
        while True:
            _train(pipe.recv(), kept, pipe)
    except (EOFError, BrokenPipeError):
        return


def _train(run: Run, kept: dict[tuple[Any, ...], Data], pipe: Connection) -> None:
    """One run; tells shares of it, at its end None, of an error its text."""
    task = run.task
    source = (task.data, task.size, task.holdout)
    try:
        if source not in kept:
            kept[source] = load_data(task.data, size=task.size, calibration=task.holdout)
        run.train(kept[source], pipe.send)
        pipe.send(None)
    except BrokenPipeError:
        raise
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        raise
