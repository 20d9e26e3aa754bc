"""What a joint training step costs beside its controls': whole trainings can't be run in turns, their steps can."""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import torch

from ...training.augment import Batches
from ...training.autotune import keep_freed_memory
from ...training.data import Data, load_data
from ...training.fit import train_step
from ...training.task import begin, training_batches
from ..report import FloatArray, interleaved
from .jobs import Job
from .step import optimizer_for, torch_threads

Tell = Callable[[str, int, int], None]
STEPS = 30


def measure_steps(
    jobs: Sequence[Job], data: str, steps: int = STEPS, tell: Tell = lambda what, done, total: None
) -> dict[str, FloatArray]:
    """(steps,) milliseconds of one training step of every job, by name, in turns.

    On networks as their trainings begin, by the recipe and on as many threads, each with batches of its own, which are
    made within the step. All trainings have as many steps, so the ratio of two means is that of the trainings.
    """
    keep_freed_memory()
    task = jobs[0].task
    images = load_data(data, size=task.size, calibration=task.holdout)
    with torch_threads(jobs[0].threads):
        tasks = {job.name: _step(job, images) for job in jobs}
        times = interleaved(tasks, steps, tell=lambda done, total: tell("timing training steps", done, total))
    return {name: taken[:, 0] for name, taken in times.items()}


def _step(job: Job, images: Data) -> Callable[[], object]:
    net, about = begin(job.task, images)
    options, layout = job.options, torch.channels_last if job.options.channels_last else torch.contiguous_format
    net.train().to(memory_format=layout)  # type: ignore[call-overload]
    loader = _endless(training_batches(about, images, options.seed))
    optimizer, rng = optimizer_for(net, options), random.Random(0)

    def step() -> None:
        x, y = next(loader)
        train_step(net, optimizer, x.contiguous(memory_format=layout), y, options, rng, bool(options.autocast))

    return step


def _endless(loader: Batches) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for epoch in count():
        loader.set_epoch(epoch)
        yield from loader
