"""Whether manifest, graphs and weights of a bundle fit together; nothing of it runs before they do."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product

import numpy as np

from ..policies.risk import LOSSES, METHODS
from .certified import certified_rule
from .manifest import (
    Arrays,
    Binding,
    Certified,
    Fragment,
    InputSpec,
    Manifest,
    PointRecord,
    TensorSpec,
    graphs_of,
)
from .onnx_fragment import FLOAT, INT8, Graph, read_fragment

Key = tuple[int, float | None, str, str]  # of a fragment: stage, width, precision, part
ROUTER: Key = (0, None, "fp32", "router")  # the one of them that a bundle needn't have


def fragment_key(fragment: Fragment) -> Key:
    """What a fragment is looked up by."""
    return fragment.stage, fragment.width, fragment.precision, fragment.part


def verify(manifest: Manifest, graphs: Mapping[str, bytes], weights: Arrays) -> None:
    """Checks everything that the steps rely on.

    Raises:
        ValueError: what doesn't fit; the message starts with the member and says what was found and expected.
    """
    try:
        _verify_axes(manifest)
        _verify_input(manifest.input)
        _verify_points(manifest)
        if manifest.certified is not None:
            _verify_certified(manifest, manifest.certified)
        _verify_complete(manifest)
        _verify_chain(manifest)
        _verify_router(manifest)
    except ValueError as error:
        raise ValueError(f"member 'manifest.json': {error}") from error
    _verify_members(manifest, graphs)
    parsed = {}
    for fragment in manifest.fragments:
        try:
            parsed[fragment.member] = graph = read_fragment(graphs[fragment.member])
            _verify_fragment(fragment, graph, weights)
        except ValueError as error:
            raise ValueError(f"member {fragment.member!r}: {error}") from error
    for width, precision in product(manifest.widths, _compiled(manifest)):
        _verify_unique([part for part in manifest.fragments if _on_path(part, width, precision)], parsed)


def _verify_axes(manifest: Manifest) -> None:
    widths, precisions = manifest.widths, manifest.precisions
    if not widths or list(widths) != sorted(set(widths)) or not 0 < widths[0] <= widths[-1] <= 1:
        raise ValueError(f"widths are {widths}, expected ascending numbers in (0, 1]")
    if manifest.depths < 1:
        raise ValueError(f"depths is {manifest.depths}, expected at least 1")
    if not precisions or len(set(precisions)) < len(precisions):
        raise ValueError(f"precisions are {precisions}, expected different names")
    if not manifest.classes:
        raise ValueError("classes is empty, expected one name per class")
    if manifest.ir_version < 1 or manifest.opset < 1:
        raise ValueError(f"ir_version {manifest.ir_version} and opset {manifest.opset}, expected at least 1")


def _verify_input(spec: InputSpec) -> None:
    if spec.dtype != "float32":
        raise ValueError(f"input.dtype is {spec.dtype!r}, expected 'float32'")
    if not spec.shape or min(spec.shape) < 1:
        raise ValueError(f"input.shape is {spec.shape}, expected sizes of at least 1")
    for name, values in (("mean", spec.mean), ("std", spec.std)):
        if len(values) not in (0, spec.shape[0]) or len(spec.mean) != len(spec.std):
            raise ValueError(f"input.{name} has {len(values)} values, expected {spec.shape[0]} or none, std like mean")
    if spec.scale <= 0 or any(value <= 0 for value in spec.std):
        raise ValueError(f"input.scale is {spec.scale} and input.std {spec.std}, expected positive numbers")


def _verify_points(manifest: Manifest) -> None:
    expected = list(product(manifest.widths, range(1, manifest.depths + 1), manifest.precisions))
    _same("points", expected, [(point.width, point.depth, point.precision) for point in manifest.points])
    for point in manifest.points:
        _verify_point(point)


def _verify_point(point: PointRecord) -> None:
    if not 0 <= point.accuracy <= 1:
        raise ValueError(f"accuracy of {point} isn't in [0, 1]")
    if min(point.macs, point.params) < 0 or point.temperature <= 0:
        raise ValueError(f"macs and params of {point} must be at least 0, its temperature positive")


def _verify_certified(manifest: Manifest, certified: Certified) -> None:
    certified_rule(certified)  # which checks the rule and its thresholds
    for name, found, known in (("loss", certified.loss, LOSSES), ("method", certified.method, METHODS)):
        if found not in known:
            raise ValueError(f"certified.{name} is {found!r}, expected one of {', '.join(known)}")
    if not (0 < certified.epsilon < 1 and 0 < certified.delta < 1 and certified.samples > 0):
        found = f"epsilon {certified.epsilon}, delta {certified.delta}, samples {certified.samples}"
        raise ValueError(f"certified has {found}, expected shares in (0, 1) and at least 1")
    there = [(way.width, way.precision) for way in certified.ways]
    possible = set(product(manifest.widths, manifest.precisions))
    if len(set(there)) < len(there) or not possible.issuperset(there):
        raise ValueError(f"certified.ways are {there}, expected different ones of the points' widths and precisions")
    for way in certified.ways:
        if not (-1 <= way.risk <= 1 and 0 <= way.early <= 1 and 0 <= way.agreement <= 1):
            raise ValueError(f"{way} has a risk outside [-1, 1], or a share outside [0, 1]")


def _verify_complete(manifest: Manifest) -> None:
    depths, final, compiled = range(1, manifest.depths + 1), manifest.depths, _compiled(manifest)
    expected: list[Key] = [(0, None, precision, "body") for precision in compiled]
    for width, depth, precision in product(manifest.widths, depths, compiled):
        expected += [(depth, width, precision, "body")] * (depth < final) + [(depth, width, precision, "head")]
    found = [fragment_key(fragment) for fragment in manifest.fragments]
    _same("fragments", expected + [ROUTER] * (ROUTER in found), found)


def _compiled(manifest: Manifest) -> list[str]:
    """The precisions that have graphs."""
    return list(dict.fromkeys(map(graphs_of, manifest.precisions)))


def _same(what: str, expected: list, found: list) -> None:
    too_few, too_many = Counter(expected) - Counter(found), Counter(found) - Counter(expected)
    if too_few or too_many:
        raise ValueError(f"{what} lack {list(too_few)[:3]}, have {list(too_many)[:3]} that don't belong there")


def _verify_chain(manifest: Manifest) -> None:
    by_key = {fragment_key(fragment): fragment for fragment in manifest.fragments}
    for fragment in manifest.fragments:
        for spec in (fragment.input, fragment.output):
            if not spec.name or any(not 0 < size < 2**31 for size in spec.shape):
                raise ValueError(f"{_name(fragment)} has {spec}, expected a name and sizes from 1 to 2^31 - 1")
        if fragment.part == "head" and fragment.output.shape != (len(manifest.classes),):
            raise ValueError(f"{_name(fragment)} gives {fragment.output}, expected ({len(manifest.classes)},) classes")
        if fragment.part == "router":
            continue
        if fragment.stage == 0:
            expected = TensorSpec(fragment.input.name, manifest.input.shape)
        else:
            expected = _source(by_key, fragment, manifest.depths).output
        if fragment.input != expected:
            raise ValueError(f"{_name(fragment)} takes {fragment.input}, expected {expected}")


def _verify_router(manifest: Manifest) -> None:
    """It takes what the stem gives, in whatever precision that is run."""
    for router in [fragment for fragment in manifest.fragments if fragment.part == "router"]:
        stems = [part for part in manifest.fragments if part.stage == 0 and part.part == "body"]
        for expected in [stem.output for stem in stems if stem.output != router.input]:
            raise ValueError(f"{_name(router)} takes {router.input}, expected {expected}")
        if router.output.shape != (len(manifest.points),):
            raise ValueError(f"{_name(router)} gives {router.output}, expected ({len(manifest.points)},) points")


def _source(by_key: dict[Key, Fragment], fragment: Fragment, final: int) -> Fragment:
    """The body whose output `fragment` takes: its own stage's for a head before the end, else the previous stage's."""
    before_end = fragment.part == "head" and fragment.stage < final
    stage = fragment.stage if before_end else fragment.stage - 1
    return by_key[stage, fragment.width if stage else None, fragment.precision, "body"]


def _name(fragment: Fragment) -> str:
    return f"{fragment.part} of stage {fragment.stage} at width {fragment.width}, {fragment.precision},"


def _verify_members(manifest: Manifest, graphs: Mapping[str, bytes]) -> None:
    used = {fragment.member for fragment in manifest.fragments}
    for name in sorted(used ^ graphs.keys()):
        raise ValueError(f"member {name!r}: " + ("it isn't there" if name in used else "no fragment uses it"))


def _verify_fragment(fragment: Fragment, graph: Graph, weights: Arrays) -> None:
    external = {initializer.name: initializer for initializer in graph.initializers if initializer.external}
    for name in sorted(external.keys() ^ fragment.bindings.keys()):
        lacks = "has no binding" if name in external else "has a binding but isn't an external one of this graph"
        raise ValueError(f"initialiser {name!r} {lacks}")
    _verify_names(fragment, graph)
    for name, binding in fragment.bindings.items():
        declared, bound = external[name], _bound_shape(name, binding, weights)
        given, kind = (INT8, "int8 (3)") if _is_int8(binding.tensor, weights) else (FLOAT, "float32 (1)")
        if declared.data_type != given or declared.dims != bound:
            found = f"type {declared.data_type}, shape {declared.dims}"
            raise ValueError(f"initialiser {name!r} is declared as {found}, its binding gives {kind}, {bound}")


def _verify_names(fragment: Fragment, graph: Graph) -> None:
    """The graph stands alone: it defines each name once, and reads nothing but its input and what it defines."""
    known = {fragment.input.name}
    for name in _defined(graph):
        if name in known:
            raise ValueError(f"{name!r} is defined twice")
        known.add(name)
    for node in graph.nodes:
        for name in node.inputs:
            if name not in known:
                raise ValueError(f"a node reads {name!r}, which is neither the fragment's input nor made in it")
    if not any(fragment.output.name in node.outputs for node in graph.nodes):
        raise ValueError(f"no node makes the fragment's output {fragment.output.name!r}")


def _on_path(fragment: Fragment, width: float, precision: str) -> bool:
    return fragment.part == "router" or (fragment.precision == precision and fragment.width in (None, width))


def _verify_unique(path: list[Fragment], parsed: Mapping[str, Graph]) -> None:
    """No two fragments of one width and precision define the same name: steps put them into one graph."""
    owner: dict[str, str] = {}
    for fragment in path:
        for name in _defined(parsed[fragment.member]):
            if owner.setdefault(name, fragment.member) != fragment.member:
                raise ValueError(f"member {fragment.member!r}: {name!r} is also defined in {owner[name]!r}")


def _defined(graph: Graph) -> Iterator[str]:
    yield from (initializer.name for initializer in graph.initializers)
    for node in graph.nodes:
        yield from node.outputs


def _bound_shape(name: str, binding: Binding, weights: Arrays) -> tuple[int, ...]:
    """Shape that `binding.array` will have, from shapes alone; refuses what it couldn't do."""
    where = f"binding of {name!r}"
    shape = _tensor(where, binding.tensor, weights)
    if len(binding.slices) != len(shape):
        raise ValueError(f"{where} cuts {len(binding.slices)} axes, tensor {binding.tensor!r} has shape {shape}")
    cut = tuple(_kept(where, ranges, size) for ranges, size in zip(binding.slices, shape, strict=True))
    if binding.scale is not None:
        _verify_scale(where, binding, binding.scale, cut, weights)
    if binding.perm is None:
        return cut
    if sorted(binding.perm) != list(range(len(cut))):
        raise ValueError(f"{where} has perm {binding.perm}, expected an order of {len(cut)} axes")
    return tuple(cut[axis] for axis in binding.perm)


