"""The `.stretto` file: one supernet, every width, depth and precision of it, its weights stored once.

A zip of `manifest.json` (first), graphs without weights and `weights.safetensors`, or of a coded bundle
`graphs.joined` and `weights.coded`. The manifest holds the SHA-256 of every other member, the zip's comment that of the
manifest. See `manifest.py` for what it says, `archive.py` and `members.py` for the file, `verify.py` for what must fit,
`onnx_fragment.py` for how graphs become the model of a step.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..policies.situation import OperatingPoint, Step
from .archive import ZIP_ERRORS, read_archive, sealed, write_archive
from .errors import BundleError
from .manifest import Arrays, Fragment, Manifest, PointRecord, TensorSpec, graphs_of
from .members import Coding, from_members, to_members
from .onnx_fragment import graph_input, graph_output, header
from .verify import ROUTER, Key, fragment_key, verify


@dataclass(frozen=True, slots=True)
class StepModel:
    """What an engine needs to run one step.

    `model`: a serialised ONNX model without weights; `outputs`: names of the logits and, unless the step ends at the
    final exit, of the features that the next step takes; `initializers`: the weights, float32 or int8, contiguous.
    """

    model: bytes
    input: TensorSpec
    outputs: tuple[str, ...]
    initializers: Arrays


class Bundle:
    """A verified bundle. `path`, `manifest`, and `sha256`, the manifest's hash, which identifies the contents.

    `graphs` by member and `weights` by name are as they are stored, to be read only. `coding`: what `write_bundle` is
    to be given so that it is stored as it is; None for uncoded, else the scales of weights. The shared weights are in
    memory once; a step's are cut when its model is asked for. Safe to use from threads.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        sha256: str,
        graphs: Mapping[str, bytes],
        weights: Arrays,
        coding: Coding | None = None,
    ) -> None:
        self.path, self.manifest, self.sha256 = path, manifest, sha256
        self.graphs, self.weights, self.coding = graphs, weights, coding
        self._routed = tuple(record.point for record in manifest.points)
        self._fragments = {fragment_key(fragment): fragment for fragment in manifest.fragments}
        self._points = {(point.width, point.depth, point.precision): point for point in manifest.points}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Bundle":
        """Reads and verifies all of it.

        Raises:
            BundleError: it can't be read, was changed or damaged, or doesn't fit together.
        """
        path = Path(path)
        try:
            manifest, sha256, contents = read_archive(path)
            graphs, weights, coding = from_members(contents)
            verify(manifest, graphs, weights)
        except ZIP_ERRORS as error:
            raise BundleError(
                f"{path}: {str(error) or type(error).__name__}; get or export the bundle again"
            ) from error
        return cls(path, manifest, sha256, graphs, weights, coding)

    def only(self, precisions: Iterable[str]) -> "Bundle":
        """The same bundle with the points of these precisions, in its own order, as if it had no others."""
        kept = tuple(precision for precision in self.manifest.precisions if precision in set(precisions))
        points = tuple(point for point in self.manifest.points if point.precision in kept)
        manifest = replace(self.manifest, precisions=kept, points=points)
        less = Bundle(self.path, manifest, self.sha256, self.graphs, self.weights, self.coding)
        less._routed = self._routed
        return less

    @property
    def routed(self) -> tuple[OperatingPoint, ...]:
        """What the router's logits are of, in their order, also points that `only` left out; empty without a router."""
        return self._routed if ROUTER in self._fragments else ()

    def point(self, width: float, depth: int, precision: str = "fp32") -> PointRecord:
        """What is known of an operating point.

        Raises:
            ValueError: the bundle doesn't have it; names what it has.
        """
        if (width, depth, precision) in self._points:
            return self._points[width, depth, precision]
        has = self.manifest
        raise ValueError(
            f"no point of width {width}, depth {depth}, precision {precision!r} in {self.path.name}; it has widths "
            f"{has.widths}, depths 1 to {has.depths}, precisions {has.precisions}"
        )

    def model(self, step: Step) -> StepModel:
        """The graph of a step and its weights.

        Raises:
            ValueError: the bundle doesn't have it; names what it has.
        """
        if step.depth:
            self.point(step.width, step.depth, step.precision)
        if not 0 <= step.first <= step.depth:
            raise ValueError(
                f"step starts at stage {step.first}; to end at exit {step.depth}, start at 0 to {step.depth}"
            )
        if step.depth == 0:
            return self.router_model(step.precision)
        parts = self._parts(step)
        return self._model(parts, [parts[-1]] if step.depth == self.manifest.depths else [parts[-1], parts[-2]])

    def router_model(self, precision: str = "fp32") -> StepModel:
        """Stem, in that precision, and router, whose logits, (samples, `routed`), come before the stem's features.

        Raises:
            ValueError: the bundle has no router, or not that precision.
        """
        self.point(self.manifest.widths[0], 1, precision)
        if ROUTER not in self._fragments:
            raise ValueError(f"{self.path.name} has no router; give it one by stretto router")
        stem, router = self._fragments[0, None, graphs_of(precision), "body"], self._fragments[ROUTER]
        return self._model([stem, router], [router, stem])

    def _model(self, parts: list[Fragment], ends: list[Fragment]) -> StepModel:
        outputs = [end.output for end in ends]
        names = tuple(output.name for output in outputs)
        return StepModel(self._assemble(parts, outputs), parts[0].input, names, self._bind(parts))

    def _parts(self, step: Step) -> list[Fragment]:
        """Bodies from `first` to `depth`, which the last stage doesn't have, then the head."""
        last_body, precision = min(step.depth, self.manifest.depths - 1), graphs_of(step.precision)
        keys: list[Key] = [
            (stage, step.width if stage else None, precision, "body") for stage in range(step.first, last_body + 1)
        ]
        return [self._fragments[key] for key in [*keys, (step.depth, step.width, precision, "head")]]

    def _assemble(self, parts: list[Fragment], outputs: list[TensorSpec]) -> bytes:
        start = header(self.manifest.ir_version, self.manifest.opset, self.manifest.network)
        graphs = [self.graphs[part.member] for part in parts]
        source = graph_input(parts[0].input.name, parts[0].input.shape)
        return b"".join([start, *graphs, source, *(graph_output(output.name, output.shape) for output in outputs)])

    def _bind(self, parts: list[Fragment]) -> Arrays:
        return {name: binding.array(self.weights) for part in parts for name, binding in part.bindings.items()}


def write_bundle(
    path: str | os.PathLike[str],
    manifest: Manifest,
    graphs: Mapping[str, bytes],
    weights: Mapping[str, NDArray[Any]],
    coding: Coding | None = None,
) -> None:
    """Verifies the parts, then writes them; fills in the manifest's `members`. Atomic: all of it, or no trace.

    `coding`: None stores the weights as they are; scales of weights, none of which are needed, in as few bytes as can
    be, see `coded.encode`. What is read back is the same to the bit.

    Raises:
        BundleError: the parts don't fit together; the message names the member.
    """
    path = Path(path)
    arrays = {name: np.asarray(array, order="C") for name, array in weights.items()}
    try:
        verify(manifest, graphs, arrays)
        contents = to_members(graphs, arrays, coding)
        raw = sealed(manifest, contents)
    except (ValueError, TypeError) as error:
        raise BundleError(f"{path}: {error}; nothing was written") from error
    write_archive(path, raw, contents)
