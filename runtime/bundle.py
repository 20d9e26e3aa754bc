"""The `.stretto` file: one supernet, every width, depth and precision of it, its weights stored once.

A zip of `manifest.json` (first), graphs without weights and `weights.safetensors`. The manifest holds the SHA-256 of
every other member, the zip's comment that of the manifest. See `manifest.py` for what it says, `verify.py` for what
must fit, `onnx_fragment.py` for how graphs become the model of a step.
"""

import hashlib
import os
import secrets
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from ..policies.situation import OperatingPoint, Step
from .errors import BundleError
from .manifest import Arrays, Fragment, Manifest, Member, PointRecord, TensorSpec, graphs_of
from .onnx_fragment import graph_input, graph_output, header
from .verify import ROUTER, WEIGHTS, Key, fragment_key, verify

MANIFEST = "manifest.json"
INFLATED_BYTES_MAX = 256 << 20  # of all deflated members; far above real graphs, which are a few kilobytes each
_COMMENT = "sha256:"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same contents give the same file
# all that zipfile raises on malformed files, found by flipping bytes
_ZIP_ERRORS = (
    OSError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, struct.error, ValueError, RuntimeError,
    NotImplementedError, OverflowError, IndexError,
)  # fmt: skip


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

    `graphs` by member and `weights` by name are as they are stored, to be read only. The shared weights are in memory
    once; a step's are cut when its model is asked for. Safe to use from threads.
    """

    def __init__(self, path: Path, manifest: Manifest, sha256: str, graphs: Mapping[str, bytes], weights: Arrays):
        self.path, self.manifest, self.sha256 = path, manifest, sha256
        self.graphs, self.weights = graphs, weights
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
            with zipfile.ZipFile(path) as file:
                members = _listed(file, path.stat().st_size)
                raw, sha256 = _read_manifest(file, members)
                with _about(MANIFEST):
                    manifest = Manifest.from_json(raw)
                contents = dict(_read_members(file, members, manifest.members))
            weights = _load_weights(contents.pop(WEIGHTS))
            verify(manifest, contents, weights)
        except _ZIP_ERRORS as error:
            raise BundleError(
                f"{path}: {str(error) or type(error).__name__}; get or export the bundle again"
            ) from error
        return cls(path, manifest, sha256, contents, weights)

    def only(self, precisions: Iterable[str]) -> "Bundle":
        """The same bundle with the points of these precisions, in its own order, as if it had no others."""
        kept = tuple(precision for precision in self.manifest.precisions if precision in set(precisions))
        points = tuple(point for point in self.manifest.points if point.precision in kept)
        manifest = replace(self.manifest, precisions=kept, points=points)
        less = Bundle(self.path, manifest, self.sha256, self.graphs, self.weights)
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
    path: str | os.PathLike[str], manifest: Manifest, graphs: Mapping[str, bytes], weights: Mapping[str, NDArray[Any]]
) -> None:
    """Verifies the parts, then writes them; fills in the manifest's `members`. Atomic: all of it, or no trace.

    Raises:
        BundleError: the parts don't fit together; the message names the member.
    """
    path = Path(path)
    arrays = {name: np.asarray(array, order="C") for name, array in weights.items()}
    try:
        verify(manifest, graphs, arrays)
        contents = {**graphs, WEIGHTS: safetensors.numpy.save(arrays)}
        raw = replace(manifest, members={name: _member(content) for name, content in contents.items()}).to_json()
        with _about(MANIFEST):
            Manifest.from_json(raw)
    except (ValueError, TypeError) as error:
        raise BundleError(f"{path}: {error}; nothing was written") from error
    with _replacing(path) as temporary:
        _write_zip(temporary, raw, contents)


def _write_zip(path: Path, manifest: bytes, contents: Mapping[str, bytes]) -> None:
    with open(path, "xb") as stream:
        with zipfile.ZipFile(stream, "w") as file:
            for name, content in {MANIFEST: manifest, **contents}.items():
                kind = zipfile.ZIP_STORED if name == WEIGHTS else zipfile.ZIP_DEFLATED
                file.writestr(zipfile.ZipInfo(name, _EPOCH), content, kind)
            file.comment = (_COMMENT + hashlib.sha256(manifest).hexdigest()).encode()
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` if all goes well, and goes away if it doesn't."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _member(content: bytes) -> Member:
    return Member(hashlib.sha256(content).hexdigest(), len(content))


def _listed(file: zipfile.ZipFile, file_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """The zip's members, after what its directory says of them has been found sane; nothing of them is read yet."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in file.filelist:
        with _about(info.filename):
            _check_listed(info, members)
        members[info.filename] = info
    stored = sum(info.compress_size for info in file.filelist)
    inflated = sum(info.file_size for info in file.filelist if info.compress_type != zipfile.ZIP_STORED)
    for what, found, limit in (("in the zip", stored, file_bytes), ("when inflated", inflated, INFLATED_BYTES_MAX)):
        if found > limit:
            raise ValueError(f"its members say they have {found} bytes {what}, expected at most {limit}")
    return members


