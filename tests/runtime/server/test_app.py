import importlib
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from stretto.policies.scores import calibrated_scores
from stretto.runtime import server
from stretto.runtime.server import app as server_app
from stretto.runtime.server.app import make_app, serve

from .exchange import INFER, Scripted, answered, asked, count, error, output


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_server_says_its_name_and_extensions(client, path):
    reply = client.get(path, follow_redirects=False)
    assert (reply.status_code, set(reply.json())) == (200, {"name", "version", "extensions"})
    assert reply.json()["name"] == "stretto"


def test_live_and_ready_are_true_once_sessions_are_there(client):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True, "live": True}


def test_version_of_a_model_is_the_start_of_its_bundles_hash(client, session):
    version = session.bundle.sha256[:12]
    found = client.get("/v2/models/toy").json()
    assert found["versions"] == [version]
    assert client.get(f"/v2/models/toy/versions/{version}").json() == found
    assert client.get(f"/v2/models/toy/versions/{version}/ready").json() == {"name": "toy", "ready": True}
    assert client.get("/v2/models/toy/ready").json() == {"name": "toy", "ready": True}


def test_budget_counts_from_the_arrival_at_the_server(session, toy, monkeypatch):
    monkeypatch.setattr(server_app, "monotonic", lambda: 1000.0)
    scripted = Scripted(session)
    scripted.let_go.set()
    with TestClient(make_app({"toy": scripted})) as client:
        answered(client, asked(toy.samples(1), parameters={"budget_ms": 8}))
        answered(client, asked(toy.samples(1)))
    assert scripted.deadlines == [1000.008, None]


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v2/models/other", 404, "model 'other' isn't served here; there is toy"),
        ("POST", "/v2/models/other/infer", 404, "model 'other' isn't served here; there is toy"),
        ("POST", "/v2/models/toy/versions/1/infer", 404, "model 'toy' has no version '1'; it has "),
        ("GET", "/v3", 404, "Not Found: GET /v3"),
        ("GET", INFER, 405, f"Method Not Allowed: GET {INFER}"),
    ],
)
def test_wrong_address_is_an_error_in_json(client, method, path, status, message):
    assert error(client.request(method, path), status).startswith(message)


def test_failure_inside_is_an_error_in_json_and_counted(session, toy):
    scripted, registry = Scripted(session, RuntimeError("the engine broke")), CollectorRegistry()
    scripted.let_go.set()
    with TestClient(make_app({"toy": scripted}, registry=registry), raise_server_exceptions=False) as client:
        assert error(client.post(INFER, json=asked(toy.samples(1))), 500) == "the server failed; its log says why"
    assert count(registry, "stretto_failures_total", model="toy", reason="internal") == 1


def test_metrics_count_answers_deadlines_and_failures(session, toy):
    registry = CollectorRegistry()
    with TestClient(make_app({"toy": session}, registry=registry)) as client:
        answered(client, asked(toy.samples(3), parameters={"budget_ms": 1e9}))
        answered(client, asked(toy.samples(1), parameters={"budget_ms": 1e-6}))
        answered(client, asked(toy.samples(1)))
        client.post(INFER, content=b"{")
        client.post("/v2/models/other/infer")
        text = client.get("/metrics")
    point = {"model": "toy", "precision": "fp32"}
    assert count(registry, "stretto_answers_total", width="1.0", depth="3", stopped_by="final", **point) == 4
    assert count(registry, "stretto_answers_total", width="0.5", depth="1", stopped_by="deadline", **point) == 1
    assert [count(registry, "stretto_deadlines_total", model="toy", met=met) for met in ("true", "false")] == [1, 1]
    assert count(registry, "stretto_request_seconds_count", model="toy") == 3
    assert count(registry, "stretto_failures_total", model="toy", reason="invalid") == 1
    assert count(registry, "stretto_failures_total", model="", reason="unknown_model") == 1
    assert count(registry, "stretto_requests_in_flight", model="toy") == 0
    assert text.headers["content-type"].startswith("text/plain")
    assert 'stretto_request_seconds_bucket{le="0.004",model="toy"}' in text.text


def test_metrics_say_what_was_compared_with_the_full_network(session, toy):
    registry, scripted = CollectorRegistry(), Scripted(session)
    with TestClient(make_app({"toy": scripted}, registry=registry)) as client:
        assert [count(registry, f"stretto_{name}", model="toy") for name in ("shadowed_total", "drift")] == [0, 0]
        scripted.stats = scripted.stats._replace(shadowed=5, agreed=4, drift="inputs are others")
        text = client.get("/metrics").text
    for line in ("shadowed_total", "agreed_total", "drift"):
        assert f'stretto_{line}{{model="toy"}}' in text
    names = "shadowed_total", "agreed_total", "drift"
    assert [count(registry, f"stretto_{name}", model="toy") for name in names] == [5, 4, 1]


def test_share_to_compare_is_given_to_every_session(toy, monkeypatch):
    asked = []

    def load(*args, **options):
        asked.append(options)
        raise InterruptedError

    monkeypatch.setattr(server_app, "load", load)
    with pytest.raises(InterruptedError):
        serve([toy.path], shadow=0.25)
    assert asked == [{"shadow": 0.25}]


def test_too_large_a_body_is_refused(session):
    with TestClient(make_app({"toy": session}, max_body_bytes=100)) as client:
        assert error(client.post(INFER, content=b" " * 101), 413).startswith("the body has more than 100 bytes")
        assert error(client.post(INFER, content=b" " * 100), 400).startswith("the body isn't JSON")


def test_requests_at_the_same_time_each_get_their_own_answer(client, toy):
    x = toy.samples(24)
    with ThreadPoolExecutor(8) as callers:
        replies = list(callers.map(lambda n: answered(client, asked(x[n : n + 1], id=str(n))), range(len(x))))
    assert [reply["id"] for reply in replies] == [str(n) for n in range(len(x))]
    scores = np.concatenate([output(reply, "scores") for reply in replies])
    assert scores == pytest.approx(calibrated_scores(toy.logits(x, 3, 1.0)), abs=1e-5)


@pytest.mark.parametrize(
    ("paths", "message"),
    [([], "no bundle to serve"), (["a/toy.stretto", "b/toy.stretto"], "would both be served as 'toy'; rename one")],
)
def test_bundles_that_cant_be_told_apart_are_refused(paths, message):
    with pytest.raises(ValueError, match=message):
        serve(paths)


def test_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "orjson", None)
    with pytest.raises(ImportError, match=r"the server needs orjson: pip install 'stretto\[serve\]'"):
        importlib.reload(server)


@pytest.fixture
def address(toy, tmp_path):
    """Of a server in a process of its own, and that process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"from stretto.runtime.server.app import serve; serve([{str(toy.path)!r}], port={port}, max_body_bytes=9999)"
    log = tmp_path / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stderr=stderr, env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
        )
    yield SimpleNamespace(url=f"http://127.0.0.1:{port}", process=process, log=log)
    process.kill()
    process.wait()


def test_served_bundle_answers_over_the_wire_and_ends_cleanly(address, toy):
    with httpx.Client(base_url=address.url, transport=httpx.HTTPTransport(retries=8)) as client:
        assert client.get("/v2/health/ready").status_code == 200
        for n in range(3):
            assert answered(client, asked(toy.samples(1), id=str(n)))["id"] == str(n)
        assert error(client.post(INFER, content=b" " * 200_000), 413)
        answered(client, asked(toy.samples(1)))
    address.process.send_signal(signal.SIGINT)
    assert address.process.wait(10) in (0, -signal.SIGINT, 130)
    assert "Finished server process" in address.log.read_text()
