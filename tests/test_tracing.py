"""Traces: which spans a request leaves, and that nobody waits for them."""

import time
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service import tracing
from service.access import PROBES
from tests.exposition import reading_app
from tests.fake_engine import POISON, Fake, fake_app, running

pytestmark = pytest.mark.anyio

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Traced:
    """A service with traces, and what it has sent once it has stopped."""

    def __init__(self, app: FastAPI, exporter: InMemorySpanExporter) -> None:
        self.app, self._exporter = app, exporter

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The reply to one request; then the service stops."""
        async with running(self.app) as client:
            return await client.request(method, path, **options)

    @property
    def spans(self) -> list[ReadableSpan]:
        """Spans by their beginning; the request's own is the first."""
        found = self._exporter.get_finished_spans()
        return sorted(found, key=lambda span: (began(span), span.kind != SpanKind.SERVER))

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "OTLPSpanExporter", lambda: exporter)
    return exporter


@pytest.fixture
def traced(fake: Fake, exporter: InMemorySpanExporter) -> Traced:
    return Traced(reading_app(fake, traces="otlp"), exporter)


def began(span: ReadableSpan) -> int:
    assert span.start_time is not None
    return span.start_time


def ended(span: ReadableSpan) -> int:
    assert span.end_time is not None
    return span.end_time


async def test_a_request_is_a_span_with_its_phases_in_it(traced: Traced) -> None:
    sent = {"X-Request-ID": "trace-me"}
    assert (await traced.ask("POST", "/classify?q=1", json={"texts": ["good film"]}, headers=sent)).status_code == 200
    assert traced.names == ["POST /classify", "validate", "queue", "compute", "encode"]
    request, *phases = traced.spans
    assert request.kind == SpanKind.SERVER
    assert request.parent is None
    assert request.status.status_code == StatusCode.UNSET
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/classify",
        "lstmserve.request_id": "trace-me",
        "url.path": "/classify",
        "url.scheme": "http",
    }
    for phase in phases:
        assert phase.parent is not None
        assert (phase.parent.span_id, phase.parent.trace_id) == (request.context.span_id, request.context.trace_id)
        assert not phase.attributes
    times = [time for phase in phases for time in (began(phase), ended(phase))]
    assert times == sorted(times)
    assert [ended(phase) for phase in phases[:-1]] == [began(phase) for phase in phases[1:]], "no gap"
    assert began(request) <= times[0]
    assert times[-1] <= ended(request)


async def test_the_times_are_those_of_the_reply(traced: Traced) -> None:
    reply = await traced.ask("POST", "/classify", json={"texts": ["good film"]})
    told = dict(part.split(";dur=") for part in reply.headers["Server-Timing"].split(", "))
    found = {span.name: (ended(span) - began(span)) / 1e6 for span in traced.spans}
    for phase in "queue", "compute":
        assert found[phase] == pytest.approx(float(told[phase]), abs=0.001)


async def test_the_time_is_that_of_the_clock(traced: Traced) -> None:
    before = time.time_ns()
    await traced.ask("POST", "/classify", json={"texts": ["good film"]})
    assert before <= began(traced.spans[0]) <= ended(traced.spans[0]) <= time.time_ns()


async def test_the_clients_trace_is_continued(traced: Traced) -> None:
    headers = [("traceparent", f"00-{TRACE}-{PARENT}-01"), ("tracestate", "a=1"), ("tracestate", "b=2")]
    await traced.ask("POST", "/classify", json={"texts": ["good film"]}, headers=headers)
    request, *phases = traced.spans
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT
    assert {f"{span.context.trace_id:032x}" for span in (request, *phases)} == {TRACE}
    assert dict(request.context.trace_state) == {"a": "1", "b": "2"}


async def test_what_the_client_does_not_sample_is_not_sent(traced: Traced) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    assert (await traced.ask("POST", "/classify", json={"texts": ["good film"]}, headers=headers)).status_code == 200
    assert traced.spans == []


