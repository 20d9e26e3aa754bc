"""A recipe's passes run in order; cut off at any moment, the next run goes on in the pass that it was in."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...runtime.files import replacing, user_cache
from ..checkpoint import CheckpointError, load_checkpoint
from ..data import Data
from ..fit import Progress, seed_everything
from ..task import Tell
from .measure import measured
from .recipe import Stage
from .subject import Subject, open_subject, save_subject
from .tuning import BEFORE, Workshop

Report = dict[str, Any]
REPORTS = "reports.json"


def compress(
    checkpoint: str | Path,
    stages: Sequence[Stage],
    data_path: str,
    out: str | Path,
    *,
    cache: Path | None = None,
    tell: Tell | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    data: Data | None = None,
) -> Report:
    """Run passes on a checkpoint and write another one.

    While it works, a folder beside `out`, called after it with `.work`, holds what is done; it is removed at the end.

    Args:
        cache: where teachers' scores are kept; the user's cache folder where not given.
        data: the data at `data_path` where they were read before.

    Returns:
        `passes`, each with its name, options, seconds, `before` and `after` as `measured` gives them, and what it
        found; accuracies are of the calibration split.

    Raises:
        CheckpointError: `checkpoint` can't be compressed, `out` is there already, or what was begun beside it is of
            another recipe, checkpoint or data.
        ValueError: a pass can't be done on this network; names the pass.
    """
    out, tell = Path(out), tell or (lambda what, done, total: None)
    if not out.parent.is_dir():
        raise CheckpointError(f"{out}: there is no folder {out.parent}; make it first")
    work = _Work(out.with_name(f"{out.name}.work"), Path(checkpoint), stages, data_path)
    there = out.exists()
    if there and not work.cleared_of(len(stages)):
        raise CheckpointError(f"{out}: is there already; give another --out, or move it away")
    _check_teachers(stages)
    reports = work.begin()
    subject = open_subject(out if there else work.latest(len(reports)), data_path, data, tell)
    for number in range(len(reports), len(stages)):
        stage = stages[number]
        tell(f"pass {number + 1}, {stage.name}", number, len(stages))
        before, kept = work.latest(number), cache or user_cache("teachers")
        shop = Workshop(work.folder, str(number + 1), before, kept, stage.tuning, on_progress)
        start = reports[-1]["after"] if reports else measured(subject)
        subject, report = _run(stage, subject, shop, start)
        reports.append(report)
        work.keep(number + 1, subject, reports)
    if not there:
        work.latest(len(stages)).replace(out)
    work.remove()
    return {"checkpoint": str(checkpoint), "data": subject.data.name, "passes": reports}


def _check_teachers(stages: Sequence[Stage]) -> None:
    """Before hours of work that would end where one is missing."""
    for number, stage in enumerate(stages, start=1):
        for teacher in stage.tuning.teachers:
            if teacher != BEFORE and not Path(teacher).is_file():
                raise ValueError(f"pass {number} ({stage.name}): teacher {teacher}: no such file")


def _run(stage: Stage, subject: Subject, shop: Workshop, before: Report) -> tuple[Subject, Report]:
    started = time.monotonic()
    seed_everything(subject.options.seed, shop.turn)
    try:
        subject, found = stage.work.run(subject, shop)
    except ValueError as error:
        raise ValueError(f"pass {shop.name} ({stage.name}): {error}") from error
    subject.net.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as a resumed run has it
    with torch.no_grad():
        after = measured(subject)
    said = {key: value for key, value in stage.said.items() if key != "name"}
    report = {
        "name": stage.name,
        "options": json.loads(json.dumps(said)),
        "seconds": time.monotonic() - started,
        "found": found,
        "before": before,
        "after": after,
    }
    summary = {key: report[key] for key in ("name", "options", "found")}
    return replace(subject, compressed=(*subject.compressed, summary)), report


class _Work:
    """The folder of a run that isn't over: the recipe that it is of, a checkpoint for each pass done, and reports."""

    def __init__(self, folder: Path, source: Path, stages: Sequence[Stage], data_path: str) -> None:
        self.folder, self.source = folder, source
        self._of = {
            "source": _hash(source),
            "teachers": [_hash(Path(name)) for stage in stages for name in stage.tuning.teachers if name != BEFORE],
            "data": Path(data_path).name,
            "passes": json.loads(json.dumps([stage.said for stage in stages])),
        }

    def begin(self) -> list[Report]:
        """Reports of the passes that are done."""
        load_checkpoint(self.source)  # before anything is made
        place = self.folder / REPORTS
        if not place.exists():
            self.folder.mkdir(exist_ok=True)
            self._write([])
            return []
        try:
            kept = json.loads(place.read_text())
            theirs, reports = kept["of"], list(kept["passes"])
        except (ValueError, LookupError, TypeError) as error:
            raise CheckpointError(f"{place}: can't be read ({error!r}); delete the folder to start again") from error
        differing = [key for key, value in self._of.items() if theirs.get(key) != value]
        if differing:
            raise CheckpointError(
                f"{self.folder}: was begun with another {', '.join(differing)}; go on with the same, give another "
                "--out, or delete the folder"
            )
        return reports

    def latest(self, done: int) -> Path:
        """The checkpoint after so many passes."""
        return self.folder / f"{done}.pt" if done else self.source

    def keep(self, done: int, subject: Subject, reports: list[Report]) -> None:
        save_subject(self.latest(done), subject)
        self._write(reports)
        for left in self.folder.glob(f"{done}-*"):
            left.unlink()

    def cleared_of(self, done: int) -> bool:
        """Whether so many passes are done and their result was taken out, but the folder was left behind."""
        place = self.folder / REPORTS
        return place.exists() and not self.latest(done).exists() and len(self.begin()) == done

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _write(self, reports: list[Report]) -> None:
        with replacing(self.folder / REPORTS) as temporary:
            temporary.write_text(json.dumps({"of": self._of, "passes": reports}, indent=1))


def _hash(file: Path) -> str:
    """Of its content; its name where it is no file."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else str(file)
