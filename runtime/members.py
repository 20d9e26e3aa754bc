"""What a bundle's members hold: graphs and weights, each in a form of its own or, coded, in as few bytes as can be.

Graphs of the same part at other widths are nearly the same, and of a small network the zip's entry and the hash of each
would take more than the graph itself: coded, all of them are one member, which the zip deflates as a whole.
"""

import json
from collections.abc import Mapping
from typing import Any

import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from .archive import CODED, MANIFEST, WEIGHTS, about
from .coded import decode, encode
from .manifest import Arrays, typed

JOINED = "graphs.joined"
Coding = Mapping[str, NDArray[Any]]  # the scales of weights that are whole numbers times them; may be empty


def to_members(graphs: Mapping[str, bytes], weights: Arrays, coding: Coding | None) -> dict[str, bytes]:
    """Contents by member. `coding`: None for safetensors; scales of other arrays than the weights are passed over.

    Raises:
        ValueError: a weight isn't what its scale says, or too large; names it.
    """
    if coding is None:
        return {**graphs, WEIGHTS: safetensors.numpy.save(weights)}
    with about(CODED):
        return {
            JOINED: _joined(graphs),
            CODED: encode(weights, {name: scale for name, scale in coding.items() if name in weights}),
        }


def from_members(contents: Mapping[str, bytes]) -> tuple[dict[str, bytes], Arrays, Coding | None]:
    """Graphs by name, weights, and their coding: the inverse of `to_members`.

    Raises:
        ValueError: a member holds something else; names it.
    """
    if CODED not in contents:
        graphs = {name: content for name, content in contents.items() if name != WEIGHTS}
        return graphs, _load_weights(contents[WEIGHTS]), None
    if contents.keys() != {CODED, JOINED}:
        raise ValueError(f"member {MANIFEST!r}: it lists {sorted(contents)}, expected {CODED!r} and {JOINED!r}")
    with about(JOINED):
        graphs = _parted(contents[JOINED])
    with about(CODED):
        return graphs, *decode(contents[CODED])


def _joined(graphs: Mapping[str, bytes]) -> bytes:
    """Names and sizes on the first line, then the graphs without anything between them."""
    sizes = json.dumps([[name, len(graph)] for name, graph in graphs.items()], separators=(",", ":"))
    return b"".join([sizes.encode(), b"\n", *graphs.values()])


def _parted(raw: bytes) -> dict[str, bytes]:
    line, _, rest = raw.partition(b"\n")
    try:
        sizes = typed(tuple[tuple[str, int], ...], json.loads(line), "first line")
    except RecursionError as error:
        raise ValueError("its first line is nested too deeply") from error
    if len(dict(sizes)) < len(sizes) or min((size for _, size in sizes), default=0) < 0:
        raise ValueError("its first line names a graph twice, or one of less than no bytes")
    if (total := sum(size for _, size in sizes)) != len(rest):
        raise ValueError(f"it has {len(rest)} bytes of graphs, its first line says {total}")
    graphs, at = {}, 0
    for name, size in sizes:
        graphs[name], at = rest[at : at + size], at + size
    return graphs


def _load_weights(raw: bytes) -> Arrays:
    with about(WEIGHTS):
        try:
            return safetensors.numpy.load(raw)
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(f"it isn't safetensors of numpy's types: {error!r}") from error
