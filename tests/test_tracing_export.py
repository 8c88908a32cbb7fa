"""How traces leave: the setting, the extra, and that nobody waits for the collector."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from service import tracing
from service.errors import BackendError
from tests.exposition import reading_app
from tests.fake_engine import Fake, fake_app, running
from tests.server import Server
from tests.tiny import write_tiny

pytestmark = pytest.mark.anyio


class Stuck(SpanExporter):
    """Hangs, as a collector may."""

    def __init__(self) -> None:
        self.exporting, self.released = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.exporting.set()
        assert self.released.wait(60)
        return SpanExportResult.SUCCESS


@pytest.fixture
async def stuck(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stuck]:
    stuck = Stuck()
    monkeypatch.setattr(tracing, "OTLPSpanExporter", lambda: stuck)
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0.05)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    yield stuck
    stuck.released.set()


async def test_nobody_waits_for_the_collector(fake: Fake, stuck: Stuck) -> None:
    async with asyncio.timeout(30), running(reading_app(fake, traces="otlp")) as client:
        await client.get("/models")
        assert await asyncio.to_thread(stuck.exporting.wait, 20)
        for _ in range(3):
            assert (await client.post("/classify", json={"texts": ["good film"]})).status_code == 200
    assert not stuck.released.is_set(), "it has stopped all the same"


def test_a_wrong_variable_is_told(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    with pytest.raises(BackendError, match=r"LSTMSERVE_TRACES=otlp: an OTEL_\* variable is wrong: max_queue_size must"):
        fake_app(fake, traces="otlp")


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)


def test_without_the_setting_it_is_never_imported() -> None:
    """But for the interface alone, which FastAPI imports."""
    program = """
import asyncio, sys
from tests.fake_engine import Fake, fake_app, running
async def main():
    async with running(fake_app(Fake())) as client:
        assert (await client.post("/predict", json={"token_ids": [[1]]})).status_code == 200
asyncio.run(main())
import service.serve
found = {name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))}
assert not found | ({"service.tracing"} & sys.modules.keys()), found
"""
    done = run(program)
    assert done.returncode == 0, done.stderr


def test_the_extra_that_is_missing_is_named(tmp_path: Path) -> None:
    write_tiny(tmp_path / "imdb" / "1")
    program = """
import sys
sys.modules["opentelemetry.exporter"] = None
from service.serve import main
sys.exit(main(sys.argv[1:]))
"""
    done = run(program, "--traces", "otlp", "--store", str(tmp_path), "--port", "0")
    assert done.returncode == 2
    assert done.stderr == (
        "lstm-serve: LSTMSERVE_TRACES=otlp: opentelemetry.exporter.otlp is not installed: "
        "pip install 'lstm-serve[otel]'\n"
    )


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, ExportTraceServiceRequest]]]]:
    """Its address, and what it was sent."""
    received: list[tuple[str, ExportTraceServiceRequest]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", received
        server.shutdown()
        thread.join()


def test_a_real_service_sends_its_last_traces_when_it_stops(
    tmp_path: Path, collector: tuple[str, list[tuple[str, ExportTraceServiceRequest]]]
) -> None:
    address, received = collector
    write_tiny(tmp_path / "imdb" / "1")
    environment = {
        "LSTMSERVE_TRACES": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": address,
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
    }
    with Server(tmp_path, "--drain-seconds", "0", **environment) as server:
        reply = httpx.post(f"{server.url}/predict", json={"token_ids": [[1, 2]]})
        assert reply.status_code == 200
        server.send(signal.SIGTERM)
        assert server.wait() == 0
    assert json.loads(server.lines[-1])["message"] == "stopped"
    ((path, request),) = received
    assert path == "/v1/traces"
    spans = [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]
    assert {span.name for span in spans} == {"POST /predict", "validate", "queue", "compute", "encode"}
