import numpy as np
import orjson
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from stretto.policies.alert import Alert
from stretto.policies.scores import calibrated_scores
from stretto.runtime.bundle import Bundle
from stretto.runtime.engines import make_engine
from stretto.runtime.server.app import make_app
from stretto.runtime.server.protocol import INPUT, OUTPUTS
from stretto.runtime.session import Session

from ..fakes import set_profile
from .conftest import STAGE_MS
from .exchange import INFER, answered, asked, error, output


def test_metadata_describes_what_goes_in_and_comes_out(client, toy):
    found = client.get("/v2/models/toy").json()
    assert found["inputs"] == [{"name": INPUT, "datatype": "FP32", "shape": [-1, 3, 8, 8]}]
    described = {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in found["outputs"]}
    reply = answered(client, asked(toy.samples(2)))
    assert {tensor["name"]: tensor["datatype"] for tensor in reply["outputs"]} == {
        name: datatype for name, (datatype, _) in described.items()
    }
    assert [tensor["shape"] for tensor in reply["outputs"]] == [[2, *shape[1:]] for _, shape in described.values()]


def test_one_sample_is_answered_as_the_reference_does_and_says_how(client, toy, session):
    x = toy.samples(1)
    reply = answered(client, asked(x, id="seven"))
    scores = calibrated_scores(toy.logits(x, 3, 1.0))
    assert output(reply, "scores") == pytest.approx(scores, abs=1e-5)
    assert output(reply, "label").tolist() == [f"class {scores.argmax()}"]
    assert (reply["id"], reply["model_name"], reply["model_version"]) == ("seven", "toy", session.bundle.sha256[:12])
    assert reply["parameters"].pop("latency_ms") > 0
    assert reply["parameters"].pop("confidence") == pytest.approx(scores.max(), abs=1e-5)
    assert reply["parameters"] == {
        "label": f"class {scores.argmax()}", "width": 1.0, "depth": 3, "precision": "fp32",
        "stopped_by": "final", "deadline_met": True, "energy_mj": 3 * STAGE_MS * 5.0, "covered": False,
    }  # fmt: skip


def test_no_id_in_means_no_id_out(client, toy):
    assert "id" not in answered(client, asked(toy.samples(1)))


def test_batch_says_of_each_sample_how_it_was_answered(client, toy):
    x = toy.samples(5)
    reply = answered(client, asked(x))
    assert [tensor["name"] for tensor in reply["outputs"]] == list(OUTPUTS)
    assert output(reply, "scores") == pytest.approx(calibrated_scores(toy.logits(x, 3, 1.0)), abs=1e-5)
    assert output(reply, "width").tolist() == [1.0] * 5
    assert output(reply, "depth").tolist() == [3] * 5
    assert reply["parameters"]["confidence"] == output(reply, "confidence").min()
    assert reply["parameters"]["energy_mj"] == output(reply, "energy_mj").sum() == 5 * 3 * STAGE_MS * 5.0
    assert all(isinstance(value, (bool, int, float, str)) for value in reply["parameters"].values())


def test_nested_data_is_the_same_as_flat(client, toy):
    x = toy.samples(2)
    nested = asked(x)
    nested["inputs"][0]["data"] = x.tolist()
    assert answered(client, nested)["outputs"] == answered(client, asked(x))["outputs"]


def test_bytes_are_pixels_that_the_bundle_prepares(client, session):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), np.uint8)
    from_pixels = answered(client, asked(pixels, "UINT8"))
    from_numbers = answered(client, asked(session.prepare(pixels), "FP64"))
    assert from_pixels["outputs"] == from_numbers["outputs"]


def test_outputs_are_those_asked_for_in_that_order(client, toy):
    body = asked(toy.samples(1), outputs=[{"name": "depth"}, {"name": "scores"}, {"name": "depth"}])
    assert [tensor["name"] for tensor in answered(client, body)["outputs"]] == ["depth", "scores"]


def test_null_means_the_same_as_left_out(client, toy):
    body = asked(toy.samples(1), id=None, outputs=None) | {"parameters": None}
    assert "id" not in answered(client, body)


def test_less_budget_takes_a_cheaper_point(client, toy):
    generous, mean = (asked(toy.samples(1), parameters={"budget_ms": ms}) for ms in (1e9, 1e-6))
    assert [answered(client, generous)["parameters"][key] for key in ("width", "depth")] == [1.0, 3]
    parameters = answered(client, mean)["parameters"]
    assert (parameters["width"], parameters["depth"], parameters["deadline_met"]) == (0.5, 1, False)
    assert parameters["stopped_by"] == "deadline"


@pytest.fixture(scope="module")
def alert(toy):
    """A client of a session whose policy looks at energy."""
    bundle = Bundle.open(toy.path)
    with (
        Session(bundle, make_engine("onnx", bundle), Alert(), set_profile(bundle, STAGE_MS)) as session,
        TestClient(make_app({"toy": session})) as client,
    ):
        yield client


def test_energy_is_limited_for_each_sample(alert, toy):
    stage_mj = STAGE_MS * 5.0
    reply = answered(alert, asked(toy.samples(2), parameters={"energy_mj": 2.5 * stage_mj}))
    assert output(reply, "energy_mj").tolist() == [2 * stage_mj] * 2
    assert output(reply, "depth").tolist() == [2, 2]
    assert output(reply, "stopped_by").tolist() == ["energy"] * 2


