"""What the client sends again and what it never does, by what arrives at a scripted server."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest

from service import client
from service.client import AsyncClient, Client, Error
from tests.scripted import (
    LOAD,
    MODEL,
    PREDICTION,
    Action,
    Net,
    babble,
    break_off,
    close,
    free_port,
    hold,
    raw,
    refuse,
    reply,
    reset,
    trickle,
)


@pytest.fixture(params=["sync", "async"])
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    with Net(request.param) as net:
        yield net


@pytest.mark.parametrize("action", [refuse(429), refuse(503), raw(503, b"<html>"), close, reset])
@pytest.mark.parametrize("method", ["predict", "classify", "model"])
def test_sent_again(net: Net, action: Action, method: str) -> None:
    server = net.serve(action, reply({**PREDICTION, **MODEL, "results": []}))
    caller = net.call(server.url)
    assert caller(method, "imdb" if method == "model" else [] if method == "classify" else [[1]])
    first, second = server.arrived
    assert (first.line, first.body) == (second.line, second.body)
    assert first.headers["x-request-id"] == second.headers["x-request-id"]
    assert caller.waits[0] == 0
    assert 0 <= caller.waits[1] <= client.BACKOFF_SECONDS


@pytest.mark.parametrize("status", [301, 400, 401, 404, 408, 413, 415, 422, 500, 502, 504])
def test_a_status_that_is_final(net: Net, status: int) -> None:
    server = net.serve(refuse(status, "Location: /elsewhere", "Retry-After: 0"))
    with pytest.raises(Error, match="'/elsewhere': use that as base_url" if status == 301 else "no") as caught:
        net.call(server.url)("predict", [[1]])
    assert caught.value.status == status


@pytest.mark.parametrize("action", [break_off, babble, hold, trickle])
def test_a_reply_that_has_begun_or_is_late_is_final(net: Net, action: Action) -> None:
    server = net.serve(action)
    with pytest.raises(Error) as caught:
        net.call(server.url, timeout=1 if action in (hold, trickle) else 30)("predict", [[1]])
    assert caught.value.status is None
    assert ("timeout" in caught.value.detail) == (action in (hold, trickle))
    assert caught.value.request_id == server.arrived[0].headers["x-request-id"]
    assert isinstance(caught.value.__cause__, httpx.RequestError | TimeoutError)


@pytest.mark.parametrize("action", [refuse(429, "Retry-After: 0"), refuse(500), refuse(503), refuse(504), close, reset])
@pytest.mark.parametrize("method", ["load", "unload"])
def test_a_change_is_never_sent_twice(net: Net, action: Action, method: str) -> None:
    server = net.serve(action)
    with pytest.raises(Error):
        net.call(server.url, retries=5)(method, "imdb")
    assert len(server.arrived) == 1


@pytest.mark.parametrize("method", ["predict", "load"])
def test_a_connection_that_could_not_be_made_is_made_again(net: Net, method: str) -> None:
    port = free_port()
    caller = net.call(f"http://127.0.0.1:{port}")
    servers = []
    caller.meanwhile = lambda: servers.append(net.serve(reply({**PREDICTION, **LOAD}), port=port))
    caller(method, "imdb" if method == "load" else [[1]])
    assert len(servers[0].arrived) == 1
    assert len(caller.waits) == 2


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_as_often_as_told(net: Net, retries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_random", SimpleNamespace(uniform=lambda _, most: most))
    monkeypatch.setattr(client, "BACKOFF_SECONDS", 0.25)
    monkeypatch.setattr(client, "BACKOFF_MOST", 0.75)
    server = net.serve(*[close] * retries, refuse(429, "Retry-After: 2", "X-Request-ID: from-the-service"))
    caller = net.call(server.url, retries=retries)
    with pytest.raises(Error) as caught:
        caller("predict", [[1]])
    assert len(server.arrived) == retries + 1
    assert (caught.value.status, caught.value.retry_after) == (429, 2)
    assert caught.value.request_id == "from-the-service"
    assert caller.waits == [0, 0.25, 0.5, 0.75][: retries + 1]


DATE = "Date: Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (("Retry-After: 7",), 7),
        (("Retry-After: Sun, 06 Nov 1994 08:49:44 GMT", DATE), 7),
        (("Retry-After: Sun, 06 Nov 1994 08:49:30 GMT", DATE), 0),
        (("Retry-After: Sun, 06 Nov 1994 08:49:44 GMT",), 0),  # by this machine's clock
        (("Retry-After: Sun, 06 Nov 1994 08:49:44 -0000", DATE), None),
        (("Retry-After: soon",), None),
        (("Retry-After: -1",), None),
        (("Retry-After: " + "9" * 5000,), None),
    ],
)
def test_retry_after_is_waited(net: Net, headers: tuple[str, ...], seconds: float | None) -> None:
    server = net.serve(refuse(429, *headers), refuse(429, *headers))
    caller = net.call(server.url, retries=1)
    with pytest.raises(Error) as caught:
        caller("predict", [[1]])
    assert caught.value.retry_after == seconds
    assert (seconds or 0) <= caller.waits[1] <= (seconds or 0) + client.BACKOFF_SECONDS


def test_no_wait_past_the_deadline(net: Net) -> None:
    caller = net.call(net.serve(refuse(429, "Retry-After: 30")).url)
    with pytest.raises(Error) as caught:
        caller("predict", [[1]])
    assert (caught.value.status, caught.value.retry_after) == (429, 30)
    assert caller.waits == [0]


def test_each_attempt_grants_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of the test, which waits and attempts move on."""
    now, attempts = 1000.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def refuse_late(request: httpx.Request) -> httpx.Response:
        attempts.append((now, request.headers["X-Request-Timeout-Ms"], dict(request.extensions["timeout"])))
        sleep(1)
        return httpx.Response(429, headers={"Retry-After": "3"})

    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    monkeypatch.setattr(client, "BACKOFF_SECONDS", 0.0)
    late = Client("http://test", timeout=8, retries=5, transport=httpx.MockTransport(refuse_late))
    with late, pytest.raises(Error, match="429"):  # at 1005 a wait of 3 s would end at the deadline
        late.predict([[1]])
    phases = ("connect", "read", "write", "pool")
    assert attempts == [(1000, "8000", dict.fromkeys(phases, 8)), (1004, "4000", dict.fromkeys(phases, 4))]


def test_a_cancelled_call_leaves(net: Net) -> None:
    server = net.serve(hold)

    async def leave() -> None:
        async with AsyncClient(server.url) as chosen:
            task = asyncio.create_task(chosen.predict([[1]]))
            await asyncio.to_thread(server.arrival.wait, 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(leave())
    assert len(server.arrived) == 1
