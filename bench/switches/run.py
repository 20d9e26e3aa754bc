"""The switches of training, each on against off: small networks, few epochs, paired seeds.

Accuracies are of photos held out of the training images, as defaults are chosen here; the test photos aren't looked at.
`sort` alone starts from weights that have seen the held-out photos, on both sides of its pairs.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from ...training.fit import FitOptions, fit_options
from ...training.task import TrainTask
from ..jobs import JobError
from ..references import CLOTHES, FAST, lite0_weights
from .report import LEAST_SEEDS, Pair, compared, print_report
from .trainings import Run, Tell, run_all

Changes = dict[str, Any]
HOLDOUT = 0.2  # of CIFAR's training photos 10,000, so that an accuracy's own error is below half a point


@dataclass(frozen=True, slots=True)
class Base:
    """What switches are thrown on.

    task: its `data` and `weights` come later. epoch_s: about, on one thread. needs: what a `Setup` must name for it.
    start: gives the file of starting weights that come with a package. note: what a reader must know of its runs.
    """

    title: str
    task: TrainTask
    options: Changes
    epoch_s: float
    needs: Literal["weights", "photos"] | None = None
    start: Callable[[], Path] | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Switch:
    """One switch; `on` and `off` are what differs from the base: fields of `TrainTask` or names of `fit_options`.

    What comes after a comma in a name tells it from that of another base.
    """

    name: str
    on: Changes = field(default_factory=dict)
    off: Changes = field(default_factory=dict)
    base: str = "scratch"


BASES = {
    "scratch": Base(
        "ResNet-14, 16 channels, 16 pixels, from scratch",
        TrainTask("resnet", "", {"base": "16", "blocks": "2"}, head="linear", size=16, holdout=HOLDOUT),
        {"epochs": 2, "lr": 0.1, **FAST},
        epoch_s=65,
    ),
    "pretrained": Base(
        "ResNet-20, 16 channels, 32 pixels, pretrained",
        TrainTask(
            "resnet",
            "",
            {"base": "16", "blocks": "3", "shortcut": "pad"},
            head="linear",
            size=32,
            holdout=HOLDOUT,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        {"epochs": 1, "lr": 0.05, **FAST},
        epoch_s=280,
        needs="weights",
        note="the starting weights, of all training photos of CIFAR-10, have seen the held-out ones, on both sides",
    ),
    "photos": Base(
        "EfficientNet-Lite0, 96 pixels, pretrained on ImageNet, photos of clothes",
        replace(CLOTHES.task, widths=(0.5, 1.0), exits=4, head="linear", size=96, batch=32, holdout=HOLDOUT),
        {"epochs": 3, "lr": 1e-3, "optimizer": "adamw", "weight_decay": 0.05, **FAST},
        epoch_s=85,
        needs="photos",
        start=lite0_weights,
    ),
}
DEPTH_WEIGHTS = (0.4, 0.8, 1.2, 1.6)  # their sum is that of equal ones
SWITCHES = (
    Switch("sandwich", {"sandwich": 1}),
    Switch("inplace_distillation", {"inplace_distillation": 0.5}),
    Switch("equilibrium", {"equilibrium": True}),
    Switch("depth_weights", {"depth_weights": DEPTH_WEIGHTS}),
    Switch("label_smoothing", {"label_smoothing": 0.1}),
    Switch("head", {"head": "conv"}),
    Switch("shared_stem", off={"shared_stem": False}),
    Switch("sort", off={"sort": False}, base="pretrained"),
    Switch("head, pretrained", {"head": "conv"}, base="photos"),
    Switch("inplace_distillation, pretrained", {"inplace_distillation": 0.5}, base="photos"),
    Switch("equilibrium, pretrained", {"equilibrium": True}, base="photos"),
    Switch("depth_weights, pretrained", {"depth_weights": DEPTH_WEIGHTS}, base="photos"),
    Switch("label_smoothing, pretrained", {"label_smoothing": 0.1}, base="photos"),
)


@dataclass(frozen=True, slots=True)
class Setup:
    """Where data, starting weights and results are; how many seeds; `epochs` of the runs from scratch.

    weights: of the base "pretrained"; photos: the data of the base "photos". Without them their switches are left out.
    """

    data: str
    folder: Path
    weights: str | None = None
    photos: str | None = None
    seeds: int = 3
    epochs: int | None = None

    def __post_init__(self) -> None:
        for name in ("seeds", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value}: must be 1 or more")

    def run(self, switch: Switch, on: bool, seed: int) -> Run:
        """The training with that switch on or off; without changes it is the base's, shared by all switches."""
        base, changes = BASES[switch.base], switch.on if on else switch.off
        part = f"{switch.name.partition(',')[0]}_{'on' if on else 'off'}" if changes else "plain"
        task, options = self._changed(base, changes, seed)
        name = f"{switch.base}_{part}_seed{seed}"
        return Run(name, task, options, self.folder, base.epoch_s * options.epochs)

    def _changed(self, base: Base, changes: Changes, seed: int) -> tuple[TrainTask, FitOptions]:
        of_task = {f.name for f in fields(TrainTask)}
        task = {name: value for name, value in changes.items() if name in of_task}
        rest = {name: value for name, value in changes.items() if name not in of_task}
        if self.epochs is not None and base.needs is None:
            rest["epochs"] = self.epochs
        return replace(base.task, **self._files(base), **task), fit_options(**base.options | rest, seed=seed)

    def _files(self, base: Base) -> Changes:
        """Data and starting weights of a base's trainings."""
        if base.needs == "photos":
            return {"data": self.photos, "weights": str(base.start()) if base.start else None}
        return {"data": self.data, "weights": self.weights if base.needs == "weights" else None}

    def possible(self, base: str) -> bool:
        """Whether what that base needs is named."""
        needs = BASES[base].needs
        return needs is None or getattr(self, needs) is not None


