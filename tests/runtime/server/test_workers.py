import asyncio
from concurrent.futures import ThreadPoolExecutor

import httpx
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from stretto.runtime.server.app import make_app

from .exchange import INFER, Scripted, answered, asked, count, error


def test_full_queue_is_refused_at_once_and_recovers(session, toy):
    scripted, registry, body = Scripted(session), CollectorRegistry(), asked(toy.samples(1))
    app = make_app({"toy": scripted}, workers=1, waiting=0, registry=registry)
    with TestClient(app) as client, ThreadPoolExecutor(1) as other:
        first = other.submit(client.post, INFER, json=body)
        assert scripted.entered.wait(10)
        assert count(registry, "stretto_requests_in_flight", model="toy") == 1
        refused = client.post(INFER, json=body)
        assert error(refused, 503).startswith("all 1 places for requests are taken")
        assert refused.headers["retry-after"] == "1"
        scripted.let_go.set()
        assert first.result().status_code == 200
        answered(client, body)


def test_work_that_takes_too_long_is_given_up_but_keeps_its_place(session, toy):
    scripted, body = Scripted(session), asked(toy.samples(1))
    with TestClient(make_app({"toy": scripted}, workers=1, waiting=0, timeout_s=0.2)) as client:
        assert error(client.post(INFER, json=body), 504) == "no answer within 0.2 s"
        error(client.post(INFER, json=body), 503)
        scripted.let_go.set()


def test_waiting_request_that_is_given_up_frees_its_place(session, toy):
    scripted, body = Scripted(session), asked(toy.samples(1))
    with TestClient(make_app({"toy": scripted}, workers=1, waiting=1, timeout_s=0.2)) as client:
        assert [client.post(INFER, json=body).status_code for _ in range(3)] == [504, 504, 504]
        scripted.let_go.set()
    assert len(scripted.deadlines) == 1


def test_body_that_doesnt_arrive_is_given_up_and_frees_its_place(session):
    async def never():
        yield b"{"
        await asyncio.Event().wait()

    async def twice():
        transport = httpx.ASGITransport(make_app({"toy": session}, workers=1, waiting=0, timeout_s=0.02))
        async with httpx.AsyncClient(transport=transport, base_url="http://toy") as client:
            return [await client.post(INFER, content=never()) for _ in range(2)]

    for reply in asyncio.run(twice()):
        assert error(reply, 408) == "the body didn't arrive within 0.02 s"
