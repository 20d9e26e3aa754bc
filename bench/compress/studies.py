"""What `stretto bench compress` trains and compresses, and which figures come of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...training.fit import FitOptions, fit_options
from ...training.task import TrainTask
from ..references import CIFAR, CLOTHES, FAST
from .jobs import Compression, Job, Scratch, Training
from .rows import (
    bits_rows,
    channels_rows,
    factors_rows,
    lenets_rows,
    supernets_rows,
    taught_rows,
)

SEEDS = (0, 1, 2)
LENETS = {"lenet300": "lenet300", "lenet5": "lenet5caffe"}  # by recipe: the network
# what each part of the LeNets' recipe gives alone, of the first seed: pass → option, and its values
ALONE: dict[str, tuple[int, str, tuple[Any, ...]]] = {
    "prune": (1, "share", (0.5, 0.7, 0.8, 0.9, 0.95)),
    "cluster": (3, "clusters", (2, 3, 4, 7, 15)),
}
TEACHERS = ("plain", "plain-0.75")  # of the supernet of 16 channels
WAYS: dict[str, dict[str, Any]] = {
    "labels": {"teachers": ["before"], "distillation": 0.0},
    "inplace": {"teachers": ["before"], "distillation": 0.0, "inplace_distillation": 0.5},
    "taught": {},
}
COMBINED: dict[str, dict[str, Any]] = {  # teachers and in-place distillation together
    "assisted": {"pupils": "widest", "inplace_distillation": 0.5},
    "mixed": {"distillation": 0.4, "inplace_distillation": 0.5},
}
CLOTHES_DEPTHWISE = [f"_blocks.{number}._depthwise_conv" for number in range(16)]
CURVE = (0.8, 0.9, 0.96, 0.98)  # shares pruned of the whole recipe's curve, beside its own


@dataclass(frozen=True, slots=True)
class Study:
    """`data`: whose path it needs; `jobs` from that path and a folder; `rows` from what they made."""

    data: str
    jobs: Callable[[str, Path], list[Job]]
    rows: Callable[..., list[Any]]


def lenets(data: str, folder: Path) -> list[Job]:
    """Both LeNets of three seeds, dense and by the whole recipe; of the first seed also its curve and each part."""
    jobs = []
    for recipe, net in LENETS.items():
        task = TrainTask(net, data, widths=(1.0,), exits=1, batch=128, augment="none")
        teachers = tuple(f"{recipe}-{seed}" for seed in SEEDS)
        for seed in SEEDS:
            options = fit_options(epochs=15, lr=0.1 if net == "lenet300" else 0.05, seed=seed, **FAST)
            jobs.append(Job(f"{recipe}-{seed}", Training(task, options), data, folder))
            whole = Compression(f"{recipe}-{seed}", recipe, {0: {"seed": seed}}, teachers=teachers)
            jobs.append(Job(f"{recipe}-{seed}-coded", whole, data, folder, coded=True))
        of_first = Compression(f"{recipe}-0", recipe, teachers=teachers)
        for share in CURVE:
            jobs.append(
                _coded(f"{recipe}-at-{share:g}", replace(of_first, changes={1: {"share": share}}), data, folder)
            )
        jobs += _alone(recipe, data, folder) if recipe == "lenet300" else []
    return jobs


def _alone(recipe: str, data: str, folder: Path) -> list[Job]:
    """Single passes, without teachers, trained for as many epochs as the whole recipe together."""
    jobs = []
    for part, (number, option, values) in ALONE.items():
        for value in values:
            changes = {0: {"teachers": []}, number: {option: value, "epochs": 28 if part == "cluster" else 5}}
            work = Compression(f"{recipe}-0", recipe, changes, only=(number,))
            jobs.append(_coded(f"{recipe}-{part}-{value:g}", work, data, folder))
    distilled = Compression(
        f"{recipe}-0", recipe, {2: {"epochs": 28}}, only=(2,), teachers=tuple(f"{recipe}-{seed}" for seed in SEEDS)
    )
    return [*jobs, _coded(f"{recipe}-distill", distilled, data, folder)]


def _coded(name: str, work: Compression, data: str, folder: Path) -> Job:
    return Job(name, work, data, folder, coded=True)


def small_task(data: str) -> TrainTask:
    """The CIFAR supernet of 16 channels, at full resolution."""
    return replace(CIFAR.task, data=data, net_options={"base": "16", "blocks": "2"})


def small_options(**changes: Any) -> FitOptions:
    """Of its training; as the reference's, longer."""
    loss = {"sandwich": 1, "depth_weights": (0.3, 0.6, 0.9, 2.2), "label_smoothing": 0.1}
    return fit_options(**{"epochs": 12, "lr": 0.1, **loss, **FAST, **changes})


