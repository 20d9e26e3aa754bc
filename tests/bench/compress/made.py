"""Stand-ins for what the jobs of `bench compress` leave: small bundles that answer anything."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stretto.bench.compress.jobs import Compression, Job
from stretto.bench.jobs import write_record
from stretto.runtime.manifest import InputSpec
from stretto.training.compress.factors import separable_pair
from stretto.training.export import export
from stretto.training.nets import make_net
from stretto.training.supernet import make_supernet

SAMPLES = 200


def stand_ins(jobs: Sequence[Job]) -> None:
    """Writes all that `read_made` reads."""
    kinds: dict[Any, Any] = {}
    for number, job in enumerate(jobs):
        widths = _widths(job)
        job.folder.mkdir(parents=True, exist_ok=True)
        key = (widths, job.coded)
        if key not in kinds:
            kinds[key] = _bundle(job, widths)
        job.bundle.write_bytes(kinds[key])
        rng = np.random.default_rng(number)
        precisions = job.precisions
        right = {f"{w} {d} {p}": rng.random(SAMPLES) < 0.8 for w in widths for d in (1, 2) for p in precisions}
        with job.answers.open("wb") as file:
            np.savez(file, **right)
        write_record(job.record, job.settings(), seconds=1.0, report={"passes": _passes(job)})


def _widths(job: Job) -> tuple[float, ...]:
    if job.name.startswith(("cifar", "clothes")):
        return (0.5, 0.75, 1.0) if job.name.startswith("clothes") else (0.25, 0.5, 0.75, 1.0)
    return (1.0,)


def _net(widths: tuple[float, ...]) -> Any:
    torch.manual_seed(0)
    return make_supernet(make_net("resnet", 10, (3, 8, 8), base=32, blocks=1), torch.zeros(1, 3, 8, 8), widths, 2)


def _bundle(job: Job, widths: tuple[float, ...]) -> bytes:
    held_out = [(torch.randn(8, 3, 8, 8), torch.zeros(8, dtype=torch.long))]
    return export(
        _net(widths), held_out, job.bundle, input=InputSpec((3, 8, 8)), coded={} if job.coded else None
    ).path.read_bytes()  # fmt: skip


def _passes(job: Job) -> list[dict[str, Any]]:
    if not isinstance(job.work, Compression):
        return []
    layers = ["layer1.0.conv1", "layer2.0.conv2"]
    net = _net((1.0,)).shared
    pairs = {name: separable_pair(net.get_submodule(name)) for name in layers}
    ratios = {
        name: sum(p.weight.numel() for p in pair) / net.get_submodule(name).weight.numel()  # type: ignore[misc]
        for name, pair in pairs.items()
    }
    teachers = [str(job.folder / f"{name}.pt") for name in job.work.teachers]
    found = {"layers": ratios, "macs_left": 0.5, "ranks": dict.fromkeys(layers, 8), "teachers": teachers}
    sizes = {"coded_bytes": 1000}
    return [{"name": "any", "seconds": 1.0, "found": found, "before": sizes, "after": sizes}]
