"""For those who watch the service: ``/livez``, ``/readyz``, ``/metrics``."""

from collections.abc import Callable

from fastapi import APIRouter
from starlette.responses import Response

from service.errors import NotReady
from service.metrics import Metrics
from service.schemas import Health, problems


def router(metrics: Metrics, ready: Callable[[], bool]) -> APIRouter:
    routes = APIRouter(tags=["health"])

    @routes.get("/livez", summary="Whether the process answers")
    async def livez() -> Health:
        return Health(status="ok")

    @routes.get(
        "/readyz",
        summary="Whether requests should be sent here",
        responses=problems({503: "draining, or an engine thread has ended"}),
    )
    async def readyz() -> Health:
        if not ready():
            raise NotReady("the service is draining or an engine thread has ended: send requests elsewhere")
        return Health(status="ready")

    @routes.get("/metrics", summary="Metrics in the text format of Prometheus", response_class=Response)
    async def expose() -> Response:
        return Response(metrics.expose(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
