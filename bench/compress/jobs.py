"""Trainings and compressions that the benchmark compares, each in a process of its own, cut off and gone on with."""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.bundle import Bundle
from ...runtime.files import replacing
from ...training.fit import FitOptions
from ...training.task import TrainTask
from ..jobs import JobError, JobFiles, Record, Send, check_settings, do_all, plain_settings, read_record, write_record

RECIPES = Path(__file__).parent / "recipes"
Table = dict[str, Any]  # as TOML has it


@dataclass(frozen=True, slots=True)
class Training:
    """A network that is trained, supernet or plain."""

    task: TrainTask
    options: FitOptions

    needs = ()

    @property
    def epochs(self) -> int:
        return self.options.epochs

    def settings(self) -> Record:
        task, options = plain_settings(self.task, self.options)
        return {"task": task, "options": options}


@dataclass(frozen=True, slots=True)
class Compression:
    """A recipe of `RECIPES`, by name, on what another job made.

    changes: by number of the pass, from 1, options instead of the recipe's; 0 is [tune]. only: numbers of the passes to
    run alone. teachers: jobs whose checkpoints the recipe names.
    """

    source: str
    recipe: str
    changes: Mapping[int, Table] = field(default_factory=dict)
    only: tuple[int, ...] = ()
    teachers: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.source, *self.teachers)

    def content(self) -> Table:
        """The recipe as it is run."""
        import tomllib

        said = tomllib.loads((RECIPES / f"{self.recipe}.toml").read_text())
        passes = [stage | dict(self.changes.get(n, {})) for n, stage in enumerate(said["pass"], start=1)]
        kept = [stage for n, stage in enumerate(passes, start=1) if not self.only or n in self.only]
        return {"tune": said.get("tune", {}) | dict(self.changes.get(0, {})), "pass": kept}

    @property
    def epochs(self) -> int:
        """Of all its fine-tuning."""
        said = self.content()
        stages = [said["tune"] | stage for stage in said["pass"]]
        return sum(stage.get("epochs", 0) * stage.get("steps", 1) for stage in stages)

    def settings(self) -> Record:
        return {"source": self.source, "recipe": self.content()}


@dataclass(frozen=True, slots=True)
class Scratch:
    """New random numbers in the shape that another job left, trained by these options: the control of pruning (Liu et
    al., Rethinking the Value of Network Pruning, ICLR 2019)."""

    shape: str
    options: FitOptions

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.shape,)

    @property
    def epochs(self) -> int:
        return self.options.epochs

    def settings(self) -> Record:
        return {"shape": self.shape, "options": json.loads(json.dumps(asdict(self.options)))}


@dataclass(frozen=True, slots=True)
class Job(JobFiles):
    """`coded`: whether the bundle is; `precisions` it is exported in; `splits`: the test."""

    name: str
    work: Training | Compression | Scratch
    data: str
    folder: Path
    coded: bool = False
    precisions: tuple[str, ...] = ("fp32",)
    splits: tuple[str, ...] = ("test",)

    @property
    def answers(self) -> Path:
        """Whether each test sample is answered rightly, at every point."""
        return self.folder / f"{self.name}.npz"

    def settings(self) -> Record:
        about = {"coded": self.coded, "precisions": list(self.precisions), "splits": list(self.splits)}
        return {"data": Path(self.data).name, **about, **self.work.settings()}

    def done(self) -> bool:
        """Whether nothing is left to do.

        Raises:
            JobError: the folder has this job by other settings.
        """
        record = read_record(self.record, "seconds")
        if record is not None:
            check_settings(self.record, self.settings(), record["settings"])
        return record is not None and self.bundle.exists() and self.answers.exists()


@dataclass(frozen=True, slots=True)
class Made:
    """What a job left."""

    job: Job
    bundle: Bundle
    right: dict[tuple[float, int, str], NDArray[np.bool_]]  # (samples,) by width, depth, precision
    report: Record

    @property
    def size(self) -> int:
        """The file's, in bytes."""
        return self.job.bundle.stat().st_size

    def accuracy(self, width: float = 1.0, precision: str = "fp32") -> float:
        """Of a width's final exit, on the test."""
        return float(self.final(width, precision).mean())

    def final(self, width: float = 1.0, precision: str = "fp32") -> NDArray[np.bool_]:
        """(samples,) of a width's final exit."""
        return self.right[width, self.bundle.manifest.depths, precision]