def choose(names: Sequence[str]) -> tuple[Switch, ...]:
    """The switches of these names; all of them where none is named.

    Raises:
        ValueError: no such switch; names those that are.
    """
    known = {switch.name: switch for switch in SWITCHES}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, list(known), 1)
            hint = f" (did you mean '{close[0]}'?)" if close else ""
            raise ValueError(f"no switch '{name}'{hint}; there are {', '.join(known)}")
    return tuple(known[name] for name in names) or SWITCHES


def make_runs(setup: Setup, switches: Sequence[Switch]) -> list[Run]:
    """Every training once: seed after seed, so that whatever is done is balanced; of a seed the longest first."""
    found: dict[str, Run] = {}
    for seed in range(setup.seeds):
        runs = [
            setup.run(switch, on, seed) for switch in switches if setup.possible(switch.base) for on in (False, True)
        ]
        found |= {run.name: run for run in sorted(runs, key=lambda run: -run.expected_s)}
    return list(found.values())


def make_report(setup: Setup) -> dict[str, Any]:
    """What the results that are there say of each switch, see `compared`.

    `complete`: whether every switch whose data and weights are named has all of its seeds, and they are enough.

    Raises:
        JobError: there is no result at all, or one by other settings.
    """
    runs = make_runs(setup, SWITCHES)
    results = {run.name: result for run in runs if (result := run.result()) is not None}
    if not results:
        raise JobError(f"{setup.folder}: none of the {len(runs)} runs has a result there; leave out --report-only")
    bases = dict.fromkeys(switch.base for switch in SWITCHES if setup.possible(switch.base))
    return {
        "bench": "switches",
        "machine": next(iter(results.values()))["machine"],
        "complete": len(results) == len(runs) and setup.seeds >= LEAST_SEEDS,
        "bases": {name: _base(name, setup) for name in bases},
        "switches": [_row(switch, setup, results) for switch in SWITCHES],
    }


def _base(name: str, setup: Setup) -> dict[str, Any]:
    plain = setup.run(Switch("plain", base=name), on=True, seed=0)
    return {"title": BASES[name].title, "settings": plain.settings()}


def _row(switch: Switch, setup: Setup, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A switch, and its pairs compared; or why they aren't."""
    base = BASES[switch.base]
    said = {"name": switch.name, "base": switch.base, "on": switch.on, "off": switch.off, "note": base.note}
    if not setup.possible(switch.base):
        return said | {"not_measured": f"needs --{base.needs}"}
    pairs: dict[int, Pair] = {}
    for seed in range(setup.seeds):
        on, off = (results.get(setup.run(switch, way, seed).name) for way in (True, False))
        if on is not None and off is not None:
            pairs[seed] = (on, off)
    return said | (compared(pairs) if pairs else {"not_measured": "no seed has both runs yet"})


def run(
    setup: Setup,
    only: Sequence[str] = (),
    workers: int = 2,
    report_only: bool = False,
    tell: Tell = lambda what, done, total: None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Trains what has no result yet, of the switches named by `only` or of all; nothing where `report_only`.

    Prints a table of all switches by the results that are there, and returns it.
    """
    chosen = choose(only)
    if not report_only:
        run_all(make_runs(setup, chosen), workers, tell)
    report = make_report(setup)
    print_report(report, console or Console(markup=False, emoji=False))
    return report
