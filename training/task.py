"""A whole training from names: which network on which data; and the way back from its checkpoint."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..runtime.bundle import Bundle
from ..runtime.manifest import InputSpec
from .augment import Batches, make_augment
from .autotune import keep_freed_memory
from .checkpoint import CheckpointError, load_checkpoint, load_state, shape_of
from .compress.edits import edited
from .data import CALIBRATION, Data, load_data, load_data_as
from .export import export
from .fit import FitOptions, Progress, fit
from .limits import limits_from_plain, row_scales
from .nets import make_net
from .supernet import Supernet, make_control, make_plan, make_supernet
from .supernet.convert import HEAD, WIDTHS
from .weights import load_weights

Tell = Callable[[str, int, int], None]
EVALUATION_BATCH = 128

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainTask:
    """What to train: `net` as `make_net` takes it; `exits`, `head`, `sort`, `shared_stem` as `make_supernet` does.

    size: side of the square images in pixels; None takes them as they are. augment: a key of `AUGMENTS`, or "auto" by
    what the data looks like. weights: a file of the network's starting weights, from scratch without. mean, std: per
    channel, what pixels scaled to [0, 1] are normalised by; None takes the training images' own. alone: train this
    width alone, with one exit: the control of the same task's supernet, whose own subnet it is, taken right after
    conversion. holdout: share of the training images, in (0, 1), that is held out as the calibration split.

    Raises:
        ValueError: `alone` isn't one of the widths, or `holdout` is no such share.
    """

    net: str
    data: str
    net_options: dict[str, str] = field(default_factory=dict)
    weights: str | None = None
    widths: tuple[float, ...] = WIDTHS
    exits: int | tuple[float, ...] | tuple[str, ...] = 4
    head: str = HEAD
    size: int | None = None
    batch: int = 128
    augment: str = "auto"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    alone: float | None = None
    sort: bool = True
    shared_stem: bool = True
    holdout: float = CALIBRATION

    def __post_init__(self) -> None:
        if self.alone is not None and self.alone not in self.widths:
            allowed = ", ".join(map(str, self.widths))
            raise ValueError(f"alone {self.alone} isn't one of the widths; it can be {allowed}, or add it to widths")
        if not 0 < self.holdout < 1:
            raise ValueError(f"holdout {self.holdout} isn't a share between 0 and 1 (both excluded)")


def run_training(
    task: TrainTask,
    options: FitOptions,
    out: str | Path,
    on_progress: Callable[[Progress], None] | None = None,
    tell: Tell | None = None,
    data: Data | None = None,
) -> dict[str, Any]:
    """Read the data, make network and supernet, train; goes on from `out` where that exists.

    `data`: the task's own where it was read before, with its size and holdout, for several trainings in one process.
    A control is trained by the same options but those that are between widths or exits.

    Returns `points`, with accuracy on the calibration split, which was never trained on, and `history`, as `fit` does.
    """
    keep_freed_memory()
    data = data or load_data(task.data, size=task.size, calibration=task.holdout, progress=_reading(tell))
    torch.manual_seed(options.seed)
    net, about = begin(task, data)
    _check_same(out, about)
    if task.alone is not None:
        options = replace(options, loss=options.loss.of_one())
    loader = training_batches(about, data, options.seed)
    history = fit(net, loader, options, checkpoint=out, on_progress=on_progress, about=about)
    points = point_accuracies(net, batches(data, "calibration", EVALUATION_BATCH, about["data"]))
    return {"points": points, "history": history}


def begin(task: TrainTask, data: Data) -> tuple[Supernet, dict[str, Any]]:
    """What is to be trained, in its first state, and all that `restore` makes it from."""
    normal = {"scale": data.scale, "mean": list(task.mean or data.mean), "std": list(task.std or data.std)}
    about = {
        "net": task.net,
        "net_options": task.net_options,
        "classes": list(data.classes),
        "shape": list(data.input_shape),
        "data": {"name": data.name, **normal},
        "weights": None if task.weights is None else Path(task.weights).name,
        "batch": task.batch,
        "augment": task.augment,
        "alone": task.alone,
        "sort": task.sort,
        "holdout": task.holdout,
    }
    model = _model(about)
    if task.weights is not None:
        about["skipped_weights"] = _start_from(task.weights, model)
    shared_stem = task.shared_stem and task.alone is None
    net = make_supernet(model, _example(about), task.widths, task.exits, task.head, task.sort, shared_stem)
    about |= shape_of(net)
    return _alone(net, about), about


def _alone(net: Supernet, about: dict[str, Any]) -> Supernet:
    """The supernet, or its width that is trained alone."""
    return net if about["alone"] is None else make_control(net, _example(about), about["alone"])


def _start_from(weights: str, model: torch.nn.Module) -> list[str] | None:
    """Loads a file's weights; names those that were left as they are, None if there are none."""
    skipped = load_weights(model, weights, skip_mismatched=True)
    if skipped:
        log.warning("%s: not taken, as their numbers of outputs differ: %s", weights, ", ".join(skipped))
    return list(skipped) or None