def read_made(job: Job) -> Made:
    """What a job left.

    Raises:
        JobError: it isn't done.
    """
    if not job.done():
        raise JobError(f"{job.folder}: {job.name} isn't done yet; leave out --report-only")
    with np.load(job.answers, allow_pickle=False) as kept:
        right = {_point(name): kept[name] for name in kept.files}
    record = read_record(job.record, "report")
    return Made(job, Bundle.open(job.bundle), right, record["report"] if record else {})


def run_jobs(jobs: Sequence[Job], workers: int, on_message: Callable[[Job, Any], None]) -> None:
    """Does what isn't done yet, each job once what it needs is there; `workers` side by side, a thread each.

    Raises:
        JobError: a job failed, or the folder has one by other settings.
        ValueError: no workers, or a job needs one that isn't there.
    """
    if workers < 1:
        raise ValueError(f"workers {workers}: must be 1 or more")
    for wave in waves(jobs):
        queue = deque(job for job in wave if not job.done())
        for job in queue:
            job.folder.mkdir(parents=True, exist_ok=True)
        do_all([queue] * min(workers, max(1, len(queue))), _work, on_message)


def waves(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Jobs in groups of which each needs only earlier ones.

    Raises:
        ValueError: a job needs one that isn't there.
    """
    left, ready = list(jobs), set[str]()
    while left:
        wave = [job for job in left if ready.issuperset(job.work.needs)]
        if not wave:
            raise ValueError(f"{left[0].name} needs {left[0].work.needs}, of which there are only {sorted(ready)}")
        yield wave
        ready |= {job.name for job in wave}
        left = [job for job in left if job.name not in ready]


def _work(job: Job, send: Send) -> None:
    """What a process does with a job."""
    import time

    import torch

    with job.log.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    started = time.monotonic()
    report = _make(job, send)
    _export(job, send)
    write_record(job.record, job.settings(), seconds=time.monotonic() - started, report=report)


def _make(job: Job, send: Send) -> Record:
    """The checkpoint; goes on from what is there."""
    from ...training.compress.recipe import make_recipe
    from ...training.compress.run import compress
    from ...training.task import run_training

    def tell(what: str, done: int, total: int) -> None:
        send((what, done, total))

    work = job.work
    if isinstance(work, Training):
        return run_training(work.task, work.options, job.checkpoint, send, tell)
    if isinstance(work, Scratch):
        return _from_scratch(work, job, send)
    passes = job.checkpoint.with_suffix(".passes")
    kept = read_record(passes, "passes")
    if job.checkpoint.exists() and kept is not None:  # cut off while it was exported
        check_settings(passes, job.settings(), kept["settings"])
        return {"passes": kept["passes"]}
    if not job.checkpoint.with_name(f"{job.checkpoint.name}.work").exists():  # of which it may be the result
        job.checkpoint.unlink(missing_ok=True)
    stages = make_recipe(work.content(), work.recipe, job.folder)
    source = job.folder / f"{work.source}.pt"
    found = compress(
        source, stages, job.data, job.checkpoint, cache=job.folder / "teachers", tell=tell, on_progress=send
    )
    write_record(passes, job.settings(), passes=found["passes"])
    return found


def _from_scratch(work: Scratch, job: Job, send: Send) -> Record:
    from ...training.compress.subject import open_subject
    from ...training.fit import fit, seed_everything
    from ...training.task import training_batches

    subject = open_subject(job.folder / f"{work.shape}.pt", job.data)
    seed_everything(work.options.seed, 0)
    renew(subject.net)
    loader = training_batches(subject.about, subject.data, work.options.seed)
    history = fit(
        subject.net, loader, work.options, checkpoint=job.checkpoint, on_progress=send, about=subject.about
    )  # fmt: skip
    return {"history": history}


def renew(net: Any) -> None:
    """New random numbers, as the layers themselves and this project's residual networks begin."""
    from torch import nn

    for layer in net.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def _export(job: Job, send: Send) -> None:
    """The bundle, and what it answers on the test."""
    from ...training.task import export_checkpoint
    from ..evaluate import logits_on, read_splits

    def tell(what: str, done: int, total: int) -> None:
        send((what, done, total))

    bundle = export_checkpoint(
        job.checkpoint, job.bundle, job.data, precisions=job.precisions, splits=job.splits, coded=job.coded, tell=tell
    )  # fmt: skip
    _, pixels, labels = read_splits(bundle, job.data, job.splits, tell)
    logits = logits_on(bundle, pixels, labels)
    right = {f"{p.width} {p.depth} {p.precision}": z.argmax(axis=1) == labels for p, z in logits.items()}
    with replacing(job.answers) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **right)


def _point(name: str) -> tuple[float, int, str]:
    width, depth, precision = name.split()
    return float(width), int(depth), precision
