"""A trained supernet becomes a bundle."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules import batchnorm

from ..policies.situation import OperatingPoint
from ..runtime.bundle import Bundle, write_bundle
from ..runtime.manifest import Arrays, Fragment, InputSpec, Manifest, PointRecord, TensorSpec
from .calibrate import fit_temperature
from .errors import ExportError
from .evaluate import accuracy, point_logits
from .onnx_graph import bind, to_fragment
from .supernet import Supernet

Loader = Iterable[tuple[Any, Any]]
TOLERANCE = 1e-3  # largest difference to the torch network, over its largest logit, that an export may have


@dataclass(frozen=True, slots=True)
class Parts:
    """A bundle's contents before accuracies are known."""

    fragments: tuple[Fragment, ...]
    graphs: dict[str, bytes]
    weights: Arrays
    ir_version: int
    opset: int


def export(
    net: Supernet,
    held_out: Loader,
    path: str | Path,
    *,
    input: InputSpec,
    classes: Sequence[str] | None = None,
    calibration: Loader | None = None,
    network: str = "supernet",
    provenance: dict[str, Any] | None = None,
    weights: str = "float32",
    progress: Callable[[str, int, int], None] | None = None,
) -> Bundle:
    """Write a supernet as a bundle: every width and depth, weights once, held-out accuracy of every point inside.

    Args:
        held_out: (x, y) batches that training never saw, as tensors or arrays; they give the accuracies.
        input: what the network takes, and how pixels become that.
        classes: names in the order of the logits; numbers where not given.
        calibration: (x, y) batches, neither trained on nor held out, that give each exit's temperature; without them
            temperatures stay 1.
        weights: "float32", or "float16" to halve the file; accuracies are those of what is stored.
        progress: told what is being done, how much of it is done, and how much there is.

    Raises:
        ExportError: a part has no ONNX form, or the compiled graphs don't answer what the torch network answers.
    """
    tell = progress or (lambda what, done, total: None)
    was_training = net.training
    net.eval()
    try:
        parts = build_parts(net, input.shape, weights, tell)
        names = classes or [str(i) for i in range(parts.fragments[-1].output.shape[0])]
        manifest = _manifest(net, parts, input, names, network, provenance or {})
        draft = Bundle(Path(path), manifest, "", parts.graphs, parts.weights)
        _compare(net, draft, weights)
        manifest = replace(manifest, points=_measured(draft, held_out, calibration, tell))
    finally:
        net.train(was_training)
    write_bundle(path, manifest, parts.graphs, parts.weights)
    return Bundle.open(path)


def build_parts(net: Supernet, shape: tuple[int, ...], dtype: str, tell: Callable[[str, int, int], None]) -> Parts:
    """Every body and head as a graph bound to one set of weights."""
    compiler = _Compiler(net, dtype, tell)
    stem = compiler.compile(None, 0, "body", torch.randn(2, *shape))
    for width in net.widths:
        features = stem
        for stage in range(1, net.depths + 1):
            if stage < net.depths:
                features = compiler.compile(width, stage, "body", features)
            compiler.compile(width, stage, "head", features)
    return compiler.parts()


