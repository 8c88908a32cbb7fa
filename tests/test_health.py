"""Liveness and readiness say the truth."""

import httpx
import pytest

from tests.fake_engine import Fake, fake_app, right, running

pytestmark = pytest.mark.anyio


async def ready(client: httpx.AsyncClient) -> bool:
    reply = await client.get("/readyz")
    gauge = (await client.get("/metrics")).text
    assert f"lstmserve_ready {float(reply.status_code == 200)}" in gauge
    if reply.status_code == 200:
        assert reply.json() == {"status": "ready"}
        return True
    assert reply.status_code == 503
    assert reply.headers["content-type"] == "application/problem+json"
    return False


async def test_ready_while_the_engine_threads_run(fake: Fake) -> None:
    app = fake_app(fake)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert not await ready(client), "before the start"
        async with app.router.lifespan_context(app):
            assert await ready(client)
            assert (await client.get("/livez")).json() == {"status": "ok"}
            for path in ("/livez", "/readyz"):
                assert (await client.head(path)).status_code == 200
        assert not await ready(client), "after the end"


async def test_draining_is_not_ready_but_answers(fake: Fake) -> None:
    app = fake_app(fake)
    async with running(app) as client:
        app.state.draining = True
        assert not await ready(client)
        assert (await client.get("/livez")).status_code == 200
        reply = await client.post("/predict", json={"token_ids": [[5, 6]]})
        assert reply.json()["logits"] == [right([5, 6])]


async def test_neither_ready_nor_live_when_an_engine_thread_has_ended(fake: Fake) -> None:
    async with running(fake_app(fake)) as client:
        fake.healthy = False
        assert not await ready(client)
        assert (await client.post("/predict", json={"token_ids": [[1]]})).status_code == 503
        assert (await client.get("/livez")).status_code == 503


async def test_neither_ready_nor_live_when_the_engine_has_failed(fake: Fake) -> None:
    async with running(fake_app(fake)) as client:
        fake.collect_fails = RuntimeError("device lost")
        assert (await client.post("/predict", json={"token_ids": [[1]]})).status_code == 500
        assert not await ready(client)
        assert (await client.post("/predict", json={"token_ids": [[1]]})).status_code == 503
        assert (await client.get("/livez")).status_code == 503
