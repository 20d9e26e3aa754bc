"""What of a fragment becomes int8: which layers, and which activations."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ..runtime.manifest import Arrays, Binding, Fragment
from .onnx_graph import numbers_of

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

    node: Any
    binding: Binding
    dims: tuple[int, ...]
    axis: int

    @property
    def input(self) -> str:
        """The activation that it reads."""
        return str(self.node.input[0])

    @property
    def weight(self) -> str:
        """Its weight's name."""
        return str(self.node.input[1])

    @property
    def bias(self) -> str:
        """Its bias' name, empty where it has none."""
        return str(self.node.input[2]) if len(self.node.input) > 2 else ""

    @property
    def takes_bias(self) -> bool:
        """A bias is added to its outputs as it is."""
        return self.node.op_type == "Conv" or (self.node.op_type == "Gemm" and _attribute(self.node, "beta", 1.0) == 1)

    @property
    def made_axis(self) -> int:
        """That the channels of what it makes lie on."""
        return 1 if self.node.op_type == "Conv" else -1

    @property
    def is_depthwise(self) -> bool:
        """Every channel of it is made of one channel alone, one of many."""
        return self.node.op_type == "Conv" and self.dims[1] == 1 and _attribute(self.node, "group", 1) > 1

    @property
    def shared_axis(self) -> int:
        """`axis` in the shared tensor."""
        return self.axis if self.binding.perm is None else self.binding.perm[self.axis]

    def again(self, weight: str, made: str) -> Any:
        """A node that does the same with another weight and without bias."""
        import onnx

        read, kind = [self.input, weight], self.node.op_type
        return onnx.NodeProto(op_type=kind, name=made, input=read, output=[made], attribute=self.node.attribute)


def _attribute(node: Any, name: str, default: float) -> float:
    import onnx

    found = [onnx.helper.get_attribute_value(attribute) for attribute in node.attribute if attribute.name == name]
    return float(found[0]) if found else default


def make_plans(fragments: Iterable[Fragment], graphs: Mapping[str, bytes]) -> list["Plan"]:
    """A plan of every fragment, in their order.

    A stem of one layer with nothing but depthwise ones behind it stays float32 together with these. In
    EfficientNet-Lite0 at 160 pixels integers took longer there (0.36 ms against 0.28) and cost most: int8 changes the
    logits by 0.020 of their size without them, by 0.031 with them (ONNX Runtime 1.32, one thread, calibration split).
    In ResNet-14, whose second layer isn't depthwise, a float32 stem would take 5 to 16 us more.

    Depthwise layers further on become integers. In float32 all took 0.4 ms more: converting to and fro costs more than
    their integers do, and ONNX Runtime rounds a float32 layer between integers itself, by one scale for all channels,
    which changed the logits by 0.14.
    """
    plans = [Plan(fragment, graphs[fragment.member]) for fragment in fragments]
    stay = _stay_float(plans)
    return [Plan(plan.fragment, graphs[plan.fragment.member], stay) for plan in plans]


def _stay_float(plans: Iterable["Plan"]) -> set[str]:
    """Weights of a stem's layer and of the depthwise layers behind it; none where others are behind it."""
    stem = next(plan for plan in plans if plan.fragment.width is None)
    taking = [plan for plan in plans if plan.fragment.input.name == stem.fragment.output.name]
    first = [plan.first_layers() for plan in taking]
    begins = len(stem.layers) == 1 and all(layers and all(one.is_depthwise for one in layers) for layers in first)
    return {*stem.layers, *(layer.weight for layers in first for layer in layers)} if begins else set()


class Plan:
    """A float32 fragment taken apart, and what of it becomes int8.

    A layer that gives the scores stays float32, as does whatever engines don't have in integers.

    `layers`: by weight's name, but for those that `stay` names; `ranged`: the activations that become uint8, and whose
    range each takes.
    """

    def __init__(self, fragment: Fragment, graph: bytes, stay: Collection[str] = ()) -> None:
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
        self.layers = {layer.weight: layer for layer in found if layer.weight not in stay}
        self.ranged = self._ranged()

    def own(self, name: str) -> str:
        """A name of this fragment's, as those of tensors between fragments aren't."""
        return name if name.startswith(f"{self.prefix}.") else f"{self.prefix}.{name}"

    def first_layers(self) -> list[Layer]:
        """Those that read the fragment's input; none if anything else does, but for what only moves numbers."""
        names, layers = {self.fragment.input.name}, []
        for node in self.nodes:
            if names.isdisjoint(node.input):
                continue
            if node.op_type in MOVES:
                names.update(node.output)
            elif node.op_type in LAYERS and node.input[1] in self.layers:
                layers.append(self.layers[node.input[1]])
            else:
                return []
        return layers

    def bias(self, layer: Layer, weights: Arrays) -> NDArray[Any] | None:
        """A layer's bias, None if it has none or one that is computed."""
        return numbers_of(layer.bias, self.fragment.bindings, self.constants, weights)

    def _layer(self, node: Any) -> Layer | None:
        """The node as a layer, unless it isn't one of activations, gives the scores, or shares its weight."""
        weight = node.input[1] if node.op_type in LAYERS else ""
        binding = self.fragment.bindings.get(weight)
        if binding is None or self._gives_scores(node) or len(self._readers[weight]) > 1:
            return None
        if node.input[0] in self._settled:  # has no range
            return None
        dims = tuple(self.constants[weight].dims)
        axis = 0 if node.op_type == "Conv" or _attribute(node, "transB", 0) else len(dims) - 1
        layer = Layer(node, binding, dims, axis)
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