def test_energy_and_deadline_are_limited_together(alert, toy):
    parameters = {"energy_mj": 2.5 * STAGE_MS * 5.0, "budget_ms": 1e-6}
    reply = answered(alert, asked(toy.samples(1), parameters=parameters))
    assert (reply["parameters"]["width"], reply["parameters"]["depth"]) == (0.5, 1)
    assert not reply["parameters"]["deadline_met"]


def with_tensor(**changes):
    return lambda body: body["inputs"][0].update(changes)


BAD = [
    (lambda body: body.update(parameters={"energy_mj": 0}), r"parameters\.energy_mj is 0; give millijoules > 0"),
    (
        lambda body: body.update(parameters={"energy_mj": 5}),
        r"but policy Deadline\(.* doesn't look at energy; .* does: alert",
    ),
    (lambda body: body.update(inputs=[]), r"inputs is 0 tensors; give an array of one tensor, 'input'"),
    (lambda body: body.update(inputs=3), r"inputs is 3"),
    (lambda body: body.pop("inputs"), r"request lacks 'inputs'; allowed: inputs, id"),
    (lambda body: body.update(budget_ms=3), r'request has "budget_ms", which isn\'t known; allowed: .*parameters'),
    (lambda body: body.update(id=7), r"id is 7; give a string"),
    (lambda body: body.update(parameters=[]), r"parameters is an array; give an object"),
    (lambda body: body.update(parameters={"budget": 3}), r'parameters has "budget".* allowed: budget_ms'),
    *[
        (lambda body, ms=ms: body.update(parameters={"budget_ms": ms}), rf"budget_ms is {found}; give milliseconds > 0")
        for ms, found in [(0, "0"), (-1.5, "-1.5"), ("8", '"8"'), (True, "true"), ([8], r"\[8\]")]
    ],
    (lambda body: body.update(outputs=["scores"]), r'outputs\[0\] is "scores"; give an object'),
    (lambda body: body.update(outputs=[{"name": "x"}]), r'outputs\[0\].name is "x"; allowed: scores, label, width'),
    (lambda body: body.update(outputs="scores"), r'outputs is "scores"; give an array'),
    (with_tensor(name="x"), r'name is "x"; the network has one input, \'input\''),
    (with_tensor(datatype="INT32"), r'datatype is "INT32"; give FP32 or FP64 .* UINT8 for pixels'),
    (with_tensor(datatype=[]), r"datatype is \[\]"),
    (with_tensor(shape=[3, 8, 8]), r"shape is \[3,8,8\]; give \[samples, 3, 8, 8\]"),
    (with_tensor(shape=[0, 3, 8, 8]), r"shape is \[0,3,8,8\].* samples >= 1"),
    (with_tensor(shape=[True, 3, 8, 8]), r"shape is \[true"),
    (with_tensor(shape=[10**12, 3, 8, 8]), r"data is 192 long; the shape .* has 192000000000000 numbers"),
    (with_tensor(data=[1.0]), r"data is 1 long; the shape \[1, 3, 8, 8\] has 192 numbers"),
    (with_tensor(data="abc"), r'data is "abc"'),
    (with_tensor(data=[[1.0], [2.0, 3.0]]), r"data isn't nested as its shape \[1, 3, 8, 8\] says at axis 1"),
    (with_tensor(data=[None] * 192), r"data isn't FP32: must be real number, not NoneType; give numbers"),
    (with_tensor(data=["1"] * 192), r"data isn't FP32: must be real number, not str"),
    (with_tensor(data=[1e300] * 192), r"numbers aren't finite"),
    (with_tensor(data=[256] * 192, datatype="UINT8"), r"isn't UINT8: .* give whole numbers from 0 to 255"),
    (with_tensor(data=[0.5] * 192, datatype="UINT8"), r"isn't UINT8: .* give whole numbers from 0 to 255"),
    (with_tensor(parameters={"binary_data_size": 768}), r'has "binary_data_size".* allowed: none'),
]


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_bad_request_says_what_was_found_and_what_is_allowed(client, toy, spoil, message):
    body = asked(toy.samples(1))
    spoil(body)
    with pytest.raises(ValueError, match=message):
        raise ValueError(error(client.post(INFER, json=body), 400))
    answered(client, asked(toy.samples(1)))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"inputs": NaN}', b"[" * 5000])
def test_what_isnt_json_is_a_bad_request(client, content):
    assert error(client.post(INFER, content=content), 400).startswith("the body isn't JSON")


SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner), max_leaves=9)
PLACES = [
    ("inputs",),
    ("inputs", 0),
    ("parameters",),
    ("parameters", "budget_ms"),
    ("parameters", "energy_mj"),
    ("id",),
    ("outputs",),
]
PLACES += [("inputs", 0, name) for name in ("name", "shape", "datatype", "data", "parameters")]


@given(place=st.sampled_from([(), *PLACES]), value=JSON)
@settings(max_examples=300, deadline=None)
def test_no_json_makes_the_server_fail(client, place, value):
    body = {"body": asked(np.zeros((1, 3, 8, 8)), parameters={})}
    at = body
    for key in ("body", *place)[:-1]:
        at = at[key]
    at[("body", *place)[-1]] = value
    reply = client.post(INFER, content=orjson.dumps(body["body"]))
    assert reply.status_code in (200, 400)
    assert ("error" in reply.json()) == (reply.status_code == 400)
