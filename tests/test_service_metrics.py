"""What /metrics says, read back by Prometheus' own parser."""

import asyncio
import re
from pathlib import Path

import pytest
from fastapi import FastAPI

from service.errors import ServiceError
from service.metrics import Metrics
from tests.exposition import families, first_scrape, reading_app, samples, scrape, value
from tests.fake_engine import Fake, fake_app, refused, running, until

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[1] / "docs/metrics.md").read_text()

UNITS = {"seconds", "bytes"}
NO_UNITS = {"ms", "milliseconds", "minutes", "kb", "mb", "kilobytes", "megabytes", "percent"}


async def test_every_series_is_there_from_the_first_scrape(fake: Fake) -> None:
    app = fake_app(fake)
    async with running(app) as client:
        before = await scrape(client)
        for method, route, status in documented(app):
            assert value(before, "lstmserve_requests_total", method=method, route=route, status=status) == 0
            assert value(before, "lstmserve_request_seconds_count", route=route) == 0
        for kind in ServiceError.__subclasses__():
            assert value(before, "lstmserve_refusals_total", reason=kind.__name__) == 0
        await client.post("/predict", json={"token_ids": [[1, 2, 3]]})
        await client.post("/predict", json={"token_ids": [[39]]})
        await client.post("/predict", json={"token_ids": "none"})
        await client.post("/models/none/predict", json={"token_ids": [[1]]})
        assert (await scrape(client)).keys() == before.keys()
    assert value(before, "lstmserve_ready") == 1
    assert value(before, "process_resident_memory_bytes") > 0
    for model, version in ("tiny", "1"), ("odd", "7"), ("small", "1"):
        assert value(before, "lstmserve_model", model=model, version=version, precision="float32") == 1
        assert value(before, "lstmserve_labels_total", model=model, version=version, label="positive") == 0
        assert value(before, "lstmserve_confidence_count", model=model, version=version) == 0


def documented(app: FastAPI) -> list[tuple[str, str, str]]:
    """Method, route and status of all that may come back."""
    return [
        (method.upper(), path, status)
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
        for status in operation["responses"]
    ]


async def test_names_follow_prometheus_rules(tmp_path: Path) -> None:
    text = await first_scrape(tmp_path)
    found = families(text)
    assert len({family.name for family in found}) == len(found)
    helped = set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE))
    for family in found:
        name = family.name + "_total" * (family.type == "counter")
        assert name in helped
        assert family.samples, name
        assert family.type in {"counter", "gauge", "histogram"}, name
        assert re.fullmatch("[a-z][a-z0-9_]*[a-z0-9]", family.name)
        words = set(family.name.split("_"))
        assert not words & NO_UNITS, name
        assert not words & UNITS or family.name.split("_")[-1] in UNITS, f"{name}: the unit comes last"
        assert "total" not in words, name
        for sample in family.samples:
            assert not sample.name.endswith("_created")
            for label in sample.labels:
                assert re.fullmatch("[a-z]+", label)
                assert label not in {"job", "instance"}, "Prometheus sets these"
    assert {name for name in helped if not name.startswith(("lstmserve_", "process_", "python_gc_"))} == set()


async def test_whoever_asks_gets_the_same_format(fake: Fake) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    async with running(reading_app(fake)) as client:
        for headers in {}, {"Accept": accept}:
            reply = await client.get("/metrics", headers=headers)
            assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


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
    assert value(found, "lstmserve_refusals_total", reason="EngineFailed") == 1
    assert value(found, "lstmserve_refusals_total", reason="InvalidContent") == 1
    assert value(found, "lstmserve_refusals_total", reason="Overloaded") == 0


async def test_explanations_are_counted_apart(fake: Fake) -> None:
    async with running(reading_app(fake)) as client:
        reply = await client.post("/classify", json={"texts": ["good film", "not bad at all"], "explain": True})
        lengths = [item["kept_tokens"] for item in reply.json()["results"]]
        found = await scrape(client)
    assert value(found, "lstmserve_sequences_total") == 2
    assert value(found, "lstmserve_tokens_total") == sum(lengths)
    assert value(found, "lstmserve_queue_seconds_count") == 1
    assert value(found, "lstmserve_explanation_sequences_total") == sum(lengths)
    assert value(found, "lstmserve_explanation_tokens_total") == sum(n * (n - 1) for n in lengths)
    assert sum(count for (name, _), count in found.items() if name == "lstmserve_labels_total") == 2