def supernets(data: str, folder: Path) -> list[Job]:
    """CIFAR supernets of 16 and of 64 channels, and their coded bundles."""
    jobs = []
    for name, recipe, task, options in (
        ("cifar16", "cifar16", small_task(data), small_options()),
        ("cifar64", "cifar", CIFAR.on(data), CIFAR.options),
    ):
        jobs.append(Job(name, Training(task, options), data, folder))
        jobs.append(_coded(f"{name}-coded", Compression(name, recipe), data, folder))
    return jobs


def photos(data: str, folder: Path) -> list[Job]:
    """The photos' supernet and its coded bundle; one more, whose depthwise layers aren't pruned, tuned for longer."""
    training = Training(CLOTHES.on(data), CLOTHES.options)
    dense = Job("clothes", training, data, folder, splits=CLOTHES.splits)
    coded = Job("clothes-coded", Compression("clothes", "clothes"), data, folder, coded=True, splits=CLOTHES.splits)
    changes: dict[int, dict[str, Any]] = {1: {"skip": CLOTHES_DEPTHWISE}, 2: {"epochs": 5}}
    work = Compression("clothes", "clothes", changes)
    return [dense, coded, Job("clothes-skip", work, data, folder, coded=True, splits=CLOTHES.splits)]


def plain(data: str, folder: Path, width: float = 1.0) -> Job:
    """The reference network without widths and exits: one of its controls."""
    options = replace(CIFAR.options, loss=CIFAR.options.loss.of_one())
    name = "plain" if width == 1.0 else f"plain-{width:g}"
    return Job(name, Training(replace(CIFAR.on(data), alone=width), options), data, folder, precisions=("fp32", "int8"))


def longer(data: str, folder: Path) -> Job:
    """The control of what is trained on after its training: the same network, by itself, for as long as any of them."""
    return Job("plain-longer", Compression("plain", "longer"), data, folder)


def channels(data: str, folder: Path) -> list[Job]:
    """Half the MACs; the same shape from scratch for equal cost: pruning took 10 epochs of the whole and 12 of about
    two thirds, which are 36 of half the MACs."""
    scratch = replace(plain(data, folder).work.options, epochs=36)  # type: ignore[union-attr]
    return [
        plain(data, folder),
        Job("plain-channels", Compression("plain", "channels"), data, folder),
        Job("plain-channels-scratch", Scratch("plain-channels", scratch), data, folder),
        Job("cifar64", Training(CIFAR.on(data), CIFAR.options), data, folder),
    ]


def bits(data: str, folder: Path) -> list[Job]:
    """8 bits aware of quantization, and one bit."""
    aware = Job("plain-int8", Compression("plain", "int8"), data, folder, precisions=("fp32", "int8"))
    binary = _coded("plain-binary", Compression("plain", "binary"), data, folder)
    return [plain(data, folder), longer(data, folder), aware, binary]


def factors(data: str, folder: Path) -> list[Job]:
    """Products of thinner layers, and depthwise separable ones."""
    return [
        plain(data, folder),
        longer(data, folder),
        Job("plain-low_rank", Compression("plain", "low_rank"), data, folder),
        Job("plain-separable", Compression("plain", "separable"), data, folder),
    ]


def taught(data: str, folder: Path) -> list[Job]:
    """The supernet of 16 channels, from its second epoch on and once it is trained: by labels, in place, and by two
    larger networks; from its second epoch on also by these and in place together."""
    begun = Job("cifar16-begun", Training(small_task(data), small_options(epochs=1)), data, folder)
    jobs = [plain(data, folder), plain(data, folder, 0.75), begun, supernets(data, folder)[0]]
    for way, change in (WAYS | COMBINED).items():
        early = Compression("cifar16-begun", "taught", {0: {"seed": 0}, 1: change}, teachers=TEACHERS)
        jobs.append(Job(f"cifar16-{way}", early, data, folder))
    for way, change in WAYS.items():
        late = Compression("cifar16", "taught", {0: {"seed": 0}, 1: change | {"lr": 0.05}}, teachers=TEACHERS)
        jobs.append(Job(f"cifar16-{way}-late", late, data, folder))
    return jobs


STUDIES: dict[str, Study] = {
    "lenets": Study("fashion", lenets, lenets_rows),
    "supernets": Study("cifar", supernets, supernets_rows),
    "photos": Study("clothes", photos, supernets_rows),
    "channels": Study("cifar", channels, channels_rows),
    "bits": Study("cifar", bits, bits_rows),
    "factors": Study("cifar", factors, factors_rows),
    "taught": Study("cifar", taught, taught_rows),
}


def jobs_of(studies: Sequence[str], data: dict[str, str], folder: Path) -> list[Job]:
    """All jobs of some studies, each once; what several have is the same job.

    Raises:
        ValueError: two studies mean different things by one name.
    """
    found: dict[str, Job] = {}
    for name in studies:
        study = STUDIES[name]
        for job in study.jobs(data[study.data], folder):
            if found.setdefault(job.name, job).settings() != job.settings():
                raise ValueError(f"job {job.name} is not the same in {name} as in another study")
    return list(found.values())
