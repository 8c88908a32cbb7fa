"""The application: wiring, lifespan and the one error handler."""

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.access import Access
from service.batcher import Batcher
from service.engine import Engine
from service.errors import ServiceError, problem
from service.logs import request_id
from service.metrics import Metrics
from service.repository import Repository
from service.routes import docs, health, predict
from service.schemas import PredictRequest, Problem, predict_request
from service.settings import Settings


def create_app(settings: Settings, repository: Repository, engine: Engine) -> FastAPI:
    """The service over the models of `repository`, computed by `engine`, which it closes at its end.

    ``app.state.draining`` set to True makes it not ready; it goes on answering.
    """
    metrics = Metrics()
    batcher = Batcher(engine, metrics, queue_tokens=settings.queue_tokens)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.close()

    app = FastAPI(
        title="lstm-serve",
        description="Recurrent sequence classifiers over HTTP.",
        version=importlib.metadata.version("lstm-serve"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.draining = False

    def live() -> bool:
        return batcher.healthy

    def ready() -> bool:
        return live() and not app.state.draining

    metrics.watch_ready(ready)
    request = predict_request(settings.max_sequences, settings.max_tokens)
    app.include_router(predict.router(repository, batcher, settings, request))
    app.include_router(health.router(metrics, live, ready))
    docs.mount(app)
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_middleware(Access, metrics=metrics)
    paths = _document(app, request)["paths"]
    metrics.declare(
        [(method.upper(), path) for path, methods in paths.items() for method in methods],
        [(model.name, model.version, model.precision) for model in repository],
    )
    return app


async def _on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problem(
        error.status, error.detail, request_id.get(), errors=error.errors, count=error.count, headers=error.headers
    )


async def _on_http_error(request: Request, error: Exception) -> Response:
    """What the framework refuses: no such route, method not allowed."""
    assert isinstance(error, HTTPException)
    detail = f"{request.method} {request.url.path}: {error.detail}; /docs lists what there is"
    return problem(error.status_code, detail, request_id.get(), headers=error.headers)


def _document(app: FastAPI, request: type[PredictRequest]) -> dict[str, Any]:
    """The OpenAPI document, with the schemas that no route's signature names."""
    document: dict[str, Any] = app.openapi()
    for schema in (Problem, request):
        described = schema.model_json_schema(ref_template="#/components/schemas/{model}")
        document["components"]["schemas"] |= {**described.pop("$defs", {}), schema.__name__: described}
    return document