async def test_live_lanes_per_step(fake: Fake) -> None:
    async with running(fake_app(fake)) as client:
        await client.post("/predict", json={"token_ids": [[1], [2], [3]]})
        await client.post("/predict", json={"token_ids": [[1]]})
        found = await scrape(client)
    assert value(found, "lstmserve_steps_total") == 2
    assert value(found, "lstmserve_lane_steps_total") == 4


async def test_the_queue_is_watched(fake: Fake) -> None:
    async with running(fake_app(fake, lanes=1)) as client:
        assert value(await scrape(client), "lstmserve_queue_oldest_seconds") == 0
        fake.gate.clear()
        body = {"token_ids": [[1, 2], [3, 4]]}
        asking = asyncio.create_task(client.post("/predict", json=body))
        assert await asyncio.to_thread(fake.stepping.acquire, timeout=10)
        found = await scrape(client)
        assert value(found, "lstmserve_queue_sequences") == 1
        assert value(found, "lstmserve_queue_tokens") == 2
        assert value(found, "lstmserve_requests_in_flight") == 2
        oldest = value(found, "lstmserve_queue_oldest_seconds")
        assert 0 < oldest < value(await scrape(client), "lstmserve_queue_oldest_seconds")
        fake.gate.set()
        await asking
        found = await scrape(client)
        for name in ("sequences", "tokens", "oldest_seconds"):
            assert value(found, f"lstmserve_queue_{name}") == 0


async def test_overload_is_a_reason(fake: Fake) -> None:
    async with running(fake_app(fake, lanes=1)) as client:
        fake.gate.clear()
        body = {"token_ids": [[1] * 16] * 8}
        asking = [asyncio.create_task(client.post("/predict", json=body)) for _ in range(2)]

        async def waiting() -> bool:
            return value(await scrape(client), "lstmserve_queue_sequences") == 15

        await until(waiting)
        refused(await client.post("/predict", json=body), 429)
        found = await scrape(client)
        assert value(found, "lstmserve_refusals_total", reason="Overloaded") == 1
        fake.gate.set()
        await asyncio.gather(*asking)


def test_loads_are_counted() -> None:
    metrics = Metrics()
    metrics.load_failed("imdb")
    metrics.loaded("imdb", 0.2)
    metrics.loaded("imdb", 2.0)
    found = samples(families(metrics.expose().decode()))
    assert value(found, "lstmserve_model_loads_total", model="imdb", outcome="loaded") == 2
    assert value(found, "lstmserve_model_loads_total", model="imdb", outcome="failed") == 1
    assert value(found, "lstmserve_model_load_seconds_count") == 2
    assert value(found, "lstmserve_model_load_seconds_bucket", le="0.25") == 1


def test_two_services_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.answered(0.1, 0.2, [3, 4])
    for metrics, tokens in (one, 7), (other, 0):
        assert value(samples(families(metrics.expose().decode())), "lstmserve_tokens_total") == tokens


async def test_the_page_lists_every_metric(tmp_path: Path) -> None:
    found = families(await first_scrape(tmp_path))
    rows = [
        tuple(row.split(" | ")) for row in re.findall(r"^\| (`(?:lstmserve|process|python)_.*) \|$", PAGE, re.MULTILINE)
    ]
    wanted = []
    for family in found:
        name = family.name + "_total" * (family.type == "counter")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        wanted.append((f"`{name}`", family.type, labels, family.documentation))
    told = [(name, kind, set(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, meaning in rows]
    ours = [row for row in wanted if row[0].startswith("`lstmserve_")]
    assert [row for row in told if row[0].startswith("`lstmserve_")] == ours
    others = {row[:2] for row in wanted} - {row[:2] for row in ours}
    assert {row[:2] for row in told} - {row[:2] for row in ours} == others
