"""What /metrics says, read back by Prometheus' own parser."""

import asyncio

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Metrics
from tests.fake_engine import Fake, fake_app, running

pytestmark = pytest.mark.anyio

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


async def scrape(client: httpx.AsyncClient) -> Samples:
    reply = await client.get("/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return read(reply.text)


async def test_every_series_is_there_from_the_first_scrape(fake: Fake) -> None:
    async with running(fake_app(fake)) as client:
        found = await scrape(client)
    for method, route in [
        ("POST", "/predict"),
        ("POST", "/models/{name}/predict"),
        ("GET", "/livez"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
    ]:
        assert value(found, "lstmserve_requests_total", method=method, route=route, status="200") == 0
        assert value(found, "lstmserve_request_seconds_count", route=route) == 0
    assert value(found, "lstmserve_model", model="tiny", version="1", precision="float32") == 1
    assert value(found, "lstmserve_model", model="odd", version="7", precision="float32") == 1
    assert value(found, "lstmserve_ready") == 1
    for name in ("sequences_total", "tokens_total", "queue_sequences", "queue_tokens", "queue_seconds_count"):
        assert value(found, f"lstmserve_{name}") == 0
    assert value(found, "process_resident_memory_bytes") > 0


async def test_answers_are_counted(fake: Fake) -> None:
    async with running(fake_app(fake)) as client:
        for _ in range(2):
            await client.post("/predict", json={"token_ids": [[1, 2, 3], [4, 0, 0]]})
        await client.post("/predict", json={"token_ids": [[39]]})
        await client.post("/models/odd/predict", json={"token_ids": [[]]})
        found = await scrape(client)
    assert value(found, "lstmserve_sequences_total") == 4
    assert value(found, "lstmserve_tokens_total") == 8
    assert value(found, "lstmserve_queue_seconds_count") == value(found, "lstmserve_compute_seconds_count") == 2
    assert value(found, "lstmserve_requests_total", method="POST", route="/predict", status="200") == 2
    assert value(found, "lstmserve_requests_total", method="POST", route="/predict", status="500") == 1
    route = "/models/{name}/predict"
    assert value(found, "lstmserve_requests_total", method="POST", route=route, status="422") == 1


async def test_the_queue_is_watched(fake: Fake) -> None:
    async with running(fake_app(fake, lanes=1)) as client:
        fake.gate.clear()
        body = {"token_ids": [[1, 2], [3, 4]]}
        asking = asyncio.create_task(client.post("/predict", json=body))
        assert await asyncio.to_thread(fake.stepping.acquire, timeout=10)
        found = await scrape(client)
        assert value(found, "lstmserve_queue_sequences") == 1
        assert value(found, "lstmserve_queue_tokens") == 2
        assert value(found, "lstmserve_requests_in_flight") == 2
        fake.gate.set()
        await asking
        found = await scrape(client)
        assert value(found, "lstmserve_queue_sequences") == value(found, "lstmserve_queue_tokens") == 0


def test_two_services_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.answered(0.1, 0.2, [3, 4])
    assert value(read(one.expose().decode()), "lstmserve_tokens_total") == 7
    assert value(read(other.expose().decode()), "lstmserve_tokens_total") == 0
