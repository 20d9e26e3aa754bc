"""A bundle becomes one of other precisions. Its graphs and weights are enough: no network is made."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from ..runtime.bundle import Bundle, write_bundle
from ..runtime.manifest import PointRecord, graphs_of
from .bundle_data import data_of, normal_of, said_in
from .onnx_graph import Parts, tensors_of
from .precisions import (
    CODED,
    Loader,
    Tell,
    check_engines,
    check_folder,
    check_precisions,
    check_readings,
    measured,
    quantized,
)
from .task import EVALUATION_BATCH, batches

# what provenance says of the data that figures are of
MEASURED_ON = {"held_out_data", "splits", "spared", "certified_on"}


def with_precisions(
    bundle: Bundle,
    held_out: Loader,
    path: str | Path,
    *,
    calibration: Loader,
    precisions: Sequence[str],
    reduce_range: bool = False,
    coded: bool = False,
    provenance: dict[str, Any] | None = None,
    progress: Tell | None = None,
) -> Bundle:
    """Write a bundle again in the precisions asked, with accuracies and temperatures measured anew.

    What it has of them is kept as it is, what it lacks is made of its fp32, what isn't asked is left out, and so is a
    router, as it was fitted to other points. `path` may be the bundle's own.

    Args:
        held_out, calibration, precisions, reduce_range, progress: as for `export`.
        coded: in as few bytes as can be, the numbers as they are; a bundle that is stays it.
        provenance: beside and over the bundle's own, such as the data's name.

    Raises:
        ValueError: the bundle has no fp32 or an int8 of another range than asked, the data don't fit it or can be gone
            through only once and are needed again, or the folder of `path` isn't there.
    """
    tell, path, has = progress or (lambda what, done, total: None), Path(path), bundle.manifest
    coding = {} if coded and bundle.coding is None else bundle.coding
    check_folder(path)
    check_asked(bundle, precisions, reduce_range)
    lacks_int8 = "int8" in precisions and "int8" not in has.precisions
    check_readings(held_out, calibration, precisions, len(has.widths) if lacks_int8 else 0)
    parts = _kept(bundle, precisions)
    about = _provenance(bundle, precisions, reduce_range, {**({} if coding is None else CODED), **(provenance or {})})
    manifest = replace(has, precisions=tuple(precisions), points=_points(bundle, precisions), provenance=about)
    # what was certified was so with the temperatures, and the networks, that were there before
    manifest = replace(manifest, fragments=parts.fragments, members={}, certified=None)
    check_engines(Bundle(path, manifest, "", parts.graphs, parts.weights))
    if lacks_int8:
        parts = quantized(parts, calibration, reduce_range, tell)
        manifest = replace(manifest, fragments=parts.fragments)
    draft = Bundle(path, manifest, "", parts.graphs, parts.weights)
    manifest = replace(manifest, points=measured(draft, held_out, calibration, tell))
    write_bundle(path, manifest, parts.graphs, parts.weights, coding)
    return Bundle.open(path)


def export_bundle(
    bundle: Bundle,
    out: str | Path,
    data_path: str,
    *,
    weights: str | None = None,
    precisions: tuple[str, ...] = ("fp32",),
    reduce_range: bool = False,
    splits: tuple[str, ...] | None = None,
    spare: float | None = None,
    coded: bool = False,
    tell: Tell | None = None,
) -> Bundle:
    """`with_precisions` on data from names, split as the bundle's training split them.

    Args:
        weights: nothing, or what the bundle has: they stay as they are stored.
        splits: that accuracies are of; those that the bundle's are of where not given.
        spare: share of the calibration split that nothing is fitted to; what the bundle says where not given.
        coded: as for `with_precisions`.

    Raises:
        ValueError: as `with_precisions`, the bundle's provenance lacks what is needed, or the data are of other classes
            or shapes.
    """
    has = bundle.manifest
    check_asked(bundle, precisions, reduce_range)
    _check_weights(bundle, weights)
    splits = splits or tuple(said_in(bundle, "splits", list, "name the splits that accuracies are to be of"))
    data = data_of(bundle, data_path, "give with_precisions", tell)
    spare, normal = _spared(bundle, precisions, spare), normal_of(has.input)
    return with_precisions(
        bundle,
        [batch for split in splits for batch in batches(data, split, EVALUATION_BATCH, normal)],
        out,
        calibration=batches(data.sparing(spare), "calibration", EVALUATION_BATCH, normal),
        precisions=precisions,
        reduce_range=reduce_range,
        coded=coded,
        provenance={"held_out_data": data.name, "splits": list(splits), **({"spared": spare} if spare else {})},
        progress=tell,
    )


def check_asked(bundle: Bundle, precisions: Sequence[str], reduce_range: bool) -> None:
    """The bundle can be had in these precisions.

    Raises:
        ValueError: it can't; says why.
    """
    check_precisions(precisions, (), reduce_range)
    has, said = bundle.manifest.precisions, bundle.manifest.provenance.get("reduce_range")
    if "fp32" not in has:
        raise ValueError(f"{bundle.path}: has no fp32, of which others are made, but {', '.join(has)}; export it again")
    if reduce_range and "int8" in has and said is not True:
        raise ValueError(
            f"{bundle.path}: has an int8 that reduce_range didn't make, and that would be kept; leave reduce_range, or "
            "write the bundle in fp32 alone first and add int8 to that"
        )


def _kept(bundle: Bundle, precisions: Sequence[str]) -> Parts:
    """The graphs that the bundle has of these precisions, with the weights that they use."""
    has = bundle.manifest
    compiled = {graphs_of(precision) for precision in precisions if precision in has.precisions}
    fragments = tuple(one for one in has.fragments if one.precision in compiled and one.part != "router")
    members = {fragment.member for fragment in fragments}
    used = tensors_of(binding for fragment in fragments for binding in fragment.bindings.values())
    return Parts(
        fragments,
        {name: graph for name, graph in bundle.graphs.items() if name in members},
        {name: array for name, array in bundle.weights.items() if name in used},
        has.ir_version,
        has.opset,
        has.provenance.get("unshared_bytes", 0),
    )


def _points(bundle: Bundle, precisions: Sequence[str]) -> tuple[PointRecord, ...]:
    """Not measured yet; a point's MACs and parameters are the same in every precision."""
    has = bundle.manifest
    return tuple(
        replace(bundle.point(width, depth), precision=precision, accuracy=0.0, temperature=1.0)
        for width, depth, precision in product(has.widths, range(1, has.depths + 1), precisions)
    )