def restore(checkpoint: str | Path) -> tuple[Supernet, dict[str, Any]]:
    """The supernet of a checkpoint, and what the checkpoint says about it.

    Raises:
        CheckpointError: it can't be read, or the network it names has changed since.
    """
    content = load_checkpoint(checkpoint)
    about = content["about"]
    if not about:
        raise CheckpointError(
            f"{checkpoint}: was written by fit() without `about`; make the supernet and load_state it"
        )
    shape = {name: about[name] for name in ("widths", "exits", "head", "shared_stem")}
    net = _alone(make_supernet(_model(about), _example(about), **shape, sort=False), about)
    try:
        net = edited(net, about.get("edits", ()))
    except ValueError as error:
        raise CheckpointError(f"{checkpoint}: its network can't be made again: {error}") from error
    load_state(checkpoint, net, content)
    return net.eval(), content


def export_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    data_path: str,
    *,
    weights: str = "float32",
    precisions: tuple[str, ...] = ("fp32",),
    reduce_range: bool = False,
    splits: tuple[str, ...] = ("test",),
    spare: float = 0.0,
    coded: bool = False,
    tell: Tell | None = None,
) -> Bundle:
    """Write a checkpoint as a bundle; accuracies are of `splits`, temperatures and int8's ranges of the calibration
    split, less the share `spare`; `weights`, `precisions` and `reduce_range` as for `export`; `coded`: in as few bytes
    as can be."""
    net, content = restore(checkpoint)
    about = content["about"]
    scales = row_scales(net, limits_from_plain(content.get("limits", {}), net)) if coded else None
    if scales and weights != "float32":
        raise ValueError(
            f"weights '{weights}': {checkpoint} has weights of whole numbers ({next(iter(scales))}, …), which a coded "
            "bundle stores as they are; leave weights out"
        )
    data = load_data_as(data_path, tuple(about["shape"]), _reading(tell), calibration=about["holdout"])
    if list(data.classes) != about["classes"]:
        raise CheckpointError(
            f"{checkpoint}: trained on classes {about['classes']}, {data_path} has {list(data.classes)}"
        )
    taken = about["data"]
    spec = InputSpec(tuple(about["shape"]), scale=taken["scale"], mean=tuple(taken["mean"]), std=tuple(taken["std"]))
    held_out = [b for split in splits for b in batches(data, split, EVALUATION_BATCH, normal=taken)]
    provenance = {
        **{name: about[name] for name in ("net", "net_options", "alone", "sort", "shared_stem", "holdout")},
        **{name: content["supernet"][name] for name in ("exits", "head")},
        "starting_weights": about["weights"],
        "skipped_weights": about.get("skipped_weights"),
        "data": taken["name"],
        "held_out_data": data.name,
        "splits": list(splits),
        "epochs": content["epoch"],
        "options": content["options"],
        "weights": weights,
        "reduce_range": reduce_range,
        **({"spared": spare} if spare else {}),
    }
    return export(
        net,
        held_out,
        out,
        input=spec,
        classes=data.classes,
        calibration=batches(data.sparing(spare), "calibration", EVALUATION_BATCH, normal=taken),
        network=about["net"],
        provenance=provenance,
        weights=weights,
        precisions=precisions,
        reduce_range=reduce_range,
        coded=scales,
        progress=tell,
    )


