"""Liveness and readiness say the truth."""

import asyncio

import httpx
import pytest

from models.artifact import GoldenCase
from service.app import create_app
from service.engine import Pulse
from service.repository import Repository
from service.settings import Settings
from tests.fake_engine import LIMITS, Fake, fake_app, refused, repository, right, running, until

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
        app.state.health.draining = True
        assert not await ready(client)
        assert (await client.get("/livez")).status_code == 200
        reply = await client.post("/predict", json={"token_ids": [[5, 6]]})
        assert reply.json()["logits"] == [right([5, 6])]


async def test_neither_ready_nor_live_when_the_engine_has_failed(fake: Fake) -> None:
    app = fake_app(fake)
    async with running(app) as client:
        fake.collect_fails = RuntimeError("device lost")
        for _ in range(2):
            refused(await client.post("/predict", json={"token_ids": [[1]]}), 503)
        assert not await ready(client)
        assert "start the process again" in refused(await client.get("/livez"), 503).detail
        assert app.state.batcher.broken.is_set()


async def test_neither_ready_nor_live_when_a_thread_is_stuck(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    app = fake_app(fake, stuck_seconds=1)
    async with running(app) as client:
        fake.gate.clear()
        fake.pulses = [Pulse(7, busy=True)]
        reply = refused(await client.post("/predict", json={"token_ids": [[1]]}), 503)
        assert "send the request elsewhere" in reply.detail
        assert not await ready(client)
        assert (await client.get("/livez")).status_code == 503
        assert app.state.batcher.broken.is_set()
    assert ["LSTMSERVE_STUCK_SECONDS" in vars(r)["reason"] for r in caplog.records if r.levelname == "CRITICAL"] == [
        True
    ]


async def test_not_ready_without_the_default_model(fake: Fake) -> None:
    repository = models()
    app = create_app(Settings(**LIMITS), repository, fake)
    async with running(app) as client:
        repository.remove("tiny")
        assert "'tiny' is not loaded" in refused(await client.get("/readyz"), 503).detail
        assert (await client.get("/livez")).status_code == 200
        assert (await client.post("/models/odd/predict", json={"token_ids": [[1]]})).status_code == 200


async def test_ready_again_after_a_failure_when_the_default_model_is_right(
    fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(create_app(Settings(**LIMITS), models([5, 6]), fake)) as client:
        fake.gate.clear()
        fake.failures += 1
        assert not await ready(client)
        asked = asyncio.create_task(client.post("/predict", json={"token_ids": [[1]]}))

        async def tried() -> bool:
            return [5, 6] in fake.started

        await until(tried)
        assert "failed" in refused(await client.get("/readyz"), 503).detail
        assert (await client.get("/livez")).status_code == 200
        assert "lstmserve_engine_failures_total 1.0" in (await client.get("/metrics")).text
        fake.gate.set()
        assert (await asked).status_code == 200, "it answers meanwhile"
        await until(lambda: ready(client))
        assert failures_logged(caplog) == [1]


async def test_each_failure_is_logged_once_while_there_is_no_default_model_to_try(
    fake: Fake, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.health.RECOVERY_SECONDS", 0.0)  # a look in each turn of the event loop
    repository = models()
    async with running(create_app(Settings(**LIMITS), repository, fake)) as client:
        model = repository.get()
        repository.remove("tiny")
        for _ in range(2):
            fake.failures += 1
            for _ in range(50):
                await asyncio.sleep(0)
        assert failures_logged(caplog) == [1, 2]
        repository.put(model)
        await until(lambda: ready(client))
        assert failures_logged(caplog) == [1, 2]


def failures_logged(caplog: pytest.LogCaptureFixture) -> list[int]:
    """The number of failures in each line that tells of one."""
    message = "an engine thread has failed and was replaced"
    return [vars(record)["failures"] for record in caplog.records if record.getMessage() == message]


async def test_broken_when_the_default_model_is_wrong_after_a_failure(fake: Fake) -> None:
    app = create_app(Settings(**LIMITS), models([5, 6], logits=[0.0, 0.0]), fake)
    async with running(app) as client:
        fake.failures += 1
        await asyncio.wait_for(app.state.batcher.broken.wait(), 10)
        assert not await ready(client)
        assert (await client.get("/livez")).status_code == 503


def models(*golden: list[int], logits: list[float] | None = None) -> Repository:
    """Two models; `golden`: the cases of the default one, with the logits that are right, or with these."""
    found = repository()
    cases = tuple(GoldenCase(token_ids=token_ids, logits=logits or right(token_ids)) for token_ids in golden)
    found.put(found.get()._replace(golden=cases))
    return found
