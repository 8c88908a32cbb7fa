"""POST /predict over the whole application and the fake engine: every rule of the wire."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.schemas.predict import PredictReply
from tests.fake_engine import LIMITS, POISON, Fake, fake_app, refused, right, running, until
from tests.test_schemas import REFUSED

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}
MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
async def client(fake: Fake) -> AsyncIterator[httpx.AsyncClient]:
    async with running(fake_app(fake)) as client:
        yield client


async def until_metrics_say(client: httpx.AsyncClient, line: str) -> None:
    async def said() -> bool:
        return line in (await client.get("/metrics")).text.splitlines()

    await until(said)


async def test_the_reply(client: httpx.AsyncClient, fake: Fake) -> None:
    reply = await client.post("/predict", json={"token_ids": [[3, 4, 5], [6, 0, 0]]})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == {
        "model": "tiny",
        "version": 1,
        "labels": ["negative", "positive"],
        "logits": [right([3, 4, 5]), right([6])],
    }
    PredictReply.model_validate_json(reply.content, strict=True)
    timing = dict(part.split(";dur=") for part in reply.headers["server-timing"].split(", "))
    assert timing.keys() == {"queue", "compute"}
    assert all(float(value) >= 0 for value in timing.values())
    assert fake.started == [[3, 4, 5], [6]]


async def test_a_named_model(client: httpx.AsyncClient, fake: Fake) -> None:
    body = {"token_ids": [[0, 5, 3]]}  # 3 is its pad id
    reply = await client.post("/models/odd/predict", json=body)
    assert (reply.json()["model"], reply.json()["version"]) == ("odd", 7)
    assert reply.json()["logits"] == [right([0, 5])]
    assert (await client.post("/models/tiny/predict", json={"token_ids": [[5]]})).json()["model"] == "tiny"


@pytest.mark.parametrize("name", ["nope", "TINY", "tiny ", "%00", "%ff", "{x}"])
async def test_an_unknown_model(client: httpx.AsyncClient, fake: Fake, name: str) -> None:
    problem = refused(await client.post(f"/models/{name}/predict", json={"token_ids": [[5]]}), 404)
    assert problem.detail.endswith("; there are: tiny, odd, small")
    assert fake.started == []


@pytest.mark.parametrize("rule", REFUSED)
async def test_invalid_content(fake: Fake, rule: str) -> None:
    body, pointer, _ = REFUSED[rule]
    async with running(fake_app(fake, max_tokens=8, max_sequences=4)) as client:
        problem = refused(await client.post("/models/small/predict", json=body), 422)
    assert problem.errors is not None
    assert problem.error_count == len(problem.errors) == 1
    assert problem.errors[0].pointer == pointer
    assert problem.detail.startswith(f"{pointer}: ")
    assert fake.started == []


async def test_the_limits_of_setting_and_model(client: httpx.AsyncClient, fake: Fake) -> None:
    async def ask(rows: list[list[int]], **fields: object) -> httpx.Response:
        return await client.post("/predict", json={"token_ids": rows, **fields})

    assert (await ask([[1] * 16] * 8)).status_code == 200
    assert (await ask([[1] * 16 + [0] * 16])).status_code == 200, "the model's limit is of tokens"
    assert (await ask([[1] + [0] * 31], lengths=[16])).status_code == 200
    started = len(fake.started)
    assert "at most 16" in refused(await ask([[1] * 17]), 422).detail
    assert "at most 16" in refused(await ask([[1] + [0] * 31], lengths=[17]), 422).detail
    assert "at most 32" in refused(await ask([[1] * 33]), 422).detail
    assert "at most 8" in refused(await ask([[1]] * 9), 422).detail
    assert "at most 8" in refused(await ask([[1]], lengths=[1] * 9), 422).detail
    assert len(fake.started) == started


async def test_at_most_twenty_errors_are_listed(fake: Fake) -> None:
    async with running(fake_app(fake, max_sequences=64, queue_tokens=4096)) as client:
        problem = refused(await client.post("/predict", json={"token_ids": [["x"]] * 50}), 422)
    assert problem.errors is not None
    assert (len(problem.errors), problem.error_count) == (20, 50)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1,", b'{"token_ids": [[1]]', b"nul"])
async def test_not_json(client: httpx.AsyncClient, fake: Fake, content: bytes) -> None:
    assert "not JSON" in refused(await client.post("/predict", content=content, headers=JSON), 400).detail
    assert fake.started == []


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (None, 415),
        ("", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/problem+json", 415),
        ("application/json, text/plain", 415),
        ("application/jsonp", 415),
        ("application/json; charset=latin-1", 415),
        ("application/json; charset=utf-16", 415),
        ("application/json; charset=\xff", 415),
        ("application/json; charset*" + "9" * 5000 + "=x", 415),
        ('application/json; charset="utf-8', 415),
        ("application/json", 200),
        ("Application/JSON", 200),
        ("application/json;charset=UTF-8", 200),
        ('application/json; charset="utf-8"', 200),
        ("application/json; version=1", 200),
        ("application/json;", 200),
    ],
)
async def test_the_media_type(client: httpx.AsyncClient, fake: Fake, sent: str | None, status: int) -> None:
    headers = [] if sent is None else [(b"Content-Type", sent.encode("latin-1"))]
    reply = await client.post("/predict", content=b'{"token_ids": [[5]]}', headers=headers)
    assert reply.status_code == status
    if status == 415:
        assert "application/json in UTF-8" in refused(reply, 415).detail
        assert fake.started == []


@pytest.mark.parametrize(("coding", "status"), [("zstd", 415), ("br", 415), ("identity", 200), ("Identity", 200)])
async def test_the_content_coding(client: httpx.AsyncClient, coding: str, status: int) -> None:
    headers = {**JSON, "Content-Encoding": coding}
    reply = await client.post("/predict", content=b'{"token_ids": [[5]]}', headers=headers)
    assert reply.status_code == status
    if status == 415:
        assert coding in refused(reply, 415).detail


async def post_in_pieces(app: FastAPI, pieces: Iterator[bytes], **headers: str) -> tuple[int, int, dict[str, str]]:
    """Status, bytes that the application took, headers of the reply."""
    taken, ended = 0, False
    start: dict[str, Any] = {}

    async def receive() -> dict[str, Any]:
        nonlocal taken, ended
        if ended:
            await asyncio.Event().wait()  # the client stays
        piece = next(pieces, b"")
        taken, ended = taken + len(piece), not piece
        return {"type": "http.request", "body": piece, "more_body": not ended}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            start.update(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), *((k.encode(), v.encode()) for k, v in headers.items())],
    }
    await app(scope, receive, send)
    return start["status"], taken, {k.decode(): v.decode() for k, v in start["headers"]}


async def test_a_body_over_the_limit_is_refused_without_reading_it_all(fake: Fake) -> None:
    app = fake_app(fake)
    limit = LIMITS["max_body_bytes"]
    endless = iter(lambda: b" " * 1000, None)
    async with running(app):
        status, taken, headers = await post_in_pieces(app, endless, **{"content-length": str(2 * limit + 1)})
        assert (status, taken) == (413, 0), "known from Content-Length"
        status, taken, headers = await post_in_pieces(app, endless)
        assert (status, taken) == (413, 9000), "the first piece beyond twice the limit is the last one"
        assert headers["content-type"] == "application/problem+json"
        at_limit = b'{"token_ids": [[5]]}'.ljust(limit)
        assert (await post_in_pieces(app, iter([at_limit])))[0] == 200
        assert (await post_in_pieces(app, iter([at_limit, b" "])))[0] == 413
    assert fake.started == [[5]]


@pytest.mark.parametrize(
    "sent", ["0", "-1", "1.5", "", " ", "abc", "1e3", "+5", "30001", "\u0665", "0" * 19 + "1" + "9" * 30, "9" * 5000]
)
async def test_a_bad_timeout(client: httpx.AsyncClient, fake: Fake, sent: str) -> None:
    headers = [(b"X-Request-Timeout-Ms", sent.encode())]
    problem = refused(await client.post("/predict", json={"token_ids": [[5]]}, headers=headers), 422)
    assert problem.detail == "header X-Request-Timeout-Ms must be an integer from 1 to 30000"
    assert problem.errors is not None
    assert problem.errors[0].pointer == "X-Request-Timeout-Ms"
    assert fake.started == []


@pytest.mark.parametrize("sent", ["", "HIGH", "low", "1", "high,normal"])
async def test_a_bad_priority(client: httpx.AsyncClient, fake: Fake, sent: str) -> None:
    reply = await client.post("/predict", json={"token_ids": [[5]]}, headers={"X-Request-Priority": sent})
    assert refused(reply, 422).detail == "header X-Request-Priority must be high or normal"
    assert fake.started == []


async def test_priority_and_deadline_by_header(fake: Fake) -> None:
    async with running(fake_app(fake, lanes=1)) as client:
        fake.gate.clear()

        def ask(token: int, **headers: str) -> asyncio.Task[httpx.Response]:
            sent = {f"X-Request-{name.replace('_', '-')}": value for name, value in headers.items()}
            return asyncio.create_task(client.post("/predict", json={"token_ids": [[token]]}, headers=sent))

        running_one = ask(1)
        assert await asyncio.to_thread(fake.stepping.acquire, timeout=10)
        late = ask(2, Timeout_Ms="40")
        assert "X-Request-Timeout-Ms" in refused(await late, 504).detail
        normal, high = ask(3, Priority="normal", Timeout_Ms="30000"), ask(4, Priority="high")
        await until_metrics_say(client, "lstmserve_queue_sequences 2.0")
        fake.gate.set()
        for task in (running_one, normal, high):
            assert (await task).status_code == 200
    assert fake.started == [[1], [4], [3]]


async def test_a_deadline_counts_from_when_the_request_began(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that come at once wait for their turn; that is no time of the client's."""
    monkeypatch.setattr("service.routes.call.check_bulk", lambda *_: time.sleep(0.02))
    async with running(fake_app(fake)) as client:
        hurried = {"X-Request-Timeout-Ms": "200"}
        replies = await asyncio.gather(
            *(client.post("/predict", json={"token_ids": [[number]]}, headers=hurried) for number in range(1, 31))
        )
    in_time = [reply.status_code for reply in replies].count(200)
    assert in_time < 25
    assert [reply.status_code for reply in replies].count(504) == 30 - in_time


