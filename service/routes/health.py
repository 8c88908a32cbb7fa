"""For those who watch the service: ``/livez``, ``/readyz``, ``/metrics``."""

from collections.abc import Callable

from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from service.errors import NotReady
from service.metrics import Metrics
from service.schemas.shared import Health, problems


def router(metrics: Metrics, live: Callable[[], bool], ready: Callable[[], bool]) -> APIRouter:
    routes = APIRouter(tags=["health"])

    @routes.head("/livez", include_in_schema=False)
    @routes.get(
        "/livez",
        summary="Whether the process can go on; if not, it must be started again",
        responses=problems({503: "an engine thread has ended"}),
    )
    async def livez() -> Health:
        if not live():
            raise NotReady("an engine thread has ended: start the process again")
        return Health(status="ok")

    @routes.head("/readyz", include_in_schema=False)
    @routes.get(
        "/readyz",
        summary="Whether requests should be sent here",
        responses=problems({503: "draining, or an engine thread has ended, or the default model is not loaded"}),
    )
    async def readyz() -> Health:
        if not ready():
            raise NotReady(
                "the service is draining, an engine thread has ended, or the default model is not loaded: "
                "send requests elsewhere"
            )
        return Health(status="ready")

    @routes.get("/metrics", summary="Metrics in the text format of Prometheus", response_class=PlainTextResponse)
    async def expose() -> Response:
        return Response(metrics.expose(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
