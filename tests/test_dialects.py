"""A refusal has the shape that the clients of its path expect, wherever in the service it is made."""

import asyncio
import json
from collections.abc import AsyncIterator
from http import HTTPStatus

import httpx
import pytest
from fastapi import FastAPI

from service.dialects import TEI, refusal
from service.errors import FieldError, InvalidContent, NotReady, Overloaded, ServiceError
from service.schemas.shared import Problem
from tests.fake_engine import Fake, fake_app, running, until

pytestmark = pytest.mark.anyio

FAMILIES = {"problem": "", "v2": "/v2", "tei": "/tei"}
STATUSES = sorted({*(int(kind.status) for kind in ServiceError.__subclasses__()), 405})
V2 = {status: 400 if status == 422 else status for status in STATUSES}
TEI_TYPES = {413: "Validation", 424: "Backend", 429: "Overloaded", 503: "Unhealthy"}
"""The types of that server and their one status."""


def check(family: str, reply: httpx.Response, status: int) -> str:
    """That a reply to what is of that status here has its family's shape; its detail."""
    body = reply.json()
    if family == "problem":
        assert reply.headers["content-type"] == "application/problem+json"
        assert (reply.status_code, body["status"]) == (status, status)
        assert body["title"] == HTTPStatus(status).phrase
        assert body["request_id"] == reply.headers["x-request-id"]
        Problem.model_validate(body, strict=True)
        return str(body["detail"])
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"]
    if family == "v2":
        assert reply.status_code == V2[status]
        assert body.keys() == {"error"}
    else:
        assert (reply.status_code, body["error_type"]) == TEI[status]
        assert body.keys() == {"error", "error_type"}
    return str(body["error"])


def failing(fake: Fake) -> FastAPI:
    """The service with routes that fail in every family."""
    app = fake_app(fake)
    for prefix in FAMILIES.values():

        @app.get(prefix + "/bug")
        async def bug() -> None:
            raise ZeroDivisionError("never to be sent")

        @app.get(prefix + "/hang")
        async def hang() -> None:
            await asyncio.Event().wait()

        @app.get(prefix + "/invalid")
        async def invalid() -> None:
            raise InvalidContent("#/a: is wrong", errors=[FieldError("#/a", "is wrong")], count=1)

        @app.get(prefix + "/full")
        async def full() -> None:
            raise Overloaded("full", 7)

        @app.get(prefix + "/stopping")
        async def stopping() -> None:
            raise NotReady("later")

    return app


@pytest.fixture
async def client(fake: Fake) -> AsyncIterator[httpx.AsyncClient]:
    async with running(failing(fake)) as client:
        yield client


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_has_its_shape(status: int) -> None:
    replies = {
        family: refusal(f"{prefix}/x", status, "why", "id-1", headers={"X-Request-ID": "id-1", "X-Y": "z"})
        for family, prefix in FAMILIES.items()
    }
    for family, reply in replies.items():
        sent = httpx.Response(reply.status_code, headers=dict(reply.headers), content=bytes(reply.body))
        assert sent.headers["x-y"] == "z"
        assert check(family, sent, status) == "why"


def test_tei_types_have_the_status_of_that_server() -> None:
    own = {400, 401, 403, 404, 405, 408, 415}  # refused before its own errors begin
    for status, (told, kind) in TEI.items():
        assert kind in TEI_TYPES.values()
        assert (told, kind) == (status, "Validation") if status in own else TEI_TYPES[told] == kind


@pytest.mark.parametrize("family", FAMILIES)
async def test_no_such_path(client: httpx.AsyncClient, family: str) -> None:
    path = FAMILIES[family] + "/nowhere"
    assert check(family, await client.get(path), 404) == f"GET {path}: Not Found; /docs lists what there is"


@pytest.mark.parametrize("family", FAMILIES)
async def test_another_method(client: httpx.AsyncClient, family: str) -> None:
    path = FAMILIES[family] + "/full"
    reply = await client.delete(path)
    assert check(family, reply, 405).startswith(f"DELETE {path}: Method Not Allowed")
    assert reply.headers["allow"] == "GET"


@pytest.mark.parametrize("family", FAMILIES)
async def test_invalid_content(client: httpx.AsyncClient, family: str) -> None:
    reply = await client.get(FAMILIES[family] + "/invalid")
    assert check(family, reply, 422) == "#/a: is wrong"
    assert ("errors" in reply.json()) == (family == "problem")


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_full_queue(client: httpx.AsyncClient, family: str) -> None:
    reply = await client.get(FAMILIES[family] + "/full")
    assert check(family, reply, 429) == "full"
    assert reply.headers["retry-after"] == "7"


@pytest.mark.parametrize("family", FAMILIES)
async def test_not_ready(client: httpx.AsyncClient, family: str) -> None:
    assert check(family, await client.get(FAMILIES[family] + "/stopping"), 503) == "later"


@pytest.mark.parametrize("family", FAMILIES)
async def test_what_nobody_foresaw(client: httpx.AsyncClient, family: str) -> None:
    reply = await client.get(FAMILIES[family] + "/bug")
    assert check(family, reply, 500) == "unexpected error; the log has it under the request id"
    assert "never to be sent" not in reply.text


@pytest.mark.parametrize("family", FAMILIES)
async def test_cut_off_by_the_shutdown(client: httpx.AsyncClient, family: str) -> None:
    asked = asyncio.ensure_future(client.get(FAMILIES[family] + "/hang"))

    async def waits() -> bool:
        return "lstmserve_requests_in_flight 2.0" in (await client.get("/metrics")).text

    await until(waits)
    asked.cancel()  # as the server does at the shutdown limit
    assert "LSTMSERVE_SHUTDOWN_SECONDS" in check(family, await asked, 503)


@pytest.mark.parametrize("path", ["/v22/x", "/teil", "/models/v2/x", "/models/tei/predict", "/", "", "*"])
def test_a_family_is_the_first_part_of_a_path(path: str) -> None:
    assert json.loads(bytes(refusal(path, 404, "why", "").body))["status"] == 404


@pytest.mark.parametrize("path", ["/v2", "/v2/", "/tei", "/tei/"])
def test_the_root_of_a_family_is_of_it(path: str) -> None:
    assert json.loads(bytes(refusal(path, 404, "why", "").body))["error"] == "why"
