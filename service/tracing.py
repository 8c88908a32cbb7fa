"""A trace of each request, by OpenTelemetry: made when it has ended, of the times that are known then.

Imported where LSTMSERVE_TRACES asks for traces: they are an extra, and cost nothing elsewhere.
"""

import importlib.metadata
import itertools
import threading
import time

from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from starlette.datastructures import Headers
from starlette.types import Scope

CLOSE_SECONDS = 5.0
"""In which the last traces are sent when the service stops; the collector may be gone."""


class Traces:
    """Sends the traces from a thread of its own, to where and as the OTEL_* variables say.

    Raises ValueError where one of these is wrong.
    """

    def __init__(self) -> None:
        version = importlib.metadata.version("lstm-serve")
        named = Resource.create({"service.name": "lstm-serve", "service.version": version})
        resource = named.merge(OTELResourceDetector().detect())  # the environment's names win
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("lstm-serve", version)

    def record(
        self, scope: Scope, method: str, route: str | None, status: int, identity: str, began: float, ended: float
    ) -> None:
        """The span of a request, part of its client's trace if it names one, and in it one of each of its phases.

        ``scope["phases"]``: their names and when they began; one without a name is not told. Times are seconds of the
        monotonic clock.
        """
        since_epoch = time.time_ns() - time.monotonic_ns()

        def nanoseconds(when: float) -> int:
            return since_epoch + round(1e9 * when)

        headers = Headers(scope=scope)
        span = self._tracer.start_span(
            f"{method} {route}" if route else method,
            propagate.extract({name: headers.getlist(name) for name in headers}),
            SpanKind.SERVER,
            {  # https://opentelemetry.io/docs/specs/semconv/http/http-spans/
                "http.request.method": method,
                "http.response.status_code": status,
                "url.path": scope["path"],
                "url.scheme": scope.get("scheme", "http"),
                "lstmserve.request_id": identity,
                **({"http.route": route} if route else {}),
            },
            start_time=nanoseconds(began),
        )
        if span.is_recording():
            if status >= 500:
                span.set_status(Status(StatusCode.ERROR))
                span.set_attribute("error.type", str(status))
            inside = set_span_in_context(span)
            for (name, start), (_, end) in itertools.pairwise([*scope["phases"], ("", ended)]):
                if name:
                    phase = self._tracer.start_span(name, inside, start_time=nanoseconds(start))
                    phase.end(nanoseconds(end))
        span.end(nanoseconds(ended))

    def close(self) -> None:
        """Sends what has not been sent, in a bounded time."""
        sender = threading.Thread(target=self._provider.shutdown, daemon=True)
        sender.start()
        sender.join(CLOSE_SECONDS)
