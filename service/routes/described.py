"""What OpenAPI says of the routes that compute, and routes whose endpoints make their responses themselves."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from service.schemas.shared import problems
from service.settings import Settings

PROBLEMS = {
    400: "the body is not JSON, or not compressed as it says",
    408: "the body did not arrive by the deadline",
    413: "the body is over the limit",
    415: "the body is not application/json in UTF-8, or compressed by other than gzip or deflate",
    422: "the content is invalid",
    429: "too much is waiting; come back after Retry-After seconds",
    500: "the engine could not compute the request, or an unexpected error",
    503: "an engine thread failed: send it again; or the engine is broken, or the service stops",
    504: "no answer within the deadline",
}
"""Why such a request may fail."""

UNKNOWN = {404: "no model of that name, or none is named and the default one is not loaded"}


class Plain(APIRoute):
    """A route that FastAPI documents, but whose endpoint takes the request and makes the response without its help."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def handle(request: Request) -> Response:
            response: Response = await self.endpoint(request=request, **request.path_params)
            return response

        return handle


def documented(settings: Settings, schema: str, reply: Any) -> dict[str, Any]:
    """What OpenAPI says of a route whose body is a component of that name, and whose reply is that model."""
    return {
        "response_model": reply,
        "openapi_extra": {
            "parameters": [
                {
                    "name": "X-Request-ID",
                    "in": "header",
                    "description": "comes back in the reply, in errors and in the log; made where there is none, or "
                    "one of more than 128 characters or of others than letters, digits and . _ : / + = -",
                    "schema": {"type": "string"},
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
                    "description": "high goes ahead of what arrived up to a second earlier, where the key allows it; "
                    "without the header as the key says, and normal where there are no keys",
                    "schema": {"type": "string", "enum": ["high", "normal"]},
                },
            ],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
            },
        },
    }


def by_model(
    routes: APIRouter,
    action: str,
    summary: str,
    answer: Callable[[Request, str | None], Coroutine[Any, Any, Response]],
    described: dict[str, Any],
) -> None:
    """Adds ``POST /{action}``, by the default model, and ``POST /models/{name}/{action}``."""

    @routes.post(
        f"/{action}",
        operation_id=action,
        summary=f"{summary}, by the default model",
        responses=problems(PROBLEMS | UNKNOWN),
        **described,
    )
    async def by_default(request: Request) -> Response:
        return await answer(request, None)

    @routes.post(
        f"/models/{{name}}/{action}",
        operation_id=f"{action}_by_model",
        summary=f"{summary}, by a named model",
        responses=problems(PROBLEMS | UNKNOWN),
        **described,
    )
    async def by_name(name: str, request: Request) -> Response:
        return await answer(request, name)