@pytest.mark.parametrize("sent", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", "\xe9"])
async def test_a_trace_that_is_none_is_not_continued(traced: Traced, sent: str) -> None:
    headers = [(b"traceparent", sent.encode("latin-1"))]
    assert (await traced.ask("POST", "/classify", json={"texts": ["good film"]}, headers=headers)).status_code == 200
    assert traced.spans[0].parent is None


async def test_an_error_of_the_engine(traced: Traced) -> None:
    assert (await traced.ask("POST", "/predict", json={"token_ids": [[POISON]]})).status_code == 500
    assert traced.names == ["POST /predict", "validate", "engine"]
    request, _, engine = traced.spans
    assert request.status.status_code == StatusCode.ERROR
    assert request.attributes is not None
    assert request.attributes["http.response.status_code"] == 500
    assert request.attributes["error.type"] == "500"
    assert began(engine) <= ended(engine) <= ended(request)


async def test_an_error_nobody_foresaw(traced: Traced) -> None:
    @traced.app.get("/bug/{item}")
    async def bug(item: str) -> None:
        raise ZeroDivisionError

    assert (await traced.ask("GET", "/bug/5")).status_code == 500
    (request,) = traced.spans
    assert request.name == "GET /bug/{item}"
    assert request.status.status_code == StatusCode.ERROR


async def test_a_deadline_that_passes(traced: Traced, fake: Fake) -> None:
    fake.gate.clear()
    headers = {"X-Request-Timeout-Ms": "1"}
    assert (await traced.ask("POST", "/predict", json={"token_ids": [[1]]}, headers=headers)).status_code in (504, 408)
    assert traced.names[:2] == ["POST /predict", "validate"]
    assert set(traced.names[2:]) <= {"engine"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "names"),
    [
        ("POST", "/predict", {"token_ids": "none"}, 422, ["POST /predict", "validate"]),
        ("POST", "/models/none/classify", {"texts": ["a"]}, 404, ["POST /models/{name}/classify", "validate"]),
        ("POST", "/classify", {"texts": [""]}, 200, ["POST /classify", "validate", "encode"]),
        ("POST", "/nowhere/secret", None, 404, ["POST"]),
        ("GET", "/predict", None, 405, ["GET /predict"]),
        ("BREW", "/predict", None, 405, ["_OTHER /predict"]),
        ("GET", "/models", None, 200, ["GET /models"]),
    ],
)
async def test_what_never_reaches_the_engine(
    traced: Traced, method: str, path: str, body: object, status: int, names: list[str]
) -> None:
    assert (await traced.ask(method, path, json=body)).status_code == status
    assert traced.names == names
    assert traced.spans[0].status.status_code == StatusCode.UNSET


@pytest.mark.parametrize("path", PROBES)
async def test_probes_leave_no_trace(traced: Traced, path: str) -> None:
    assert (await traced.ask("GET", path)).status_code == 200
    assert traced.spans == []


async def test_explanations_have_phases_of_their_own(traced: Traced) -> None:
    body = {"texts": ["good film", "bad film"], "explain": True}
    assert (await traced.ask("POST", "/classify", json=body)).status_code == 200
    assert traced.names == ["POST /classify", "validate", *["queue", "compute", "encode"] * 3]


async def test_nothing_of_what_was_asked_is_told(traced: Traced) -> None:
    headers = {"Authorization": "Bearer open-sesame", "Cookie": "open-sesame"}
    body = {"texts": ["open-sesame treat"]}
    reply = await traced.ask("POST", "/classify?key=open-sesame", json=body, headers=headers)
    assert reply.status_code == 200
    assert "sesame" not in "".join(span.to_json() for span in traced.spans)
    assert "treat" not in "".join(span.to_json() for span in traced.spans)


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, "lstm-serve"),
        ({"OTEL_SERVICE_NAME": "reviews"}, "reviews"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=films,team=a"}, "films"),
    ],
)
async def test_the_name_of_the_service(
    fake: Fake,
    exporter: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    name: str,
) -> None:
    for variable in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    traced = Traced(fake_app(fake, traces="otlp"), exporter)
    await traced.ask("GET", "/models")
    assert traced.spans[0].resource.attributes["service.name"] == name
