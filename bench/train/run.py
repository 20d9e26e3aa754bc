"""A reference network against its controls, each width trained alone: `stretto bench train NAME --data PATH`."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from ...runtime.files import replacing
from ..job_bars import JobBars
from ..jobs import JobError, Record
from ..references import Reference
from ..report import machine, print_rows, write_json
from .cost import STEPS, measure_steps
from .jobs import SUPERNET, Job, make_jobs, run_jobs
from .picture import draw
from .points import MeasuredPoint, measure_committed, measure_points
from .report import make_rows
from .statistics import unbeaten

MODEL_BYTES_MAX = 10_000_000  # of a bundle in the repository
ROUNDS = 40
Tell = Callable[[str, int, int], None]


def plan(reference: Reference, data: str, folder: Path, workers: int = 2) -> list[Job]:
    """The jobs under `folder`/the reference's name, none of them begun.

    Args:
        workers: 2 trains the supernet beside the controls, each lane with half of the cores, so that what disturbs the
            machine disturbs both for as long as both lanes run; the rest of the longer lane runs alone, still with
            half of the cores. 1 trains one after the other with all cores.

    Raises:
        ValueError: `workers` is neither.
    """
    if workers not in (1, 2):
        raise ValueError(f"workers {workers}: 1 trains one after the other, 2 the supernet beside the controls")
    return make_jobs(reference, data, folder, threads=max(1, machine()["cores"] // workers))


def train(jobs: list[Job], workers: int = 2, only: str | None = None, console: Console | None = None) -> None:
    """Trains and exports what isn't there yet; `only`: the name of the one job to do.

    Raises:
        ValueError: there is no such job.
        JobError: a job failed, or the folder has trainings by other settings.
    """
    chosen = [job for job in jobs if only in (None, job.name)]
    if not chosen:
        raise ValueError(f"no job '{only}'; there are {', '.join(job.name for job in jobs)}")
    lanes = [chosen] if workers == 1 else [chosen[:1], chosen[1:]]
    with JobBars(console or Console()) as bars:
        run_jobs(lanes, bars.show)


def report(
    reference: Reference,
    data: str,
    jobs: list[Job],
    json: Path,
    picture: Path,
    tell: Tell = lambda what, done, total: None,
    workers: int = 2,
    model: Path | None = None,
    rounds: int = ROUNDS,
    steps: int = STEPS,
    console: Console | None = None,
) -> dict[str, Any]:
    """Measures what the jobs made, prints a table, writes JSON and a picture; `model`: the committed bundle, if any.

    Raises:
        JobError: a job isn't trained and exported yet.
    """
    facts, records = machine(), {job.name: job.finished() for job in jobs}
    points = measure_points(jobs, data, rounds, tell)
    committed = None if model is None else measure_committed(model, jobs[0], data, tell)
    rows = make_rows(reference, points, records, measure_steps(jobs, data, steps, tell), committed)
    print_rows(console or Console(), rows, f"bench train {reference.name}: {reference.title}")
    result = {
        "bench": "train",
        "machine": facts,
        "command": f"stretto bench train {reference.name} --data {Path(data).name} --workers {workers}",
        "reference": _described(reference, records[SUPERNET]),
        "rows": [row.to_json() for row in rows],
        "jobs": [_job(job, records[job.name]) for job in jobs],
        "points": _listed(points),
    }
    write_json(json, result)
    draw(result, picture)
    return result


def copy_model(jobs: list[Job], path: Path) -> None:
    """Copies the supernet's bundle to where it is committed.

    Raises:
        JobError: it is too large for that, or not of a finished job.
    """
    supernet = next(job for job in jobs if job.name == SUPERNET)
    supernet.finished()
    bundle = supernet.bundle
    size = bundle.stat().st_size
    if size > MODEL_BYTES_MAX:
        raise JobError(
            f"{bundle} has {size / 1e6:.1f} MB, at most {MODEL_BYTES_MAX / 1e6:g} MB are committed; let the reference "
            "network's weights be stored as float16, or make it smaller"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        shutil.copyfile(bundle, temporary)


def _described(reference: Reference, supernet: Record) -> dict[str, Any]:
    """What made the networks: enough to make them again."""
    made = {"name": reference.name, "title": reference.title, "splits": reference.splits, "weights": reference.weights}
    return made | supernet["settings"] | {"goals": asdict(reference.goals)}


def _job(job: Job, record: Record) -> dict[str, Any]:
    return {
        "job": job.name,
        "width": job.width,
        "threads": record["settings"]["threads"],
        "machine": record.get("machine"),
        "stretto": record.get("stretto"),
        "train_s": sum(epoch["seconds"] for epoch in record["history"]),
        "bundle_bytes": job.bundle.stat().st_size,
        "history": record["history"],
    }


def _listed(points: list[MeasuredPoint]) -> list[dict[str, Any]]:
    """The points as JSON has them; `unbeaten` is among the supernet's, or among the controls'."""
    listed = []
    for side in (True, False):
        members = [point for point in points if (point.job == SUPERNET) == side]
        flags = unbeaten([p.median_ms for p in members], [p.accuracy for p in members])
        listed += [p.to_json() | {"unbeaten": flag} for p, flag in zip(members, flags, strict=True)]
    return listed
