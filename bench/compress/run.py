"""The compression stack against its controls: `stretto bench compress`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..job_bars import JobBars
from ..jobs import Record
from ..report import machine, print_rows, write_json
from .jobs import Job, Made, read_made, run_jobs
from .picture import draw
from .studies import STUDIES, jobs_of

Tell = Callable[[str, int, int], None]


def plan(studies: Sequence[str], data: dict[str, str], folder: Path) -> tuple[list[str], list[Job]]:
    """Which studies to do, all that have their data where none is named; and their jobs, none of them begun.

    Raises:
        ValueError: an unknown study, or one whose data aren't given.
    """
    for name in studies:
        if name not in STUDIES:
            raise ValueError(f"no study '{name}'; there are {', '.join(STUDIES)}")
        if STUDIES[name].data not in data:
            raise ValueError(f"study {name} needs --{STUDIES[name].data}")
    chosen = list(studies) or [name for name, study in STUDIES.items() if study.data in data]
    if not chosen:
        raise ValueError("nothing to do: give the path of some data, such as --cifar cifar10.zip")
    return chosen, jobs_of(chosen, data, folder)


def make(jobs: Sequence[Job], workers: int, console: Console) -> None:
    """Trains and compresses what isn't done yet."""
    with JobBars(console) as bars:
        run_jobs(jobs, workers, bars.show)


def report(
    studies: Sequence[str], jobs: Sequence[Job], json: Path, picture: Path, tell: Tell, console: Console
) -> dict[str, Any]:
    """Measures what the jobs made, prints a table, writes JSON and a picture.

    Raises:
        JobError: a job isn't done yet.
    """
    facts = machine()
    made: dict[str, Made] = {job.name: read_made(job) for job in jobs}
    rows = [row for name in studies for row in STUDIES[name].rows(_of(name, made, jobs), tell)]
    print_rows(console, rows, "bench compress")
    result = {
        "bench": "compress",
        "machine": facts,
        "studies": list(studies),
        "rows": [row.to_json() for row in rows],
        "jobs": [_about(one) for one in made.values()],
    }
    write_json(json, result)
    draw(result, picture)
    return result


def _of(study: str, made: dict[str, Made], jobs: Sequence[Job]) -> dict[str, Made]:
    """Those that the study itself is about."""
    data = {job.data for job in jobs}
    names = {job.name for path in data for job in STUDIES[study].jobs(path, jobs[0].folder)}
    return {name: one for name, one in made.items() if name in names}


def _about(made: Made) -> dict[str, Any]:
    return {
        "name": made.job.name,
        "settings": made.job.settings(),
        "bytes": made.size,
        "accuracy": {f"{width:g} {depth} {precision}": float(right.mean()) for (width, depth, precision), right in
                     made.right.items()},
        "passes": [_about_pass(one) for one in made.report.get("passes", [])],
    }  # fmt: skip


def _about_pass(one: Record) -> dict[str, Any]:
    """Without where on this machine its teachers are."""
    found = dict(one["found"])
    if "teachers" in found:
        found["teachers"] = [Path(teacher).name for teacher in found["teachers"]]
    coded = [one[when]["coded_bytes"] for when in ("before", "after")]
    return {"name": one["name"], "seconds": one["seconds"], "found": found, "coded_bytes": coded}