def _tensor(where: str, key: str, weights: Arrays) -> tuple[int, ...]:
    if key not in weights:
        raise ValueError(f"{where} names tensor {key!r}, which the weights don't have")
    if weights[key].dtype not in (np.float32, np.float16, np.int8):
        raise ValueError(f"{where} names tensor {key!r} of {weights[key].dtype}, expected float32, float16 or int8")
    return weights[key].shape


def _is_int8(key: str, weights: Arrays) -> bool:
    return weights[key].dtype == np.int8


def _kept(where: str, ranges: tuple[tuple[int, int], ...] | None, size: int) -> int:
    if ranges is None:
        return size
    if not ranges or any(not 0 <= start < stop <= size for start, stop in ranges):
        raise ValueError(f"{where} keeps ranges {ranges} of an axis of {size}")
    kept = sum(stop - start for start, stop in ranges)
    if kept > size:
        raise ValueError(f"{where} keeps {kept} of an axis of {size}")
    return kept


def _verify_scale(where: str, binding: Binding, scale: str, cut: tuple[int, ...], weights: Arrays) -> None:
    axis, shape = binding.scale_axis, _tensor(where, scale, weights)
    if not 0 <= axis < len(cut) or shape != (cut[axis],):
        raise ValueError(f"{where} scales axis {axis} of {cut} by {scale!r}, a tensor of shape {shape}")
    if _is_int8(binding.tensor, weights) != _is_int8(scale, weights):
        raise ValueError(
            f"{where} scales {weights[binding.tensor].dtype} by {scale!r} of {weights[scale].dtype}; only int8 goes "
            "with int8"
        )
    if _is_int8(scale, weights) and not np.isin(weights[scale], (-1, 0, 1)).all():
        raise ValueError(f"{where} scales int8 by {scale!r}, which holds more than the signs -1, 0 and 1")
