"""The application: wiring, lifespan and the one error handler."""

import asyncio
import contextlib
import importlib.metadata
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.access import Access
from service.authorization import Authorization
from service.batcher import Batcher
from service.dialects import refusal
from service.engine import Engine
from service.errors import BackendError, ServiceError
from service.health import Health
from service.judgements import Judgements
from service.keys import Keys
from service.loader import Loader
from service.logs import request_id
from service.metrics import Metrics
from service.openapi import complete
from service.repository import Repository
from service.routes import admin, classify, docs, models, page, predict, probes, tei, v2
from service.routes.call import Serving
from service.schemas.admin import IndexRequest, LoadRequest
from service.schemas.classify import classify_request
from service.schemas.predict import predict_request
from service.schemas.shared import Problem
from service.schemas.tei import tei_predict_request
from service.schemas.v2 import InferRequest
from service.settings import Settings, variable
from service.store import Store
from service.turns import Turns
from service.verification import Verifier
from service.watcher import watch

if TYPE_CHECKING:  # an extra
    from service.tracing import Traces


REFUSED = ["401", "403", "404", "429"]
UNDOCUMENTED = [("GET", "/", ["200"]), ("GET", "/docs", ["200"]), ("GET", "none", REFUSED), ("POST", "none", REFUSED)]
"""Method, route and status of what is asked, though the OpenAPI document does not have it."""


def create_app(settings: Settings, repository: Repository, engine: Engine) -> FastAPI:
    """The service over the models of `repository`, computed by `engine`, which it closes at its end.

    Raises SettingsError for a keys file that cannot be read. Its lifespan fills an empty repository from the store, or
    raises ArtifactError. Its state has the `health`, the `metrics` and the `batcher`, for the server around it.
    """
    api_keys, admin_keys = (
        Keys(path, setting=variable(name)) if (path := getattr(settings, name)) else None
        for name in ("api_keys_file", "admin_keys_file")
    )
    traces = _traces(settings)
    metrics = Metrics()
    metrics.watch_keys(lambda: sum(keys.broken for keys in (api_keys, admin_keys) if keys))
    batcher = Batcher(engine, metrics, queue_tokens=settings.queue_tokens, queue_requests=settings.queue_requests)
    judgements = Judgements(repository)
    metrics.registry.register(judgements)
    verifier = Verifier(engine, batcher)
    health = Health(engine, batcher, repository, verifier, settings.stuck_seconds)
    loader = Loader(Store(settings.store), repository, verifier, metrics, settings.pinned)
    share = max(1, settings.lanes * engine.threads // 2)
    serving = Serving(settings, repository, batcher, metrics, judgements, asyncio.Lock(), asyncio.Lock(), share)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks: list[asyncio.Task[None]] = []
        batcher.start()
        try:
            tasks.append(asyncio.create_task(health.watch()))
            if not list(repository):
                await loader.open()
            if settings.watch:
                tasks.append(asyncio.create_task(watch(loader)))
            yield
        finally:
            for task in tasks:
                task.cancel()
            await batcher.close()
            if traces:
                await asyncio.to_thread(traces.close)

    app = FastAPI(
        title="lstm-serve",
        description="Recurrent sequence classifiers over HTTP.",
        version=importlib.metadata.version("lstm-serve"),
        lifespan=lifespan,
        docs_url=None,
        openapi_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # the framework's own
    )
    app.state.health, app.state.metrics, app.state.batcher = health, metrics, batcher
    metrics.watch_ready(lambda: not health.not_ready)
    predicted = predict_request(settings.max_sequences, settings.max_tokens)
    classified = classify_request(settings.max_sequences)
    tei_predicted = tei_predict_request(settings.max_sequences)
    app.include_router(predict.router(serving, predicted))
    app.include_router(classify.router(serving, classified))
    app.include_router(v2.router(serving, health))
    app.include_router(tei.router(serving, tei_predicted, health))
    app.include_router(models.router(serving, loader.store))
    app.include_router(admin.router(serving, loader))
    app.include_router(probes.router(metrics, health))
    docs.mount(app)
    app.include_router(page.router())
    app.add_exception_handler(ServiceError, _on_service_error(metrics))
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_middleware(Turns)
    app.add_middleware(Authorization, api=api_keys, admin=admin_keys, rate=settings.rate_limit, metrics=metrics)
    app.add_middleware(Access, metrics=metrics, traces=traces)
    bodies = (predicted, classified, tei_predicted, InferRequest, IndexRequest, LoadRequest)
    paths = complete(app, Problem, *bodies, keyed=settings.api_keys_file is not None, limited=settings.rate_limit > 0)[
        "paths"
    ]
    metrics.declare(
        [
            *UNDOCUMENTED,
            *(
                (method.upper(), path, {*operation["responses"], "499", "500"})
                for path, methods in paths.items()
                for method, operation in methods.items()
            ),
        ],
        [kind.__name__ for kind in ServiceError.__subclasses__()],
    )
    return app


def _traces(settings: Settings) -> "Traces | None":
    """Raises BackendError."""
    if settings.traces == "off":
        return None
    try:
        from service.tracing import Traces

        return Traces()
    except ModuleNotFoundError as error:
        reason = f"{error.name} is not installed: pip install 'lstm-serve[otel]'"
        raise BackendError(f"LSTMSERVE_TRACES={settings.traces}: {reason}") from error
    except ValueError as error:
        raise BackendError(f"LSTMSERVE_TRACES={settings.traces}: an OTEL_* variable is wrong: {error}") from error


def _on_service_error(metrics: Metrics) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        metrics.refused(type(error).__name__)
        return refusal(
            request.url.path,
            error.status,
            error.detail,
            request_id.get(),
            errors=error.errors,
            count=error.count,
            headers=error.headers,
        )

    return handle


async def _on_http_error(request: Request, error: Exception) -> Response:
    """What the framework refuses: no such route, method not allowed."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    detail = f"{request.method} {path}: {error.detail}; /docs lists what there is"
    return refusal(path, error.status_code, detail, request_id.get(), headers=error.headers)
