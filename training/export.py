"""A trained supernet becomes a bundle."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..policies.situation import OperatingPoint, Step
from ..runtime.bundle import Bundle, write_bundle
from ..runtime.engines import make_engine
from ..runtime.manifest import Arrays, Fragment, InputSpec, Manifest, PointRecord, TensorSpec
from .errors import ExportError
from .evaluate import point_logits
from .fold import bind, shared_weights
from .onnx_graph import Graph, Job, Parts, compile_parts, tensors_of
from .precisions import (
    CODED,
    Loader,
    Tell,
    arrays,
    check_engines,
    check_folder,
    check_precisions,
    check_readings,
    measured,
    quantized,
)
from .supernet import Supernet

# largest difference to the torch network, over its largest logit, that an export may have; 16-bit weights have a
# relative error of 2^-11 each, so there only gross errors are found
TOLERANCE = {"float32": 1e-4, "float16": 5e-2}
HALVED = "; 16 bits may be too few for this network's numbers: export it in float32, not coded"


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
    precisions: Sequence[str] = ("fp32",),
    reduce_range: bool = False,
    coded: Mapping[str, NDArray[Any]] | None = None,
    progress: Tell | None = None,
) -> Bundle:
    """Write a supernet as a bundle: every width, depth and precision, weights once, held-out accuracy of every point.

    Args:
        held_out: (x, y) batches that training never saw, as tensors or arrays; they give the accuracies.
        input: what the network takes, and how pixels become that.
        classes: names in the order of the logits; numbers where not given.
        calibration: (x, y) batches, neither trained on nor held out, that give each exit's temperature and int8's
            ranges, for which they are gone through several times; without them temperatures stay 1.
        weights: "float32", or "float16" to halve the file; accuracies are those of what is stored.
        precisions: of `PRECISIONS`, "fp32" among them; "int8" needs `calibration`, "bf16" the engine "openvino" on a
            processor that has it, as its accuracy is measured on what runs it.
        reduce_range: int8 weights in 7 bits, with which processors of x86 without VNNI are fast.
        coded: not None for a file of as few bytes as can be, whose vectors (biases, and what norms fold into) are in 16
            bits, which accuracies are those of too. Weights that are whole numbers times a scale for every output
            channel take less where those are given by name; there needn't be any.
        progress: told what is being done, how much of it is done, and how much there is.

    Raises:
        ValueError: `input`, `classes` or the data don't fit the network, the data can be gone through only once and
            are needed again, `reduce_range` without int8, or the folder of `path` isn't there.
        BundleError: a weight isn't what `coded` says.
        ExportError: a part has no ONNX form, or the compiled graphs don't answer what the torch network answers.
    """
    tell = progress or (lambda what, done, total: None)
    path, was_training = Path(path), net.training
    net.eval()
    try:
        names = _checked_names(net, path, input, classes)
        check_precisions(precisions, calibration, reduce_range)
        check_readings(held_out, calibration, precisions, len(net.widths) if "int8" in precisions else 0)
        parts = build_parts(net, input.shape, weights, tell, coded is not None)
        said = {**({} if coded is None else CODED), **(provenance or {})}
        manifest = _manifest(net, parts, precisions, input, names, network, said)
        check_engines(Bundle(path, manifest, "", parts.graphs, parts.weights))
        if "int8" in precisions and calibration is not None:
            parts = quantized(parts, calibration, reduce_range, tell)
            manifest = replace(manifest, fragments=parts.fragments)
        draft = Bundle(path, manifest, "", parts.graphs, parts.weights)
        _compare(net, draft.only(["fp32"]), weights if coded is None else "float16")
        manifest = replace(manifest, points=measured(draft, held_out, calibration, tell))
    finally:
        net.train(was_training)
    write_bundle(path, manifest, parts.graphs, parts.weights, coded)
    return Bundle.open(path)


def build_parts(net: Supernet, shape: tuple[int, ...], dtype: str, tell: Tell, coded: bool = False) -> Parts:
    """Every body and head as a graph bound to one set of weights; `coded`: with vectors in 16 bits."""
    compiler = _Compiler(net, dtype, coded)
    stem = compiler.add(None, 0, "body", torch.randn(2, *shape))
    for width in net.widths:
        features = stem
        for stage in range(1, net.depths + 1):
            if stage < net.depths:
                features = compiler.add(width, stage, "body", features)
            compiler.add(width, stage, "head", features)
    tell("compiling", 0, len(compiler.jobs))
    parts = compiler.compile()
    tell("compiling", len(compiler.jobs), len(compiler.jobs))
    return parts


class _Compiler:
    """Binds one part after the other, then compiles all of them."""

    def __init__(self, net: Supernet, dtype: str, coded: bool) -> None:
        self.net, self.coded = net, coded
        self.weights = shared_weights(net.shared, dtype, coded)
        self.fragments: list[Fragment] = []
        self.jobs: list[Job] = []

    def add(self, width: float | None, stage: int, kind: Literal["body", "head"], x: torch.Tensor) -> torch.Tensor:
        """Add a part; `x`: (2, …) what comes in. Returns what goes out."""
        label = "stem" if width is None else f"w{width}"
        part, tensors = self.net.part(width, stage, kind)
        name = f"{label}/{stage}_{kind}"
        bound = bind(part, tensors, x, self.weights, name, self.coded)
        with torch.no_grad():
            y = bound.module(x)
        before = stage if kind == "head" and stage < self.net.depths else stage - 1
        source = TensorSpec("input" if before < 0 else f"f{before}", tuple(x.shape[1:]))
        result = TensorSpec(f"f{stage}" if kind == "body" else f"scores{stage}", tuple(y.shape[1:]))
        self.fragments.append(Fragment(stage, width, "fp32", kind, f"graphs/{name}.onnx", source, result, {}))
        self.jobs.append(Job(bound, x, source.name, result.name, name))
        return y

    def compile(self) -> Parts:
        """The parts' graphs, with the weights that they use."""
        graphs = compile_parts(self.jobs)
        fragments = [replace(f, bindings=g.bindings) for f, g in zip(self.fragments, graphs, strict=True)]
        weights, unshared = self._used(graphs)
        members = {fragment.member: graph.raw for fragment, graph in zip(fragments, graphs, strict=True)}
        return Parts(tuple(fragments), members, weights, graphs[0].ir_version, graphs[0].opset, unshared)

    def _used(self, graphs: Sequence[Graph]) -> tuple[Arrays, int]:
        unshared: Arrays = {}
        for job, graph in zip(self.jobs, graphs, strict=True):
            unshared |= job.bound.vectors | graph.own
        used = tensors_of(binding for graph in graphs for binding in graph.bindings.values())
        weights = {name: array for name, array in sorted((self.weights | unshared).items()) if name in used}
        return weights, sum(array.nbytes for name, array in unshared.items() if name in used)


