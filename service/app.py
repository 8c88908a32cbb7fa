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
from service.batcher import Batcher
from service.dialects import refusal
from service.engine import Engine
from service.errors import BackendError, ServiceError
from service.judgements import Judgements
from service.loader import Loader
from service.logs import request_id
from service.metrics import Metrics
from service.openapi import complete
from service.repository import Repository
from service.routes import admin, classify, docs, health, models, page, predict, tei, v2
from service.routes.call import Serving
from service.schemas.admin import IndexRequest, LoadRequest
from service.schemas.classify import classify_request
from service.schemas.predict import predict_request
from service.schemas.shared import Problem
from service.schemas.tei import tei_predict_request
from service.schemas.v2 import InferRequest
from service.settings import Settings
from service.store import Store
from service.verification import Verifier
from service.watcher import watch

if TYPE_CHECKING:  # an extra
    from service.tracing import Traces


UNDOCUMENTED = [("GET", "/", ["200"]), ("GET", "/docs", ["200"]), ("GET", "none", ["404"]), ("POST", "none", ["404"])]
"""Method, route and status of what is asked, though the OpenAPI document does not have it."""


def create_app(settings: Settings, repository: Repository, engine: Engine) -> FastAPI:
    """The service over the models of `repository`, computed by `engine`, which it closes at its end.

    Its lifespan fills an empty repository from the store, or raises ArtifactError. ``app.state.draining`` set to True
    makes it not ready; it goes on answering.
    """
    traces = _traces(settings)
    metrics = Metrics()
    batcher = Batcher(engine, metrics, queue_tokens=settings.queue_tokens)
    judgements = Judgements(repository)
    metrics.registry.register(judgements)
    loader = Loader(Store(settings.store), repository, Verifier(engine, batcher), metrics, settings.pinned)
    share = max(1, settings.lanes * engine.threads // 2)
    serving = Serving(settings, repository, batcher, metrics, judgements, asyncio.Lock(), share)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        try:
            if not list(repository):
                await loader.open()
            watching = asyncio.ensure_future(watch(loader)) if settings.watch else None
            yield
            if watching:
                watching.cancel()
        finally:
            await batcher.close()
            if traces:
                await asyncio.to_thread(traces.close)

    app = FastAPI(
        title="lstm-serve",
        description="Recurrent sequence classifiers over HTTP.",
        version=importlib.metadata.version("lstm-serve"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # the framework's own
    )
    app.state.draining = False

    def live() -> bool:
        return batcher.healthy

    def ready() -> bool:
        return live() and not app.state.draining and repository.default in repository

    metrics.watch_ready(ready)
    predicted = predict_request(settings.max_sequences, settings.max_tokens)
    classified = classify_request(settings.max_sequences)
    tei_predicted = tei_predict_request(settings.max_sequences)
    app.include_router(predict.router(serving, predicted))
    app.include_router(classify.router(serving, classified))
    app.include_router(v2.router(serving, live, ready))
    app.include_router(tei.router(serving, tei_predicted, ready))
    app.include_router(models.router(serving, loader.store))
    app.include_router(admin.router(serving, loader))
    app.include_router(health.router(metrics, live, ready))
    docs.mount(app)
    app.include_router(page.router())
    app.add_exception_handler(ServiceError, _on_service_error(metrics))
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_middleware(Access, metrics=metrics, traces=traces)
    bodies = (predicted, classified, tei_predicted, InferRequest, IndexRequest, LoadRequest)
    paths = complete(app, Problem, *bodies)["paths"]
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
