"""The server: bundles by name, each answered under the budget that the request brings."""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any, cast

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ...policies.situation import Budget, OperatingPoint, Policy
from ..answer import Answer
from ..errors import BudgetError, InputError
from ..options import Confidence
from ..session import Session, load
from ..shadow import SHARE
from .metrics import Metrics
from .protocol import InferRequest, RequestError, encode_answer, model_metadata, parse_request
from .workers import Workers

_RETRY_S = 1
_NOTHING_LEFT_MS = 1e-6  # a budget is positive, even where its deadline is past


@dataclass(frozen=True, slots=True)
class Model:
    """A session by the name it is served under. `version` is the start of the bundle's hash: it says what weights."""

    name: str
    session: Session

    @property
    def version(self) -> str:
        return self.session.bundle.sha256[:12]


def serve(
    bundles: Sequence[str | os.PathLike[str]],
    host: str = "127.0.0.1",
    port: int = 8000,
    engine: str = "onnx",
    threads: int = 1,
    policy: str | Policy | OperatingPoint = "alert",
    confidence: Confidence = None,
    shadow: float = SHARE,
    **limits: Any,
) -> None:
    """Loads the bundles, then answers on `host` until interrupted; each is named like its file, without the suffix.

    It listens only once every bundle is warm. Nobody is asked who they are: beyond loopback, put it behind something
    that does.

    Args:
        engine, threads, policy, confidence, shadow: as for `load`.
        limits: those of `make_app`.

    Raises:
        BundleError: a bundle can't be used.
        ValueError: two bundles have the same name, or none was given.
    """
    paths = _by_name(bundles)
    with ExitStack() as stack:
        sessions = {
            name: stack.enter_context(load(path, engine, threads, policy, confidence, shadow=shadow))
            for name, path in paths.items()
        }
        app = make_app(sessions, **{"workers": _workers(threads), **limits})
        uvicorn.run(app, host=host, port=port, access_log=False, timeout_graceful_shutdown=10)


def make_app(
    sessions: Mapping[str, Session],
    workers: int = 1,
    waiting: int = 64,
    timeout_s: float = 30.0,
    max_body_bytes: int = 32 << 20,
    registry: CollectorRegistry | None = None,
) -> FastAPI:
    """The Open Inference Protocol v2 in JSON, and `/metrics`. The sessions stay the caller's to close.

    Args:
        sessions: by the name that requests ask for.
        workers: requests that are worked on at once, each by a thread.
        waiting: requests that may wait for that, beyond which the answer is 503.
        timeout_s: to receive a request, and again to answer it, in seconds; 408 and 504.
        max_body_bytes: of one request; 413.
        registry: where the metrics register; one of their own by default.
    """
    models = {name: Model(name, session) for name, session in sessions.items()}
    metrics = Metrics(registry or CollectorRegistry(), sessions)
    pool = Workers(workers, waiting, timeout_s)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        pool.close()

    app = FastAPI(title="stretto", lifespan=lifespan, openapi_url=None, exception_handlers=_HANDLERS)

    @app.get("/v2")
    @app.get("/v2/")
    async def server_metadata() -> dict[str, Any]:
        return {"name": "stretto", "version": version("stretto"), "extensions": ["parameters"]}

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": True, "live": True}

    @app.get("/v2/models/{model}")
    @app.get("/v2/models/{model}/versions/{version}")
    async def metadata_of_model(request: Request) -> dict[str, Any]:
        model = _find(models, request)
        return model_metadata(model.name, model.version, model.session.bundle.manifest)

    @app.get("/v2/models/{model}/ready")
    @app.get("/v2/models/{model}/versions/{version}/ready")
    async def ready_of_model(request: Request) -> dict[str, Any]:
        return {"name": _find(models, request).name, "ready": True}

    async def infer(request: Request) -> Response:
        arrival = monotonic()
        name = ""
        try:
            model = _find(models, request)
            name = model.name
            with metrics.in_flight.labels(name).track_inprogress():
                receive = partial(_body, request, max_body_bytes)
                body = await pool.run(receive, partial(_answer, model, metrics, arrival))
        except Exception as error:
            metrics.failed(name, getattr(error, "reason", "internal"))
            raise
        return Response(body, media_type="application/json")

    # not FastAPI's decorator: on the first request it reads the function's source, 6 to 16 ms that a budget would pay
    app.add_route("/v2/models/{model}/infer", infer, methods=["POST"])
    app.add_route("/v2/models/{model}/versions/{version}/infer", infer, methods=["POST"])

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    return app


def _find(models: Mapping[str, Model], request: Request) -> Model:
    name, wanted = request.path_params["model"], request.path_params.get("version")
    if name not in models:
        raise RequestError(f"model {name!r} isn't served here; there is {', '.join(models)}", 404, "unknown_model")
    if wanted not in (None, models[name].version):
        found = models[name].version
        raise RequestError(f"model {name!r} has no version {wanted!r}; it has {found}", 404, "unknown_model")
    return models[name]


async def _body(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                raise RequestError(f"the body has more than {max_bytes} bytes; send fewer samples", 413, "too_large")
    except ClientDisconnect as error:
        raise RequestError("the client left before the whole body was here", reason="disconnected") from error
    return bytes(body)


def _answer(model: Model, metrics: Metrics, arrival: float, body: bytes) -> bytes:
    """From the body of a request to that of its reply; blocks. The budget counts from `arrival`: parsing is in it."""
    session = model.session
    request = parse_request(body, session.bundle.manifest.input)
    deadline = None if request.budget_ms is None else arrival + request.budget_ms / 1e3
    answers = _infer(session, request, deadline)
    now = monotonic()
    deadline_met = None if deadline is None else now <= deadline
    metrics.answered(model.name, answers, now - arrival, deadline_met)
    return encode_answer(request, answers, model.name, model.version, (now - arrival) * 1e3, deadline_met is not False)


def _infer(session: Session, request: InferRequest, deadline: float | None) -> list[Answer]:
    try:
        x = session.prepare(request.x) if request.x.dtype == "uint8" else request.x
        if request.energy_mj is None:
            answers = session.infer(x, deadline=deadline)
        else:
            left_ms = inf if deadline is None else max((deadline - monotonic()) * 1e3, _NOTHING_LEFT_MS)
            answers = session.infer(x, budget=Budget(left_ms, request.energy_mj))
        return cast(list[Answer], answers)  # a batch always, if of one
    except (InputError, BudgetError) as error:
        raise RequestError(str(error)) from error


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    """Every error is `{"error": …}`; the web framework's own, such as 404 and 405, too."""
    if isinstance(error, RequestError):
        headers = {"Retry-After": str(_RETRY_S)} if error.status == 503 else None
        return JSONResponse({"error": str(error)}, error.status, headers)
    if isinstance(error, HTTPException):
        problem = f"{error.detail}: {request.method} {request.url.path}"
        return JSONResponse({"error": problem}, error.status_code, error.headers)
    return JSONResponse({"error": "the server failed; its log says why"}, 500)


_HANDLERS: dict[Any, Any] = dict.fromkeys((RequestError, HTTPException, Exception), _refuse)


def _by_name(bundles: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for path in map(Path, bundles):
        if path.stem in paths:
            raise ValueError(f"{path} and {paths[path.stem]} would both be served as {path.stem!r}; rename one")
        paths[path.stem] = path
    if not paths:
        raise ValueError("no bundle to serve; name one or more .stretto files")
    return paths


def _workers(threads: int) -> int:
    """As many requests at once as there are processors for, `threads` each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)