async def test_a_full_queue(fake: Fake) -> None:
    async with running(fake_app(fake, lanes=1)) as client:
        fake.gate.clear()
        tasks = [asyncio.create_task(client.post("/predict", json={"token_ids": [[1]]}))]
        assert await asyncio.to_thread(fake.stepping.acquire, timeout=10)
        full = {"token_ids": [[1] * 16] * 8}
        tasks += [asyncio.create_task(client.post("/predict", json=full)) for _ in range(2)]
        await until_metrics_say(client, "lstmserve_queue_tokens 256.0")
        reply = await client.post("/predict", json={"token_ids": [[2]]})
        assert "more than 256 tokens" in refused(reply, 429).detail
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        fake.gate.set()
        assert [(await task).status_code for task in tasks] == [200, 200, 200]
    assert [2] not in fake.started


async def test_one_failing_sequence_fails_its_request_alone(client: httpx.AsyncClient) -> None:
    bodies = [{"token_ids": [[n], [POISON if n == 5 else n]]} for n in range(1, 10)]
    replies = await asyncio.gather(*(client.post("/predict", json=body) for body in bodies))
    for n, reply in enumerate(replies, start=1):
        if n == 5:
            assert "could not compute" in refused(reply, 500).detail
            assert "poisoned" not in reply.text
        else:
            assert reply.json()["logits"] == [right([n])] * 2