def training_batches(about: dict[str, Any], data: Data, seed: int) -> Batches:
    """What a network trains on, by what its checkpoint says of it: shuffled, augmented, full batches."""
    augment = make_augment(_augment_for(data) if about["augment"] == "auto" else about["augment"])
    size = min(about["batch"], len(data.splits["train"]))
    return batches(data, "train", size, about["data"], augment=augment, shuffle=True, drop_last=True, seed=seed)


def batches(data: Data, split: str, size: int, normal: dict[str, Any] | None = None, **how: Any) -> Batches:
    """Batches of a split; `normal`: scale, mean and std to use instead of the data's own.

    Raises:
        ValueError: the data has no such split.
    """
    taken = normal or {"scale": data.scale, "mean": data.mean, "std": data.std}
    return Batches(data.split(split), size, taken["scale"], tuple(taken["mean"]), tuple(taken["std"]), **how)


def _model(about: dict[str, Any]) -> torch.nn.Module:
    channels, height, width = about["shape"]
    return make_net(about["net"], len(about["classes"]), (channels, height, width), **about["net_options"])


def _example(about: dict[str, Any]) -> torch.Tensor:
    return torch.zeros(1, *about["shape"])


def _augment_for(data: Data) -> str:
    """Small colour images as for CIFAR, large ones as photos; grey ones only shifted: digits can't be mirrored."""
    channels, height, _ = data.input_shape
    if channels == 1:
        return "digits"
    return "cifar" if height < 96 else "photo"


def _check_same(out: str | Path, about: dict[str, Any]) -> None:
    """A checkpoint that is there already must be of the same task."""
    if Path(out).exists():
        theirs = load_checkpoint(out)["about"]
        differing = [f"{k} {theirs.get(k)!r} there, {v!r} here" for k, v in about.items() if theirs.get(k) != v]
        if differing:
            raise CheckpointError(f"{out}: is of another training: {'; '.join(differing)}; use another --out")


def _reading(tell: Tell | None) -> Callable[[int, int], None] | None:
    return None if tell is None else lambda done, total: tell("reading", done, total)


def point_accuracies(net: Supernet, loader: Batches) -> list[dict[str, Any]]:
    """Every point's accuracy by the torch network, with what it costs."""
    right = {(width, depth): 0 for width in net.widths for depth in range(1, net.depths + 1)}
    count = 0
    for x, y in loader:
        count += len(y)
        with torch.no_grad():
            for width in net.widths:
                for depth, logits in enumerate(net(x, width), start=1):
                    right[width, depth] += int((logits.argmax(1) == y).sum())
    return [
        {
            "width": width,
            "depth": depth,
            "precision": "fp32",
            "accuracy": hits / count,
            "macs": net.macs(width, depth),
            "params": net.parameters_at(width, depth),
        }
        for (width, depth), hits in right.items()
    ]


def trace_network(
    net: str,
    options: dict[str, str],
    shape: tuple[int, ...],
    classes: int,
    widths: tuple[float, ...],
    exits: Any,
    head: str,
) -> dict[str, Any]:
    """What `stretto trace` reports of a network; see `trace_report`.

    `classes`: how many, for a network that can be asked for them; another keeps the number that it has.
    """
    if len(shape) != 3:
        raise ValueError(f"shape {shape}: give channels,height,width")
    from .supernet.report import trace_report

    model = make_net(net, classes, shape, any_classes=True, **options)
    plan = make_plan(model, torch.zeros(1, *shape), widths, exits, head)
    return trace_report(plan, widths)
