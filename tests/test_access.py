"""Request ids, log lines, metrics by route, and the reply to what nobody caught."""

import io
import json
import logging
import re
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from service import logs
from service.access import CLIENT_LEFT, PROBES, Access
from service.errors import NotReady
from service.logs import request_id
from service.metrics import Metrics
from tests.fake_engine import Fake, fake_app, running

pytestmark = pytest.mark.anyio


def app_that_fails(fake: Fake) -> FastAPI:
    """The service with routes that go wrong in every way."""
    app = fake_app(fake)

    @app.get("/bug")
    async def bug() -> None:
        raise ZeroDivisionError("never to be sent")

    @app.get("/left")
    async def left() -> None:
        raise ClientDisconnect

    @app.get("/halfway")
    async def halfway() -> StreamingResponse:
        async def stream() -> AsyncIterator[bytes]:
            yield b"half"
            raise ZeroDivisionError("after the start")

        return StreamingResponse(stream())

    @app.get("/identity/{item}")
    async def identity(item: str) -> str:
        return request_id.get()

    return app


@pytest.fixture
async def client(fake: Fake) -> AsyncIterator[httpx.AsyncClient]:
    async with running(app_that_fails(fake)) as client:
        yield client


async def samples(client: httpx.AsyncClient) -> dict[str, float]:
    lines = (await client.get("/metrics")).text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def last_request(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    record = [record for record in caplog.records if record.getMessage() == "request"][-1]
    return {name: getattr(record, name) for name in ("client", "method", "path", "status", "ms")}


@pytest.mark.parametrize("sent", ["a", "0af7651916cd43dd8448eb211c80319c", "A.b:c/d+e=f-g_h", "x" * 128])
async def test_a_request_id_is_kept(client: httpx.AsyncClient, sent: str) -> None:
    reply = await client.get("/identity/1", headers={"X-Request-ID": sent})
    assert reply.json() == reply.headers["X-Request-ID"] == sent
    assert request_id.get() == ""


@pytest.mark.parametrize("sent", ["", " ", "a b", "x" * 129, 'a"b', "a{b}", "caf\xe9", "a;b"])
async def test_an_invalid_request_id_is_replaced(client: httpx.AsyncClient, sent: str) -> None:
    reply = await client.get("/identity/1", headers=[(b"X-Request-ID", sent.encode("latin-1"))])
    assert re.fullmatch("[0-9a-f]{32}", reply.headers["X-Request-ID"])
    assert reply.json() == reply.headers["X-Request-ID"]


async def test_each_request_gets_its_own(client: httpx.AsyncClient) -> None:
    replies = [await client.get("/livez") for _ in range(10)]
    assert len({reply.headers["X-Request-ID"] for reply in replies}) == 10


async def test_an_unexpected_error_is_one_problem_and_logged(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reply = await client.get("/bug", headers={"X-Request-ID": "trace-me"})
    assert reply.status_code == 500
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["X-Request-ID"] == "trace-me"
    assert reply.json() == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "unexpected error; the log has it under the request id",
        "request_id": "trace-me",
    }
    assert "ZeroDivisionError: never to be sent" in caplog.text
    assert "Traceback" in caplog.text
    assert last_request(caplog)["status"] == 500
    assert (await samples(client))['lstmserve_requests_total{method="GET",route="/bug",status="500"}'] == 1


async def test_an_error_after_the_start_of_a_reply_is_not_answered_twice(
    fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(app_that_fails(fake), catch=False) as client:
        with pytest.raises(ZeroDivisionError):
            await client.get("/halfway")
        assert "after the start" in caplog.text
        assert (await samples(client))['lstmserve_requests_total{method="GET",route="/halfway",status="200"}'] == 1


async def test_a_client_that_left_is_counted_as_such(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    app = app_that_fails(fake)
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async with running(app) as client:
        scope = {"type": "http", "method": "GET", "path": "/left", "headers": [], "query_string": b""}
        await app(scope, receive, send)
        assert sent == []
        assert last_request(caplog)["status"] == CLIENT_LEFT == 499
        assert (await samples(client))['lstmserve_requests_total{method="GET",route="/left",status="499"}'] == 1


async def test_a_line_for_every_request(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await client.get("/identity/5?secret=1")
    line = last_request(caplog)
    assert line.pop("ms") >= 0
    assert line == {"client": "127.0.0.1", "method": "GET", "path": "/identity/5", "status": 200}
    await client.post("/nowhere")
    assert last_request(caplog)["status"] == 404


async def test_probes_are_logged_at_debug_alone(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for path in PROBES:
        await client.get(path)
        levels = [record.levelname for record in caplog.records if getattr(record, "path", None) == path]
        assert levels == ["DEBUG"]


async def test_metrics_are_by_route_template(client: httpx.AsyncClient) -> None:
    for n in range(3):
        await client.get(f"/identity/{n}")
        await client.get(f"/nowhere/{n}")
    await client.get("/predict")
    found = await samples(client)
    assert found['lstmserve_requests_total{method="GET",route="/identity/{item}",status="200"}'] == 3
    assert found['lstmserve_requests_total{method="GET",route="none",status="404"}'] == 3
    assert found['lstmserve_requests_total{method="GET",route="/predict",status="405"}'] == 1
    assert found['lstmserve_request_seconds_count{route="/identity/{item}"}'] == 3
    assert found["lstmserve_requests_in_flight"] == 1, "the one that asks"
    assert not [name for name in found if "/nowhere" in name]


async def test_methods_without_end_are_one(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for n in range(5):
        assert (await client.request(f"BREW{n}", "/predict")).status_code == 405
    found = await samples(client)
    assert found['lstmserve_requests_total{method="_OTHER",route="/predict",status="405"}'] == 5
    assert not [name for name in found if "BREW" in name]
    assert last_request(caplog)["method"] == "BREW4", "the log tells it"


async def test_what_is_not_http_passes() -> None:
    passed: list[str] = []

    async def app(scope: MutableMapping[str, Any], receive: object, send: object) -> None:
        passed.append(scope["type"])

    async def nothing(*_: object) -> Any:
        raise AssertionError

    await Access(app, Metrics())({"type": "lifespan"}, nothing, nothing)
    assert passed == ["lifespan"]


async def test_log_lines_are_json_with_the_request_id(
    client: httpx.AsyncClient, root_logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure("info")
    await client.get("/bug", headers={"X-Request-ID": "trace-me"})
    logging.getLogger("uvicorn.error").info("outside", extra={"color_message": "\x1b[1moutside"})
    logging.getLogger("service").debug("not severe enough")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    bug, request, outside = (line for line in lines if line["logger"] != "httpx")
    assert (bug["level"], bug["request_id"]) == ("ERROR", "trace-me")
    assert "ZeroDivisionError" in bug["exc_info"]
    assert (request["message"], request["request_id"], request["status"]) == ("request", "trace-me", 500)
    assert request["time"]
    assert outside["message"] == "outside"
    assert "request_id" not in outside
    assert "color_message" not in outside


async def test_an_engine_failure_is_logged_under_the_request_id(
    fake: Fake, root_logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure("error")
    async with running(fake_app(fake)) as client:
        reply = await client.post("/predict", json={"token_ids": [[39]]}, headers={"X-Request-ID": "trace-me"})
    assert reply.status_code == 500
    (line,) = (json.loads(line) for line in stream.getvalue().splitlines())
    assert line["request_id"] == "trace-me"
    assert line["exc_info"].splitlines()[0].startswith("ArithmeticError")


async def test_a_refusal_is_not_an_error_in_the_log(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    app = fake_app(fake)

    @app.get("/refuse")
    async def refuse() -> None:
        raise NotReady("later")

    async with running(app) as client:
        assert (await client.get("/refuse")).status_code == 503
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