async def test_other_methods_and_paths(client: httpx.AsyncClient) -> None:
    reply = await client.get("/predict")
    assert "GET /predict" in refused(reply, 405).detail
    assert reply.headers["allow"] == "POST"
    assert "/docs" in refused(await client.get("/predictions"), 404).detail


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
BODIES = st.fixed_dictionaries({}, optional={"token_ids": JSON_VALUES, "lengths": JSON_VALUES, "more": JSON_VALUES})


@MANY
@given(body=JSON_VALUES | BODIES)
async def test_no_json_at_all_gives_a_server_error(client: httpx.AsyncClient, fake: Fake, body: object) -> None:
    started = len(fake.started)
    reply = await client.post("/predict", content=json.dumps(body), headers=JSON)
    if reply.status_code != 200:
        assert reply.status_code in (400, 413, 422)
        refused(reply, reply.status_code)
        assert len(fake.started) == started


@MANY
@given(content=st.binary(max_size=60), kept=st.integers(0, 40))
async def test_no_bytes_at_all_give_a_server_error(
    client: httpx.AsyncClient, fake: Fake, content: bytes, kept: int
) -> None:
    started = len(fake.started)
    reply = await client.post(
        "/predict", content=b'{"token_ids": [[5, 6]], "lengths": [2]}'[:kept] + content, headers=JSON
    )
    if reply.status_code != 200:
        refused(reply, 422 if reply.status_code == 422 else 400)
        assert len(fake.started) == started
