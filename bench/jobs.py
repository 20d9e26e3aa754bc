"""Trainings in processes of their own, and what they leave on disk: cut off and gone on with at any moment."""

import importlib.metadata
import json
import multiprocessing
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..runtime.errors import StrettoError
from .report import machine, write_json

if TYPE_CHECKING:
    from ..training.fit import FitOptions
    from ..training.task import TrainTask


Item = Any  # what is to be done; has a name
Send = Callable[[Any], None]
Work = Callable[[Item, Send], None]
Record = dict[str, Any]


class JobError(StrettoError):
    """A training can't go on; names it, and what happened or what to do."""


class JobFiles:
    """Where a job leaves what: files in its folder, called after it."""

    __slots__ = ()
    name: str
    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.pt"

    @property
    def bundle(self) -> Path:
        return self.folder / f"{self.name}.stretto"

    @property
    def record(self) -> Path:
        """The settings, and once the job is over, what came of it."""
        return self.folder / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """What the job's process wrote on its standard output and error."""
        return self.folder / f"{self.name}.log"


class Unfinished(Protocol):
    """What may have a result already."""

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def folder(self) -> Path:
        """Where its files are."""

    def result(self) -> Record | None:
        """What came of it; None where it isn't over."""


def plain_settings(task: "TrainTask", options: "FitOptions") -> tuple[Record, Record]:
    """Task and options as JSON has them; of paths only the names, as files may be moved."""
    named = {key: path and Path(path).name for key, path in (("data", task.data), ("weights", task.weights))}
    of_task, of_options = json.loads(json.dumps([asdict(task) | named, asdict(options)]))
    return of_task, of_options


def write_record(path: Path, settings: Record, **content: Any) -> None:
    """A training's settings, where and with which stretto they were used, and what came of it."""
    made = {"settings": settings, "machine": machine(), "stretto": importlib.metadata.version("stretto")}
    write_json(path, made | content)


def read_record(path: Path, *keys: str) -> Record | None:
    """A record, with its settings and at least those keys; None where there is none.

    Raises:
        JobError: it can't be read, or is no such record.
    """
    if not path.exists():
        return None
    try:
        record: Record = json.loads(path.read_text())
        for key in ("settings", *keys):
            record[key]
        _flat(record["settings"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise JobError(
            f"{path}: no record of a training ({error!r}); delete it, the training goes on from its checkpoint"
        ) from error
    return record


def check_settings(path: Path, ours: Record, theirs: Record) -> None:
    """Refuses a record of other settings.

    Raises:
        JobError: what differs.
    """
    here, there = _flat(ours), _flat(theirs)
    differing = [f"{key} is {there.get(key)!r} there, {here.get(key)!r} here"
                 for key in here | there if there.get(key) != here.get(key)]  # fmt: skip
    if differing:
        raise JobError(f"{path}: of another training: {'; '.join(differing)}; use another --folder")


def remove_leftovers(checkpoint: Path) -> None:
    """Removes what processes left that were ended while they wrote that checkpoint."""
    for left in checkpoint.parent.glob(f".{checkpoint.name}.*"):
        left.unlink()


def do_all(queues: Sequence[deque[Item]], work: Work, on_message: Callable[[Item, Any], None]) -> None:
    """One process a queue, which does the queue's items in turn; a queue given twice has two processes.

    What `work` sends comes to `on_message`. Whatever is running when this is left, by an error, Ctrl-C or SIGTERM,
    is ended; if this process is killed outright, the others end with their next message.

    Raises:
        JobError: an item failed, or its process ended; names it.
    """
    crew: dict[Connection, _Worker] = {}
    with _left_on_sigterm():
        try:
            for queue in filter(None, queues):
                worker = _Worker(work, queue)
                crew[worker.pipe] = worker
                worker.next()
            while crew:
                for pipe in cast(list[Connection], wait(list(crew))):
                    if crew[pipe].listen(on_message) and not crew[pipe].next():
                        crew.pop(pipe).end()
        finally:
            for worker in crew.values():
                worker.end()


def do_missing(
    items: Sequence[Unfinished],
    work: Work,
    workers: int,
    sizes: Mapping[str, float],
    told: tuple[str, str],
    tell: Callable[[str, int, int], None],
) -> None:
    """Does what has no result yet, in that order, `workers` at a time, as `do_all` does; `work` sends the share done.

    `sizes`: how much each item is, by name; `told`: what items are called, and what sizes count, of both of which
    `tell` is told how much is done.

    Raises:
        JobError: an item failed, or there is a result by other settings, before anything is started.
        ValueError: no workers.
    """
    if workers < 1:
        raise ValueError(f"workers {workers}: must be 1 or more")
    todo = deque(item for item in items if item.result() is None)
    shares, whole = {item.name: 0.0 for item in todo}, sum(sizes[item.name] for item in todo)

    def on_share(item: Unfinished, share: float) -> None:
        shares[item.name] = share
        tell(told[0], sum(share == 1 for share in shares.values()), len(shares))
        tell(told[1], round(sum(share * sizes[name] for name, share in shares.items())), round(whole))

    for item in todo:
        item.folder.mkdir(parents=True, exist_ok=True)
    do_all([todo] * min(workers, len(todo)), work, on_share)


class _Worker:
    """A process, and the item that it is at."""

    def __init__(self, work: Work, queue: deque[Item]) -> None:
        context = multiprocessing.get_context("spawn")  # torch's threads don't survive a fork
        self.pipe, theirs = context.Pipe()
        self._queue = queue
        self._process = context.Process(target=_serve, args=(work, theirs), daemon=True)
        self._process.start()
        theirs.close()  # so that the pipe ends when the process does

    def next(self) -> bool:
        """Hands over the queue's next item; whether there is one."""
        if self._queue:
            self._item = self._queue.popleft()
            with suppress(BrokenPipeError):  # of a process that has ended, which `listen` finds
                self.pipe.send(self._item)
            return True
        return False

    def listen(self, on_message: Callable[[Item, Any], None]) -> bool:
        """Takes one message; whether it says that the item is over."""
        name = self._item.name
        try:
            kind, content = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise JobError(
                f"{name}: its process ended with exit code {self._process.exitcode}; if memory was short take fewer "
                "--workers, and start again: what is done is kept"
            ) from None
        if kind == "failed":
            raise JobError(f"{name}: {content}")
        if kind == "told":
            on_message(self._item, content)
        return bool(kind == "over")

    def end(self) -> None:
        self._process.terminate()
        self._process.join()
        self.pipe.close()


def _serve(work: Work, pipe: Connection) -> None:
    """What a process does: one item after another, until nobody listens any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its processes
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            _do(work, pipe.recv(), pipe)


def _do(work: Work, item: Item, pipe: Connection) -> None:
    try:
        work(item, lambda message: pipe.send(("told", message)))
        pipe.send(("over", None))
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        traceback.print_exc()  # first, as the parent ends this process on being told
        pipe.send(("failed", f"{type(error).__name__}: {error}"))


@contextmanager
def _left_on_sigterm() -> Iterator[None]:
    """Lets SIGTERM leave the block as an error does; by default it ends a process without a last word to its own.

    Unlike SIGINT it isn't ignored in what a shell started in the background.
    """
    if threading.current_thread() is not threading.main_thread():  # only there signals can be handled
        yield
        return
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _flat(settings: Record, before: str = "") -> Record:
    """Nested settings with their places as names, such as options.loss.sandwich."""
    flat: Record = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
    return flat
