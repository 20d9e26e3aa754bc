"""What compression works on: a trained network, the values that its parameters may have, and its data."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..augment import Batches
from ..checkpoint import CheckpointError, save_checkpoint
from ..data import Data, load_data_as
from ..fit import FitOptions, fit_options
from ..limits import Limit, limits_from_plain, limits_to_plain
from ..losses import LossOptions
from ..supernet import Supernet
from ..task import EVALUATION_BATCH, Tell, batches, restore
from .edits import Edit

# What a training's record says beside its options.
NOT_OPTIONS = {"fast", "batches", "done"}


@dataclass(frozen=True, slots=True)
class Subject:
    """A pass takes one and gives another.

    Args:
        net: its parameters have values that `limits` allow.
        about: what remakes the network, as `task.begin` makes it, and `edits` of its shape.
        options: of its training, which fine-tuning goes on from.
        compressed: what each pass did so far.
    """

    net: Supernet
    limits: dict[str, Limit]
    about: dict[str, Any]
    options: FitOptions
    data: Data
    compressed: tuple[dict[str, Any], ...] = ()

    def reshaped(self, net: Supernet, edit: Edit, limits: dict[str, Limit]) -> "Subject":
        """With a network of another shape."""
        about = self.about | {"edits": [*self.about.get("edits", ()), edit]}
        return replace(self, net=net, limits=limits, about=about)

    def batches(self, split: str, size: int = EVALUATION_BATCH, most: int | None = None) -> Batches:
        """A split's images as they are, in a fixed order; `most`: so many of them, drawn at random but always the
        same."""
        data = self.data
        if most is not None and most < len(data.split(split)):
            share = 1 - most / len(data.split(split))
            data = replace(data, splits={**data.splits, split: data.split(split).parted(share)[0]})
        return batches(data, split, size, self.about["data"])


def open_subject(checkpoint: str | Path, data_path: str, data: Data | None = None, tell: Tell | None = None) -> Subject:
    """A checkpoint as a subject; `data`: what was read before of the same path.

    Raises:
        CheckpointError: it can't be read, isn't trained to its end, or is of other classes than the data.
    """
    net, content = restore(checkpoint)
    about, said = content["about"], content["options"]
    if not said.get("done"):
        raise CheckpointError(f"{checkpoint}: its training isn't over (epoch {content['epoch']}); finish it first")
    reading = None if tell is None else lambda done, total: tell("reading", done, total)
    data = data or load_data_as(data_path, tuple(about["shape"]), reading, calibration=about["holdout"])
    if list(data.classes) != about["classes"]:
        raise CheckpointError(
            f"{checkpoint}: trained on classes {about['classes']}, {data_path} has {list(data.classes)}"
        )
    try:
        limits = limits_from_plain(content.get("limits", {}), net)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error
    options = fit_options(**{name: value for name, value in said.items() if name not in NOT_OPTIONS} | said["fast"])
    return Subject(net, limits, about, options, data, tuple(about.get("compressed", ())))


def save_subject(path: str | Path, subject: Subject) -> None:
    """Write it as a checkpoint, which export takes, compression goes on from, and fine-tuning can be of."""
    options = fit_settings(subject.options)
    fast = {name: bool(options[name]) for name in ("autocast", "channels_last")}
    save_checkpoint(
        path,
        subject.net,
        optimizer={},
        epoch=subject.options.epochs,
        options=options | {"fast": fast, "batches": 0, "done": True},
        history=[],
        about=subject.about | {"compressed": list(subject.compressed)},
        limits=limits_to_plain(subject.limits),
    )


def fit_settings(options: FitOptions) -> dict[str, Any]:
    """All training options in one flat set, as `fit_options` takes them."""
    own = {name: getattr(options, name) for name in options.__slots__ if name not in ("loss", "device")}
    return own | {name: _plain(getattr(options.loss, name)) for name in LossOptions.__slots__}


def count_numbers(net: Supernet) -> tuple[int, int]:
    """How many numbers all parameters hold together, and how many of them aren't zero."""
    parameters = list(net.parameters())
    return sum(p.numel() for p in parameters), sum(int(torch.count_nonzero(p)) for p in parameters)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
