"""Fine-tuning after a pass changed the network: the training goes on, under limits, and with teachers if any."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..augment import Batches, make_augment
from ..fit import FitOptions, Progress, Within, fit, fit_options
from ..limits import settle
from ..losses import LossOptions
from ..norms import recalibrate_bn
from ..option_types import check_types
from ..task import training_batches
from .subject import Subject, fit_settings
from .teachers import Taught, open_teacher

PUPILS = ("all", "widest")
BEFORE = "before"  # as a teacher: the network as it was before the pass
LR_SHARE = 0.1  # of the training's learning rate, unless told otherwise


@dataclass(frozen=True, slots=True)
class Tuning:
    """How to fine-tune; what isn't among these fields is as the training had it.

    changes: options of `fit` and of its loss, by name. epochs: 0 settles batch norms alone.
    teachers: checkpoints, bundles, ONNX classifiers, or "before", the network before the pass; their probabilities are
        averaged. distillation: share in [0, 1] of each loss that is learnt from them instead of the labels, at the
        loss' `temperature`. pupils: who does, "all" exits or the "widest" final one alone, from which the others learn
        by `inplace_distillation`, which is to be among `changes`. augment: as for training, a key of `AUGMENTS`; None
        as the training had it.
    """

    epochs: int = 0
    teachers: tuple[str, ...] = ()
    distillation: float = 0.5
    pupils: str = "all"
    augment: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_types(self)
        if self.augment not in (None, "auto"):
            make_augment(self.augment)
        if self.epochs < 0:
            raise ValueError(f"epochs {self.epochs}: must be 0 or more")
        if not 0 <= self.distillation <= 1:
            raise ValueError(f"distillation {self.distillation}: must be in [0, 1]")
        if self.pupils not in PUPILS:
            raise ValueError(f"pupils {self.pupils!r}: must be one of {', '.join(PUPILS)}")
        if self.pupils == "widest" and not self.changes.get("inplace_distillation"):
            raise ValueError("pupils 'widest': give inplace_distillation above 0 too, by which others learn from it")

    def options(self, of: FitOptions) -> FitOptions:
        """What `fit` gets for a network that was trained by these options."""
        given = fit_settings(of) | {"lr": of.lr * LR_SHARE, "schedule": "cosine"} | self.changes
        return fit_options(**given | {"epochs": max(1, self.epochs)})


# What a recipe may say of fine-tuning, beside a pass' own options.
TUNING_NAMES = frozenset(
    {f.name for kind in (FitOptions, LossOptions, Tuning) for f in fields(kind)} - {"loss", "device", "changes"}
)


def make_tuning(given: dict[str, Any]) -> Tuning:
    """From names and values, all of them among `TUNING_NAMES`.

    Raises:
        TypeError, ValueError: a value isn't allowed.
    """
    own = {f.name for f in fields(Tuning)} - {"changes"}
    mine: dict[str, Any] = {name: value for name, value in given.items() if name in own}
    changes = {name: value for name, value in given.items() if name not in own}
    fit_options(**changes)  # refuses what can't be
    made = Tuning(**mine, changes=changes)
    return replace(made, teachers=tuple(made.teachers))


@dataclass(slots=True)
class Workshop:
    """What passes fine-tune with: where a pass keeps what it has trained, so that it goes on there when cut off.

    folder: where, named by `name`. before: checkpoint of the network before the pass. cache: keeps what
    other teachers said.
    """

    folder: Path
    name: str
    before: Path
    cache: Path
    tuning: Tuning
    on_progress: Callable[[Progress], None] | None = None
    turn: int = 0

    def tune(
        self,
        subject: Subject,
        within: Within = nullcontext,
    ) -> Subject:
        """Fine-tune the subject's network in place, under its limits; settled at the end. `within`: see `fit`."""
        tuning, self.turn = self.tuning, self.turn + 1
        options = tuning.options(subject.options)
        about = subject.about if tuning.augment is None else subject.about | {"augment": tuning.augment}
        loader: Any = training_batches(about, subject.data, options.seed)
        if tuning.epochs == 0:
            settle(subject.net, subject.limits)
            recalibrate_bn(subject.net, (x for x, _ in loader), options.recalibrate)
            subject.net.eval()
            return subject
        if tuning.teachers and tuning.distillation:  # nobody is asked what nothing is learnt from
            loader = self._taught(loader, options, subject)
        fit(
            subject.net, loader, options, checkpoint=self.folder / f"{self.name}-tune-{self.turn}.pt",
            on_progress=self.on_progress, about=subject.about, limits=subject.limits, within=within,
        )  # fmt: skip
        return subject

    def _taught(self, loader: Batches, options: FitOptions, subject: Subject) -> Taught:
        tuning = self.tuning
        paths = {teacher: self.before if teacher == BEFORE else Path(teacher) for teacher in tuning.teachers}
        caches = {teacher: self.folder if teacher == BEFORE else self.cache for teacher in tuning.teachers}
        bf16 = bool(options.autocast)
        teachers = [open_teacher(path, subject.about, caches[name], bf16) for name, path in paths.items()]
        return Taught(loader, teachers, tuning.distillation, options.loss.temperature, tuning.pupils == "widest")
