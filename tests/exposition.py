"""/metrics read back by Prometheus' own parser, and a service with something to tell there."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from models.tokenizer import Tokenizer
from service.app import create_app
from service.repository import Model, Repository
from service.settings import Settings
from tests.fake_engine import LIMITS, Fake
from tests.served import served
from tests.tiny import TEXTS, tiny_config, write_tiny

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

TOKENIZER = Tokenizer.train(TEXTS, 40, min_count=1)


def families(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


def samples(found: Iterable[Metric]) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value for family in found for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    """Raises KeyError where there is no such series."""
    return found[name, frozenset(labels.items())]


async def first_scrape(store: Path) -> str:
    """What a service over a real model tells before it is asked anything else."""
    write_tiny(store / "imdb" / "1")
    async with served(store) as client:
        return (await client.get("/metrics")).text


async def scrape(client: httpx.AsyncClient) -> Samples:
    reply = await client.get("/metrics")
    assert reply.status_code == 200
    return samples(families(reply.text))


def model(
    version: int = 1, name: str = "tiny", *, precision: str = "float32", digest: str = "", **fields: Any
) -> Model:
    """A version that reads texts."""
    config = tiny_config(**{"max_length": 16, **fields})
    unknown_id = TOKENIZER.unknown_id
    return Model(name, version, config, "weights", precision, TOKENIZER, unknown_id=unknown_id, digest=digest)


def reading_app(fake: Fake, repository: Repository | None = None, **settings: Any) -> FastAPI:
    """A service whose default model reads texts."""
    if repository is None:
        repository = Repository("tiny")
        repository.put(model())
    return create_app(Settings(**{**LIMITS, **settings}), repository, fake)