class _Compiler:
    """Compiles one part after the other and keeps what they need."""

    def __init__(self, net: Supernet, dtype: str, tell: Callable[[str, int, int], None]) -> None:
        self.net, self.tell = net, tell
        self.weights = _shared_weights(net, dtype)
        self.fragments: list[Fragment] = []
        self.graphs: dict[str, bytes] = {}
        self.versions: set[tuple[int, int]] = set()

    def compile(self, width: float | None, stage: int, kind: Literal["body", "head"], x: torch.Tensor) -> torch.Tensor:
        """Add a part; `x`: (2, …) what comes in. Returns what goes out."""
        self.tell(
            "compiling", len(self.fragments), 2 * self.net.depths * len(self.net.widths) - len(self.net.widths) + 1
        )
        label = "stem" if width is None else f"w{width:g}"
        source = stage if kind == "head" and stage < self.net.depths else stage - 1
        names = "input" if source < 0 else f"f{source}", f"f{stage}" if kind == "body" else f"scores{stage}"
        part, tensors = self.net.part(width, stage, kind)
        bound = bind(part, tensors, self.weights, label)
        with torch.no_grad():
            y = bound.module(x)
        graph = to_fragment(bound, self.weights, x, names, f"{label}/s{stage}{kind[0]}")
        member = f"graphs/{label}/{stage}_{kind}.onnx"
        ends = TensorSpec(names[0], tuple(x.shape[1:])), TensorSpec(names[1], tuple(y.shape[1:]))
        self.fragments.append(Fragment(stage, width, "fp32", kind, member, *ends, graph.bindings))
        self.graphs[member] = graph.raw
        self.weights |= bound.vectors | graph.own
        self.versions.add((graph.ir_version, graph.opset))
        return y

    def parts(self) -> Parts:
        """Everything compiled so far, with the weights that it uses."""
        ((ir_version, opset),) = self.versions
        bindings = [binding for fragment in self.fragments for binding in fragment.bindings.values()]
        used = {b.tensor for b in bindings} | {b.scale for b in bindings if b.scale is not None}
        weights = {name: self.weights[name] for name in sorted(used)}
        return Parts(tuple(self.fragments), self.graphs, weights, ir_version, opset)


def _shared_weights(net: Supernet, dtype: str) -> Arrays:
    """The network's own tensors as they are stored, but for its batch norms, which are folded."""
    if dtype not in ("float32", "float16"):
        raise ValueError(f"weights '{dtype}': one of float32, float16")
    weights = {}
    for name, layer in net.shared.named_modules():
        if not isinstance(layer, batchnorm._BatchNorm):
            for attribute, value in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
                array = value.detach().cpu().contiguous().numpy()
                weights[f"{name}.{attribute}"] = array.astype(dtype) if array.dtype.kind == "f" else array
    return weights


def _manifest(
    net: Supernet, parts: Parts, input: InputSpec, classes: Sequence[str], network: str, provenance: dict[str, Any]
) -> Manifest:
    points = [
        PointRecord(width, depth, "fp32", 0.0, net.macs(width, depth), net.parameters_at(width, depth))
        for width in net.widths
        for depth in range(1, net.depths + 1)
    ]
    return Manifest(
        network=network,
        classes=tuple(classes),
        input=input,
        widths=net.widths,
        depths=net.depths,
        precisions=("fp32",),
        ir_version=parts.ir_version,
        opset=parts.opset,
        points=tuple(points),
        fragments=parts.fragments,
        provenance={"torch": torch.__version__, **provenance},
        members={},
    )


def _measured(
    draft: Bundle, held_out: Loader, calibration: Loader | None, tell: Callable[[str, int, int], None]
) -> tuple[PointRecord, ...]:
    """The points with accuracy and temperature, as the compiled graphs answer."""
    logits, labels = point_logits(draft, _arrays(held_out), progress=lambda n: tell("evaluating", n, n))
    temperatures = dict.fromkeys(logits, 1.0)
    if calibration is not None:
        aside, theirs = point_logits(draft, _arrays(calibration))
        temperatures = {point: fit_temperature(z, theirs) for point, z in aside.items()}
    records = []
    for record in draft.manifest.points:
        point = OperatingPoint(record.width, record.depth, record.precision)
        right = accuracy(logits[point], labels)
        records.append(replace(record, accuracy=right, temperature=temperatures[point]))
    return tuple(records)


def _compare(net: Supernet, draft: Bundle, dtype: str) -> None:
    """The compiled graphs answer what the torch network answers (16-bit weights change it, so they are let off)."""
    x = torch.randn(3, *draft.manifest.input.shape)
    logits, _ = point_logits(draft, [(x.numpy(), np.zeros(3, dtype=np.int64))])
    for point, found in logits.items() if dtype == "float32" else ():
        with torch.no_grad():
            expected = net(x, point.width)[point.depth - 1].numpy()
        error = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6)
        if error > TOLERANCE:
            raise ExportError(f"{point}: compiled graphs differ from the torch network by {error:.1e} of its logits")


def _arrays(loader: Loader) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    for x, y in loader:
        yield np.ascontiguousarray(x, dtype=np.float32), np.asarray(y, dtype=np.int64)
