import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from stretto.runtime.bundle import Bundle
from stretto.runtime.onnx_fragment import Initializer, graph_input, graph_output, header, read_fragment

from .toy import toy_bundle

names = st.text(min_size=1, max_size=20)
dims = st.lists(st.integers(0, 2**40), max_size=5)


def fragment(*nodes, initializers=()) -> bytes:
    model = ModelProto()
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(initializers)
    return model.SerializeToString()


def test_every_step_of_a_bundle_passes_the_onnx_checker(tmp_path):
    toy = toy_bundle(tmp_path / "toy.stretto")
    bundle = Bundle.open(toy.path)
    for step in toy.steps():
        made = bundle.model(step)
        model = onnx.load_from_string(made.model)
        for tensor in model.graph.initializer:
            if tensor.name in made.initializers:
                tensor.CopyFrom(numpy_helper.from_array(made.initializers[tensor.name], tensor.name))
        onnx.checker.check_model(model, full_check=True)
        assert [output.name for output in model.graph.output] == list(made.outputs)


@settings(deadline=None)
@given(name=names, opset=st.integers(1, 2**31), sizes=st.lists(st.integers(1, 2**31 - 1), max_size=4))
def test_written_header_and_values_are_what_onnx_reads(name, opset, sizes):
    shape = tuple(sizes)
    model = onnx.load_from_string(header(8, opset, name) + graph_input(name, shape) + graph_output("out", shape))
    assert (model.ir_version, model.opset_import[0].version, model.graph.name) == (8, opset, name)
    for value, expected in ((model.graph.input[0], name), (model.graph.output[0], "out")):
        assert value == helper.make_tensor_value_info(expected, TensorProto.FLOAT, ["batch", *shape])


@settings(deadline=None)
@given(name=names, sizes=dims, data_type=st.sampled_from([1, 3, 7, 10]), external=st.booleans())
def test_initializers_are_read_as_onnx_wrote_them(name, sizes, data_type, external):
    tensor = TensorProto(name=name, dims=sizes, data_type=data_type)
    if external:
        tensor.data_location = TensorProto.EXTERNAL
    graph = read_fragment(fragment(initializers=[tensor]))
    assert graph.initializers == (Initializer(name, tuple(sizes), data_type, external),)


def test_nodes_are_read_with_what_they_take_and_make():
    node = helper.make_node("Clip", ["x", "", "high"], ["y"])
    (read,) = read_fragment(fragment(node)).nodes
    assert (read.inputs, read.outputs) == (("x", "high"), ("y",))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (ModelProto(ir_version=8).SerializeToString(), "model field 1"),
        (ModelProto(producer_name="me").SerializeToString(), "model field 2"),
        (header(8, 20, "name"), "model field 1"),
        (graph_input("x", (1,)), "graph field 11"),
    ],
)
def test_fragment_with_more_than_nodes_and_initializers_is_refused(raw, message):
    with pytest.raises(ValueError, match=message):
        read_fragment(raw)


def test_subgraph_is_refused():
    inner = helper.make_graph([], "inner", [], [])
    node = helper.make_node("If", ["x"], ["y"], name="choice", then_branch=inner, else_branch=inner)
    with pytest.raises(ValueError, match=r"'(then|else)_branch' of node 'choice' holds a subgraph"):
        read_fragment(fragment(node))


def test_external_tensor_in_an_attribute_is_refused():
    value = TensorProto(name="v", dims=[1], data_type=1, data_location=TensorProto.EXTERNAL)
    value.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(ValueError, match="'value' of node '' holds an external tensor"):
        read_fragment(fragment(helper.make_node("Constant", [], ["y"], value=value)))


def test_fragment_cut_anywhere_is_refused_or_ends_between_fields():
    tensor = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w")
    whole = fragment(helper.make_node("Relu", ["x"], ["y"]), initializers=[tensor])
    for end in range(1, len(whole)):
        with pytest.raises(ValueError, match=r"are left|cut off"):
            read_fragment(whole[:end])


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_read_or_refused_but_never_breaks_the_reader(raw):
    try:
        read_fragment(raw)
    except ValueError as error:
        assert str(error)
