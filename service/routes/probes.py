"""For those who watch the service: ``/livez``, ``/readyz``, ``/metrics``."""

from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from service.errors import NotReady
from service.health import Health
from service.metrics import Metrics
from service.schemas.shared import HealthReply, problems


def router(metrics: Metrics, health: Health) -> APIRouter:
    routes = APIRouter(tags=["health"])

    @routes.head("/livez", include_in_schema=False)
    @routes.get(
        "/livez",
        summary="Whether the process can go on; if not, it must be started again",
        responses=problems({503: "the engine is broken"}),
    )
    async def livez() -> HealthReply:
        if reason := health.not_live:
            raise NotReady(reason)
        return HealthReply(status="ok")

    @routes.head("/readyz", include_in_schema=False)
    @routes.get(
        "/readyz",
        summary="Whether requests should be sent here",
        responses=problems({503: "draining, or the engine or the default model cannot answer; detail says which"}),
    )
    async def readyz() -> HealthReply:
        if reason := health.not_ready:
            raise NotReady(reason)
        return HealthReply(status="ready")

    @routes.get("/metrics", summary="Metrics in the text format of Prometheus", response_class=PlainTextResponse)
    async def expose() -> Response:
        return Response(metrics.expose(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
