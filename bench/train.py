"""A reference network against its controls, each width trained alone: `stretto bench train NAME --data PATH`."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from .references import Reference
from .report import machine, print_rows, write_json
from .train_jobs import SUPERNET, Job, JobBars, JobError, make_jobs, run_jobs
from .train_picture import draw
from .train_points import MeasuredPoint, measure_points
from .train_report import History, make_rows
from .train_statistics import unbeaten

MODEL_BYTES_MAX = 10_000_000  # of a bundle in the repository
ROUNDS = 40
Tell = Callable[[str, int, int], None]


def train(
    reference: Reference,
    data: str,
    folder: Path,
    workers: int = 2,
    only: str | None = None,
    console: Console | None = None,
) -> list[Job]:
    """Trains and exports what isn't there yet under `folder`/the reference's name; returns the jobs.

    Args:
        workers: 2 trains the supernet beside the controls, each process with half of the cores, so that what disturbs
            the machine disturbs both; 1 trains one after the other with all cores.
        only: name of the one job to run.

    Raises:
        ValueError: `workers` is neither, or there is no such job.
        JobError: a job failed, or the folder has trainings by other settings.
    """
    if workers not in (1, 2):
        raise ValueError(f"workers {workers}: 1 trains one after the other, 2 the supernet beside the controls")
    jobs = make_jobs(reference, data, folder, threads=max(1, machine()["cores"] // workers))
    chosen = [job for job in jobs if only in (None, job.name)]
    if not chosen:
        raise ValueError(f"no job '{only}'; there are {', '.join(job.name for job in jobs)}")
    lanes = [chosen] if workers == 1 else [chosen[:1], chosen[1:]]
    with JobBars(console or Console()) as bars:
        run_jobs(lanes, bars.show)
    return jobs


def report(
    reference: Reference,
    data: str,
    jobs: list[Job],
    json: Path,
    picture: Path,
    tell: Tell = lambda what, done, total: None,
    rounds: int = ROUNDS,
    console: Console | None = None,
) -> dict[str, Any]:
    """Measures what the jobs made, prints a table, writes JSON and a picture."""
    facts = machine()
    points = measure_points(jobs, data, rounds, tell)
    histories = {job.name: _history(job) for job in jobs}
    rows = make_rows(reference, points, histories)
    print_rows(console or Console(), rows, f"bench train {reference.name}: {reference.title}")
    result = {
        "bench": "train",
        "machine": facts,
        "command": f"stretto bench train {reference.name} --data {Path(data).name}",
        "reference": _described(reference, jobs[0]),
        "rows": [row.to_json() for row in rows],
        "jobs": [_job(job, histories[job.name]) for job in jobs],
        "points": _listed(points),
    }
    write_json(json, result)
    draw(result, picture)
    return result


def copy_model(jobs: list[Job], path: Path) -> None:
    """Copies the supernet's bundle to where it is committed.

    Raises:
        JobError: it is too large for that.
    """
    bundle = next(job.bundle for job in jobs if job.name == SUPERNET)
    size = bundle.stat().st_size
    if size > MODEL_BYTES_MAX:
        raise JobError(
            f"{bundle} has {size / 1e6:.1f} MB, at most {MODEL_BYTES_MAX / 1e6:g} MB are committed; let the reference "
            "network's weights be stored as float16, or make it smaller"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.copy")
    shutil.copyfile(bundle, temporary)
    temporary.replace(path)


def _history(job: Job) -> History:
    history = job.history()
    if history is None:
        raise JobError(f"{job.name} isn't trained to its end; run it first")
    return history


def _described(reference: Reference, supernet: Job) -> dict[str, Any]:
    """What made the networks: enough to make them again."""
    made = {"name": reference.name, "title": reference.title, "splits": reference.splits, "weights": reference.weights}
    return made | supernet.settings() | {"goals": asdict(reference.goals)}


def _job(job: Job, history: History) -> dict[str, Any]:
    return {
        "job": job.name,
        "width": job.width,
        "threads": job.threads,
        "train_s": sum(epoch["seconds"] for epoch in history),
        "bundle_bytes": job.bundle.stat().st_size,
        "history": history,
    }


def _listed(points: list[MeasuredPoint]) -> list[dict[str, Any]]:
    """The points as JSON has them; `unbeaten` is among the supernet's, or among the controls'."""
    listed = []
    for side in (True, False):
        members = [point for point in points if (point.job == SUPERNET) == side]
        flags = unbeaten([p.median_ms for p in members], [p.accuracy for p in members])
        listed += [p.to_json() | {"unbeaten": flag} for p, flag in zip(members, flags, strict=True)]
    return listed
