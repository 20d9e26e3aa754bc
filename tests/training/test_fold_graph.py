"""Convolutions of a graph take up what follows them, and answer what they answered together."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from stretto.runtime.manifest import Arrays, Binding, Fragment, TensorSpec
from stretto.runtime.onnx_fragment import graph_input, graph_output, header
from stretto.training.fold_graph import fold_graphs
from stretto.training.onnx_graph import Parts, external

OPSET, IR = 20, 10
MADE = np.random.default_rng(0)
ARRAYS = {
    "weight": MADE.normal(size=(4, 2, 3, 3)).astype(np.float32),
    "turned": MADE.normal(size=(2, 4, 3, 3)).astype(np.float16),
    "depthwise": MADE.normal(size=(2, 1, 3, 3)).astype(np.float32),
    "pairs": MADE.normal(size=(2, 1, 1)).astype(np.float32),
    "bias": MADE.normal(size=4).astype(np.float32),
    "channels": MADE.normal(size=(4, 1, 1)).astype(np.float32),
    "batched": MADE.normal(size=(1, 4, 1, 1)).astype(np.float32),
    "places": MADE.normal(size=(4, 4)).astype(np.float32),
    "number": np.array(0.3, np.float32),
    "vector": MADE.normal(size=4).astype(np.float32),
}
TAKEN_UP = {
    "factor": ["y=Conv(x,weight)", "z=Mul(y,channels)"],
    "summand": ["y=Conv(x,weight)", "z=Add(channels,y)"],
    "norm": ["y=Conv(x,weight,bias)", "u=Mul(y,channels)", "z=Add(u,batched)"],
    "summand, then factor": ["y=Conv(x,weight,bias)", "u=Add(y,channels)", "z=Mul(batched,u)"],
    "number": ["y=Conv(x,weight,bias)", "u=Mul(y,number)", "z=Add(u,number)"],
    "two norms": ["y=Conv(x,weight)", "u=Mul(y,channels)", "v=Add(u,channels)", "w=Mul(v,batched)", "z=Add(w,bias1)"],
    "weight with a norm in it already": ["y=Conv(x,scaled)", "z=Mul(y,channels)"],
    "transposed weight of 16 bits": ["y=Conv(x,turned)", "z=Mul(y,channels)"],
    "depthwise": ["y=Conv(x,depthwise)", "z=Mul(y,pairs)"],
}
LEFT = {
    "nothing": ["z=Conv(x,weight)"],
    "other readers": ["y=Conv(x,weight)", "u=Mul(y,channels)", "z=Add(u,y)"],
    "one factor a place": ["y=Conv(x,weight)", "z=Mul(y,places)"],
    "activations": ["y=Conv(x,weight)", "u=Relu(x2)", "z=Mul(y,u)"],
    "square": ["y=Conv(x,weight)", "z=Mul(y,y)"],
    "weight of two layers": ["y=Conv(x,weight)", "u=Mul(y,channels)", "v=Conv(x,weight)", "z=Add(u,v)"],
    "computed bias": ["b=Relu(bias)", "y=Conv(x,weight,b)", "z=Mul(y,channels)"],
    "factor of another axis": ["y=Conv(x,crossed)", "z=Mul(y,channels)"],
    "difference": ["y=Conv(x,weight)", "z=Sub(y,channels)"],
}
BINDINGS = {
    "scaled": Binding("weight", (None,) * 4, scale="vector"),
    "crossed": Binding("weight", (None,) * 4, scale="two", scale_axis=1),
    "turned": Binding("turned", (None,) * 4, perm=(1, 0, 2, 3)),
    "bias1": Binding("batched", (None,) * 4),
}
WEIGHTS: Arrays = {**ARRAYS, "two": np.float32([2, 3])}


def parts_of(lines: list[str]) -> Parts:
    """A fragment of nodes written as `made=Operator(read, …)`, with whatever of the arrays they read bound."""
    nodes = []
    for line in lines:
        made, call = line.split("=")
        kind, read = call[:-1].split("(")
        groups = {"group": 2, "pads": [1] * 4} if "depthwise" in read else {"pads": [1] * 4}
        nodes.append(helper.make_node(kind, read.split(","), [made], name=made, **(groups if kind == "Conv" else {})))
    read = {name for node in nodes for name in node.input}
    bindings = {name: Binding(name, (None,) * array.ndim) for name, array in ARRAYS.items()} | BINDINGS
    bindings = {name: binding for name, binding in bindings.items() if name in read}
    constants = [external(name, TensorProto.FLOAT, b.array(WEIGHTS).shape) for name, b in bindings.items()]
    graph = onnx.ModelProto(graph=onnx.GraphProto(node=nodes, initializer=constants)).SerializeToString()
    spec = TensorSpec("x", (2, 4, 4)), TensorSpec("z", (4, 4, 4))
    fragment = Fragment(0, None, "fp32", "body", "graphs/a.onnx", *spec, bindings)
    return Parts((fragment,), {"graphs/a.onnx": graph}, WEIGHTS, IR, OPSET, 0)


def answer(parts: Parts) -> np.ndarray:
    fragment = parts.fragments[0]
    ends = [graph_input("x", (2, 4, 4)), graph_input("x2", (4, 4, 4)), graph_output("z", (4, 4, 4))]
    model = onnx.load_from_string(b"".join([header(IR, OPSET, "a"), parts.graphs[fragment.member], *ends]))
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(fragment.bindings[tensor.name].array(parts.weights), tensor.name))
    draw = np.random.default_rng(1)
    given = {"x": draw.normal(size=(3, 2, 4, 4)), "x2": draw.normal(size=(3, 4, 4, 4))}
    return ReferenceEvaluator(model).run(None, {name: x.astype(np.float32) for name, x in given.items()})[0]


def operators(parts: Parts) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(parts.graphs["graphs/a.onnx"]).graph.node]


@pytest.mark.parametrize("name", TAKEN_UP)
def test_what_is_taken_up_is_still_answered(name):
    parts = parts_of(TAKEN_UP[name])
    folded = fold_graphs(parts)
    assert operators(folded) == ["Conv"]
    assert folded.fragments[0].bindings.keys() == set(node_reads(folded))
    np.testing.assert_allclose(answer(folded), answer(parts), atol=1e-5)


def node_reads(parts: Parts) -> list[str]:
    return list(onnx.load_from_string(parts.graphs["graphs/a.onnx"]).graph.node[0].input)[1:]


@pytest.mark.parametrize("name", LEFT)
def test_what_a_channel_cannot_take_up_is_left(name):
    parts = parts_of(LEFT[name])
    folded = fold_graphs(parts)
    assert operators(folded) == operators(parts)
    np.testing.assert_array_equal(answer(folded), answer(parts))


def test_a_taken_up_weight_is_still_bound_to_the_shared_tensor():
    folded = fold_graphs(parts_of(TAKEN_UP["norm"]))
    assert folded.fragments[0].bindings["weight"].tensor == "weight"
    assert folded.weights["weight"] is WEIGHTS["weight"]
