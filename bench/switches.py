"""The switches of training, each on against off: small networks, few epochs, paired seeds.

Accuracies are of photos held out of the training images, as defaults are chosen here; the test photos aren't looked at.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..training.fit import FitOptions, fit_options
from ..training.task import TrainTask
from .report import write_json
from .switches_report import Pair, compared, draw, print_report
from .switches_runs import Run, RunError, Tell, run_all

Changes = dict[str, Any]
HOLDOUT = 0.2  # of CIFAR's training photos 10,000, so that an accuracy's own error is below half a point
# Number format and layout are said, not tried out, so that two runs can't differ in them.
FAST: Changes = {"autocast": True, "channels_last": True}


@dataclass(frozen=True, slots=True)
class Base:
    """What switches are thrown on. `task`: its `data` and `weights` come later; `epoch_s`: about, on one thread."""

    title: str
    task: TrainTask
    options: Changes
    epoch_s: float
    pretrained: bool = False


@dataclass(frozen=True, slots=True)
class Switch:
    """One switch; `on` and `off` are what differs from the base: fields of `TrainTask` or names of `fit_options`."""

    name: str
    on: Changes = field(default_factory=dict)
    off: Changes = field(default_factory=dict)
    base: str = "scratch"


BASES = {
    "scratch": Base(
        "ResNet-14, 16 channels, 16 pixels, from scratch",
        TrainTask("resnet", "", {"base": "16", "blocks": "2"}, size=16, holdout=HOLDOUT),
        {"epochs": 2, "lr": 0.1, **FAST},
        epoch_s=65,
    ),
    "pretrained": Base(
        "ResNet-20, 16 channels, 32 pixels, pretrained",
        TrainTask(
            "resnet",
            "",
            {"base": "16", "blocks": "3", "shortcut": "pad"},
            size=32,
            holdout=HOLDOUT,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        {"epochs": 1, "lr": 0.05, **FAST},
        epoch_s=280,
        pretrained=True,
    ),
}
SWITCHES = (
    Switch("sandwich", {"sandwich": 1}),
    Switch("inplace_distillation", {"inplace_distillation": 0.5}),
    Switch("equilibrium", {"equilibrium": True}),
    Switch("depth_weights", {"depth_weights": (0.4, 0.8, 1.2, 1.6)}),  # their sum is that of equal ones
    Switch("label_smoothing", {"label_smoothing": 0.1}),
    Switch("head", {"head": "conv"}),
    Switch("shared_stem", off={"shared_stem": False}),
    Switch("sort", off={"sort": False}, base="pretrained"),
)


@dataclass(frozen=True, slots=True)
class Setup:
    """Where data, starting weights and results are; how many seeds; `epochs` of the runs from scratch."""

    data: str
    folder: Path
    weights: str | None = None
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
        part = f"{switch.name}_{'on' if on else 'off'}" if changes else "plain"
        task, options = self._changed(base, changes, seed)
        name = f"{switch.base}_{part}_seed{seed}"
        return Run(name, task, options, self.folder, base.epoch_s * options.epochs)

    def _changed(self, base: Base, changes: Changes, seed: int) -> tuple[TrainTask, FitOptions]:
        of_task = {f.name for f in fields(TrainTask)}
        task = {name: value for name, value in changes.items() if name in of_task}
        rest = {name: value for name, value in changes.items() if name not in of_task}
        if self.epochs is not None and not base.pretrained:
            rest["epochs"] = self.epochs
        weights = self.weights if base.pretrained else None
        return (
            replace(base.task, data=self.data, weights=weights, **task),
            fit_options(**base.options | rest, seed=seed),
        )

    def possible(self, switch: Switch) -> bool:
        """Whether its starting weights are there, if it needs some."""
        return self.weights is not None or not BASES[switch.base].pretrained


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
        runs = [setup.run(switch, on, seed) for switch in switches if setup.possible(switch) for on in (False, True)]
        found |= {run.name: run for run in sorted(runs, key=lambda run: -run.expected_s)}
    return list(found.values())


def make_report(setup: Setup) -> dict[str, Any]:
    """What the results that are there say of each switch; see `compared`.

    Raises:
        RunError: there is no result at all, or one by other settings.
    """
    runs = make_runs(setup, SWITCHES)
    results = {run.name: result for run in runs if (result := run.result()) is not None}
    if not results:
        raise RunError(f"{setup.folder}: none of the {len(runs)} runs has a result there; leave out --report-only")
    return {
        "bench": "switches",
        "machine": next(iter(results.values()))["machine"],
        "bases": {name: _base(name, setup) for name in dict.fromkeys(switch.base for switch in SWITCHES)},
        "switches": [_row(switch, setup, results) for switch in SWITCHES],
    }


def _base(name: str, setup: Setup) -> dict[str, Any]:
    plain = setup.run(Switch("plain", base=name), on=True, seed=0)
    return {"title": BASES[name].title, "settings": plain.settings()}


def _row(switch: Switch, setup: Setup, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A switch, and its pairs compared; or why they aren't."""
    said = {"name": switch.name, "base": switch.base, "on": switch.on, "off": switch.off}
    if not setup.possible(switch):
        return said | {"not_measured": "starts from pretrained weights; give --weights"}
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
    json_path: Path | None = None,
    picture: Path | None = None,
    tell: Tell = lambda what, done, total: None,
) -> dict[str, Any]:
    """Train what has no result yet, of the switches named by `only` or of all; nothing where `report_only`.

    Prints a table of all switches by the results that are there; writes it as JSON and as a picture.
    """
    chosen = choose(only)
    if not report_only:
        run_all(make_runs(setup, chosen), workers, tell)
    report = make_report(setup)
    print_report(report)
    if json_path is not None:
        write_json(json_path, report)
    if picture is not None:
        draw(report, picture)
    return report