def _check_listed(info: zipfile.ZipInfo, before: Mapping[str, object]) -> None:
    name, stored = info.filename, info.compress_type == zipfile.ZIP_STORED
    if name in before:
        raise ValueError("it is there twice")
    if name.startswith("/") or "\\" in name or ":" in name or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise ValueError("its name isn't a plain relative path")
    if info.flag_bits & 1:
        raise ValueError("it is encrypted")
    if not stored and (name == WEIGHTS or info.compress_type != zipfile.ZIP_DEFLATED):
        raise ValueError(f"compression {info.compress_type}, expected stored (0) or, but for weights, deflated (8)")
    if stored and info.file_size != info.compress_size:
        raise ValueError(f"it says {info.file_size} bytes, {info.compress_size} of them stored")


def _read_manifest(file: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> tuple[bytes, str]:
    if next(iter(members), None) != MANIFEST:
        raise ValueError(f"member {MANIFEST!r}: it must be the first, which is {next(iter(members), None)!r}")
    raw = _read(file, members[MANIFEST])
    found, expected = _COMMENT + hashlib.sha256(raw).hexdigest(), file.comment.decode("ascii", "replace")
    if found != expected:
        raise ValueError(f"member {MANIFEST!r}: it has {found}, the file's comment says {expected!r}")
    return raw, found.removeprefix(_COMMENT)


def _read_members(
    file: zipfile.ZipFile, listed: Mapping[str, zipfile.ZipInfo], expected: Mapping[str, Member]
) -> Iterator[tuple[str, bytes]]:
    if WEIGHTS not in expected:
        raise ValueError(f"member {MANIFEST!r}: it doesn't list {WEIGHTS!r}")
    for name in sorted((listed.keys() - {MANIFEST}) ^ expected.keys()):
        problem = "the manifest doesn't list it" if name in listed else "it isn't there"
        raise ValueError(f"member {name!r}: {problem}")
    for name, member in expected.items():
        if listed[name].file_size != member.size:
            raise ValueError(f"member {name!r}: {listed[name].file_size} bytes, the manifest says {member.size}")
        content = _read(file, listed[name])
        if (found := _member(content)) != member:
            raise ValueError(f"member {name!r}: SHA-256 is {found.sha256}, the manifest says {member.sha256}")
        yield name, content


def _read(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with _about(info.filename), file.open(info) as stream:
        content = stream.read(info.file_size)
        if len(content) < info.file_size or stream.read(1):
            raise ValueError(f"it doesn't have the {info.file_size} bytes that the zip's directory says")
        return content


def _load_weights(raw: bytes) -> Arrays:
    with _about(WEIGHTS):
        try:
            return safetensors.numpy.load(raw)
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(f"it isn't safetensors of numpy's types: {error!r}") from error


@contextmanager
def _about(member: str) -> Iterator[None]:
    """Puts the member's name before the message of what goes wrong with it."""
    try:
        yield
    except _ZIP_ERRORS as error:
        raise ValueError(f"member {member!r}: {str(error) or type(error).__name__}") from error