def _checked_names(net: Supernet, path: Path, input: InputSpec, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The classes' names, after everything that can be known to be wrong before compiling was looked at."""
    takes = tuple(net.plan.traced.example.shape[1:])
    if input.shape != takes:
        raise ValueError(f"input.shape is {input.shape}, the supernet was made for {takes}")
    check_folder(path)
    with torch.no_grad():
        count = net(_zeros(net, 2, takes), net.widths[0])[-1].shape[1]
    if classes is not None and len(classes) != count:
        raise ValueError(f"{len(classes)} names of classes are given, the network has {count} logits")
    return tuple(classes or map(str, range(count)))


def _zeros(net: Supernet, batch: int, shape: tuple[int, ...]) -> torch.Tensor:
    like = next(net.parameters())
    return torch.zeros(batch, *shape, device=like.device, dtype=like.dtype)


def _manifest(
    net: Supernet,
    parts: Parts,
    precisions: Sequence[str],
    input: InputSpec,
    classes: tuple[str, ...],
    network: str,
    provenance: dict[str, Any],
) -> Manifest:
    points = [
        PointRecord(width, depth, precision, 0.0, net.macs(width, depth), net.parameters_at(width, depth))
        for width, depth, precision in product(net.widths, range(1, net.depths + 1), precisions)
    ]
    return Manifest(
        network=network,
        classes=classes,
        input=input,
        widths=net.widths,
        depths=net.depths,
        precisions=tuple(precisions),
        ir_version=parts.ir_version,
        opset=parts.opset,
        points=tuple(points),
        fragments=parts.fragments,
        provenance={"torch": torch.__version__, "unshared_bytes": parts.unshared_bytes, **provenance},
        members={},
    )


def _compare(net: Supernet, draft: Bundle, stored: str) -> None:
    """The compiled graphs answer what the torch network answers, leg by leg and each width in one span; `stored`: in
    what format the coarsest of the numbers are."""
    tolerance = TOLERANCE[stored]
    x = _zeros(net, 3, draft.manifest.input.shape).normal_().cpu()
    legs, _ = point_logits(draft, arrays([(x, np.zeros(3))]))
    spans = _span_logits(draft, _numbers(x).astype(np.float32))
    for point, found in legs.items():
        subnet = net.subnet(point.width, point.depth).cpu()  # a GPU may round to TF32, which is off by 1e-3
        with torch.no_grad():
            expected = _numbers(subnet(x))
        for answer in (found, spans.get(point, found)):
            error = np.abs(answer - expected).max() / max(np.abs(expected).max(), 1e-6)
            if not error <= tolerance:  # nor where it isn't a number
                raise ExportError(
                    f"{point}: the compiled graphs differ from the torch network by {error:.1e} of its largest logit, "
                    f"at most {tolerance:.0e} is expected{HALVED if stored == 'float16' else ''}"
                )


def _span_logits(draft: Bundle, x: NDArray[np.float32]) -> dict[OperatingPoint, NDArray[np.float32]]:
    """Every width's final logits, straight from the input."""
    engine = make_engine("onnx", draft)
    try:
        steps = [Step(0, draft.manifest.depths, width, "fp32") for width in draft.manifest.widths]
        return {step.point: engine.run(step, x)[0] for step in steps}
    finally:
        engine.close()


def _numbers(tensor: torch.Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy()
