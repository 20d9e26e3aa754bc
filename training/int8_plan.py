"""What of a fragment becomes int8: which layers, and which activations."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from ..runtime.manifest import Binding, Fragment

LAYERS = {"Conv", "Gemm", "MatMul"}
# operations on activations alone that engines have in integers
JOINS = {"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool"}
# the numbers stay as they are, so that what comes out has the scale of what goes in
MOVES = {"MaxPool", "Reshape", "Flatten", "Transpose", "Slice", "Squeeze", "Unsqueeze"}
# part of what is before them: they only clip, which the range of the integers behind them does as well
CLIPS = {"Relu", "Clip"}
SIZES = {"Shape", "Size"}  # give integers, which what comes of them may be as well


@dataclass(frozen=True, slots=True)
class Layer:
    """A node whose weight becomes int8. `dims`: of the weight; `axis`: that its output channels lie on."""

    input: str
    weight: str
    bias: str
    binding: Binding
    dims: tuple[int, ...]
    axis: int

    @property
    def shared_axis(self) -> int:
        """`axis` in the shared tensor."""
        return self.axis if self.binding.perm is None else self.binding.perm[self.axis]


class Plan:
    """A float32 fragment taken apart, and what of it becomes int8.

    A layer that gives the scores stays float32, as does whatever engines don't have in integers.

    `layers`: by weight's name; `ranged`: the activations that become uint8, and whose range each takes.
    """

    def __init__(self, fragment: Fragment, graph: bytes) -> None:
        import onnx

        parsed = onnx.load_from_string(graph).graph
        self.fragment, self.nodes = fragment, list(parsed.node)
        self.prefix = fragment.member.removeprefix("graphs/").removesuffix(".onnx")
        self.constants = {tensor.name: tensor for tensor in parsed.initializer}
        self._readers: dict[str, list[Any]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self._readers[name].append(node)
        self._settled = self._known_beforehand()
        found = [layer for node in self.nodes if (layer := self._layer(node))]
        self.layers = {layer.weight: layer for layer in found}
        self.ranged = self._ranged()

    def own(self, name: str) -> str:
        """A name of this fragment's, as those of tensors between fragments aren't."""
        return name if name.startswith(f"{self.prefix}.") else f"{self.prefix}.{name}"

    def _layer(self, node: Any) -> Layer | None:
        """The node as a layer, unless it isn't one of activations, gives the scores, or shares its weight."""
        weight = node.input[1] if node.op_type in LAYERS else ""
        binding = self.fragment.bindings.get(weight)
        if binding is None or self._gives_scores(node) or len(self._readers[weight]) > 1:
            return None
        if node.input[0] in self._settled:  # has no range
            return None
        dims = tuple(self.constants[weight].dims)
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        axis = 0 if node.op_type == "Conv" or transposed else len(dims) - 1
        bias = node.input[2] if len(node.input) > 2 else ""
        layer = Layer(node.input[0], weight, bias, binding, dims, axis)
        fits = binding.scale is None or binding.scale_axis == layer.shared_axis
        return layer if fits and len(dims) > 1 else None

    def _known_beforehand(self) -> set[str]:
        """Tensors that aren't activations: constants, sizes, and what is computed of nothing else; ONNX sorts nodes."""
        known = {"", *self.constants}
        for node in self.nodes:
            if node.op_type in SIZES or known.issuperset(node.input):
                known.update(node.output)
        return known

    def _ranged(self) -> dict[str, str]:
        """Inputs and outputs of layers and joins; through what only moves numbers, all have one range."""
        chosen: set[str] = set()
        for node in self.nodes:
            taken = [name for name in node.input if name not in self._settled]
            joins = node.op_type in JOINS and len(taken) == len(node.input) and not self._gives_scores(node)
            if joins or not self.layers.keys().isdisjoint(node.input):
                chosen |= {*taken, self._clipped(node.output[0])}
        moving = [node for node in self.nodes if node.op_type in MOVES and not self._gives_scores(node)]
        moves = [node for node in moving if node.input[0] not in self._settled]
        for node in reversed(moves):
            chosen |= {node.input[0]} if node.output[0] in chosen else set()
        ranged = {name: name for name in chosen}
        for node in moves:
            if node.input[0] in ranged:
                ranged[node.output[0]] = ranged[node.input[0]]
        return ranged

    def _clipped(self, name: str) -> str:
        """The tensor that `name` is once it is clipped, if nothing else reads it."""
        readers = self._readers[name]
        alone = len(readers) == 1 and readers[0].op_type in CLIPS and name != self.fragment.output.name
        return readers[0].output[0] if alone else name

    def _gives_scores(self, node: Any) -> bool:
        return self.fragment.part == "head" and self.fragment.output.name in node.output
