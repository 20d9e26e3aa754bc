"""The networks that `bench.session` measures, with random weights: as a bundle, and as ONNX files to compare with.

They are built in a process of its own (`python -m stretto.bench.bundles FOLDER`), so that what measures has no torch.
"""

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.bundle import Bundle, write_bundle
from ..runtime.manifest import InputSpec, PointRecord

WIDTHS = (0.25, 0.5, 0.75, 1.0)
EXITS = 4


@dataclass(frozen=True, slots=True)
class Subject:
    """A network to measure. `shape`: of one input, without the batch; `base`: of a ResNet, its first channels."""

    name: str
    net: str
    shape: tuple[int, int, int]
    classes: int
    base: int | None = None


@dataclass(frozen=True, slots=True)
class Files:
    """What is measured of one network.

    `bundle`: all widths and exits; `plain`: the network itself as one ONNX graph, as `torch.onnx.export` makes it;
    `with_heads`: that with the bundle's early exits.
    """

    name: str
    bundle: Path
    plain: Path
    with_heads: Path


# the ResNet-14 that is trained on CIFAR, half a millisecond, and one with the 8 ms that the design was planned with
SUBJECTS = (
    Subject("resnet-16", "resnet", (3, 32, 32), 10, base=16),
    Subject("resnet-64", "resnet", (3, 32, 32), 10, base=64),
    Subject("mobilenet", "mobilenet", (3, 224, 224), 1000),
)


def files_of(name: str, folder: Path) -> Files:
    """Where `build` puts the network of that name."""
    return Files(name, folder / f"{name}.stretto", folder / f"{name}.onnx", folder / f"{name}.heads.onnx")


def build(subject: Subject, folder: Path, widths: Sequence[float] = WIDTHS, exits: int = EXITS) -> Files:
    """Writes a network's files."""
    import torch

    from ..training.export import export
    from ..training.nets.make import make_net
    from ..training.supernet.convert import make_supernet

    torch.manual_seed(0)
    files = files_of(subject.name, folder)
    options: dict[str, Any] = {} if subject.base is None else {"base": subject.base}
    net = make_net(subject.net, subject.classes, subject.shape, **options).eval()
    example = torch.randn(1, *subject.shape)
    supernet = make_supernet(net, example, widths, exits).eval()
    nothing_learned = [(np.zeros((1, *subject.shape), np.float32), np.zeros(1, np.int64))]
    bundle = export(supernet, nothing_learned, files.bundle, input=InputSpec(subject.shape), network=subject.net)
    give_accuracies(bundle)
    for module, path in ((net, files.plain), (supernet.shared, files.with_heads)):
        torch.onnx.export(module, (example,), path, dynamo=True, external_data=False, verbose=False)
    return files


def give_accuracies(bundle: Bundle) -> None:
    """Writes the bundle again with accuracies that rise with the MACs, as a trained network's would.

    Otherwise a policy would choose among numbers drawn by chance. What they are doesn't matter, only their order.
    """
    points = tuple(replace(point, accuracy=_made_up(point)) for point in bundle.manifest.points)
    manifest = replace(bundle.manifest, points=points)
    write_bundle(bundle.path, manifest, bundle.graphs, bundle.weights, bundle.coding)


def _made_up(point: PointRecord) -> float:
    return 1 - 1 / math.log10(point.macs + 10)


def build_apart(folder: Path) -> list[Files]:
    """Every subject's files in `folder`, built in another process where they aren't there yet.

    Raises:
        RuntimeError: the other process failed; what it said is on the standard error.
    """
    found = [files_of(subject.name, folder) for subject in SUBJECTS]
    if not all(path.exists() for files in found for path in (files.bundle, files.plain, files.with_heads)):
        ended = subprocess.run(
            [sys.executable, "-P", "-W", "ignore::FutureWarning", "-m", __name__, str(folder)],
            stdout=subprocess.DEVNULL,
            check=False,
        )
        if ended.returncode:
            raise RuntimeError(f"building {', '.join(files.name for files in found)} in {folder} failed, see above")
    return found


def full_graph_session(path: Path, threads: int) -> Any:
    """ONNX Runtime on a file as one would call it without stretto: default options but for the number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    for subject in SUBJECTS:
        build(subject, Path(sys.argv[1]))