def _provenance(bundle: Bundle, precisions: Sequence[str], reduce_range: bool, given: dict[str, Any]) -> dict[str, Any]:
    """The bundle's own, without what isn't true of the new one; a kept int8's range stays as it was said."""
    has = bundle.manifest
    said = {**has.provenance, **given}
    if "int8" not in precisions or "int8" not in has.precisions:
        said["reduce_range"] = reduce_range
    stale = {*MEASURED_ON, "router"} - given.keys()
    return {name: value for name, value in said.items() if name not in stale}


def _check_weights(bundle: Bundle, weights: str | None) -> None:
    if weights is None:
        return
    stored = said_in(bundle, "weights", str, "leave weights out, as they stay as they are stored")
    if weights != stored:
        raise ValueError(
            f"{bundle.path}: weights '{weights}' are asked, a bundle's stay as they are stored, which is '{stored}'; "
            "leave weights out, or export the checkpoint"
        )


def _spared(bundle: Bundle, precisions: Sequence[str], asked: float | None) -> float:
    """The share that is asked, or that the bundle spared; a kept int8 spared what it did."""
    spared: float = bundle.manifest.provenance.get("spared", 0.0)
    keeps_int8 = "int8" in precisions and "int8" in bundle.manifest.precisions
    if asked is not None and asked != spared and keeps_int8:
        raise ValueError(
            f"{bundle.path}: has an int8 that spared {spared:g} of the calibration split, {asked:g} is asked; "
            "leave it, or write the bundle in fp32 alone first and add int8 to that"
        )
    return spared if asked is None else asked
