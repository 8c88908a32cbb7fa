"""The outermost layer: request ids, the log line and the metrics of every request, the reply to what nobody caught."""

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.dialects import refusal
from service.logs import request_id, request_id_of
from service.metrics import Metrics

if TYPE_CHECKING:  # an extra
    from service.tracing import Traces

log = logging.getLogger(__name__)

CLIENT_LEFT = 499
"""Status in logs and metrics where the client left before its reply (nginx's number; never sent)."""

PROBES = ("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready", "/tei/health")
"""Asked every few seconds by machines: logged at level debug, and not traced."""

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
"""Told by their names in metrics and traces; there is no end to the others."""


class Access:
    """ASGI middleware around everything that answers a request.

    ``scope["began"]`` is when that was, by the monotonic clock. Where there are `traces`, ``scope["phases"]`` is a
    list: whoever answers notes the name of a phase there, and when it began by the same clock.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, traces: "Traces | None" = None) -> None:
        self._app, self._metrics, self._traces = app, metrics, traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = scope["began"] = time.monotonic()
        if self._traces:
            scope["phases"] = []
        identity = request_id_of(Headers(scope=scope).get("x-request-id", ""))
        token = request_id.set(identity)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = identity
            await send(message)

        try:
            with self._metrics.in_flight.track_inprogress():
                await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = CLIENT_LEFT
        except asyncio.CancelledError:  # by the server, at the shutdown limit
            log.warning("cut off by the shutdown")
            if not status:
                detail = "the shutdown was cut short (LSTMSERVE_SHUTDOWN_SECONDS or a signal): send it elsewhere"
                await refusal(scope["path"], 503, detail, identity)(scope, receive, send_with_id)
        except Exception:
            log.exception("unexpected error")
            if status:
                raise
            detail = "unexpected error; the log has it under the request id"
            failed = refusal(scope["path"], 500, detail, identity)
            await failed(scope, receive, send_with_id)
        finally:
            ended = time.monotonic()
            method = scope["method"] if scope["method"] in METHODS else "_OTHER"
            route = getattr(scope.get("route"), "path", None)
            self._metrics.replied(method, route or "none", status, ended - began)
            if self._traces and route not in PROBES:
                self._traces.record(scope, method, route, status, identity, began, ended)
            level = logging.DEBUG if route in PROBES else logging.INFO
            if log.isEnabledFor(level):
                extra = {
                    "client": scope["client"][0] if scope.get("client") else None,
                    "key": key.name if (key := scope.get("key")) else None,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "ms": round(1000 * (ended - began), 3),
                }
                log.log(level, "request", extra=extra)
            request_id.reset(token)
