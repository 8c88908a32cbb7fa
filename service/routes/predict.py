"""Token batches in, logits out: ``POST /predict`` and ``POST /models/{name}/predict``."""

import re
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from service.batcher import Batcher
from service.body import read_json, while_connected
from service.errors import FieldError, InvalidContent
from service.repository import Repository
from service.schemas import PredictReply, PredictRequest, Vocabulary, parse, problems
from service.settings import Settings

PROBLEMS = {
    400: "the body is not JSON",
    408: "the body did not arrive by the deadline",
    413: "the body is over the limit",
    415: "the body is not application/json in UTF-8",
    422: "the content is invalid",
    429: "too much is waiting; come back after Retry-After seconds",
    500: "the engine could not compute the request, or an unexpected error",
    503: "no engine thread is running, or the service stops",
    504: "no answer within the deadline",
}


class Plain(APIRoute):
    """A route that FastAPI documents, but whose endpoint takes the request and makes the response without its help."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def handle(request: Request) -> Response:
            response: Response = await self.endpoint(request=request, **request.path_params)
            return response

        return handle


def router(repository: Repository, batcher: Batcher, settings: Settings, schema: type[PredictRequest]) -> APIRouter:
    """The routes, whose bodies are of `schema`, a component of the OpenAPI document."""
    routes = APIRouter(tags=["predict"], route_class=Plain)
    documented: dict[str, Any] = {
        "response_model": PredictReply,
        "openapi_extra": {
            "parameters": [
                {
                    "name": "X-Request-ID",
                    "in": "header",
                    "description": "comes back in the reply, in errors and in the log; made where there is none",
                    "schema": {"type": "string", "maxLength": 128},
                },
                {
                    "name": "X-Request-Timeout-Ms",
                    "in": "header",
                    "description": f"answer within so many ms, or 504; at most and by default {settings.timeout_ms}",
                    "schema": {"type": "integer", "minimum": 1, "maximum": settings.timeout_ms},
                },
                {
                    "name": "X-Request-Priority",
                    "in": "header",
                    "description": "high goes ahead of what arrived up to a second earlier",
                    "schema": {"type": "string", "enum": ["high", "normal"], "default": "normal"},
                },
            ],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema.__name__}"}}},
            },
        },
    }

    @routes.post(
        "/predict", summary="Logits of a token batch, by the default model", responses=problems(PROBLEMS), **documented
    )
    async def predict(request: Request) -> Response:
        return await answer(request)

    @routes.post(
        "/models/{name}/predict",
        summary="Logits of a token batch, by a named model",
        responses=problems({**PROBLEMS, 404: "no model of that name"}),
        **documented,
    )
    async def predict_by(name: str, request: Request) -> Response:
        return await answer(request, name)

    async def answer(request: Request, name: str | None = None) -> Response:
        began = time.monotonic()
        seconds = _timeout(request, settings.timeout_ms)
        urgent = _urgent(request)
        body = await read_json(request, settings.max_body_bytes, seconds)
        model = repository.get(name)
        config = model.config
        batch = parse(schema, body, Vocabulary(config.vocab_size, config.pad_id, config.max_length))
        left = began + seconds - time.monotonic()
        work = batcher.run(model.weights, batch.sequences(), seconds=left, urgent=urgent)
        logits, queue, compute = await while_connected(request, work)
        reply = {"model": model.name, "version": model.version, "labels": config.labels, "logits": logits}
        timing = f"queue;dur={1000 * queue:.3f}, compute;dur={1000 * compute:.3f}"
        return Response(to_json(reply), media_type="application/json", headers={"Server-Timing": timing})

    return routes


def _timeout(request: Request, limit: int) -> float:
    """Seconds that the client gives, or the setting does."""
    text = request.headers.get("x-request-timeout-ms", str(limit))
    if not (re.fullmatch("[0-9]{1,18}", text) and 1 <= int(text) <= limit):
        raise _bad_header("X-Request-Timeout-Ms", f"must be an integer from 1 to {limit}")
    return int(text) / 1000


def _urgent(request: Request) -> bool:
    text = request.headers.get("x-request-priority", "normal")
    if text not in ("high", "normal"):
        raise _bad_header("X-Request-Priority", "must be high or normal")
    return text == "high"


def _bad_header(name: str, rule: str) -> InvalidContent:
    return InvalidContent(f"header {name} {rule}", errors=[FieldError(name, rule)], count=1)
