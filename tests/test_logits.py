"""POST /predict over artifacts on disk and each real engine: the numbers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.network import SequenceClassifier
from service.app import create_app
from service.engine import choose
from service.repository import Repository
from service.settings import Settings
from tests.fake_engine import running
from tests.tiny import write_tiny

pytestmark = pytest.mark.anyio


class Real:
    """Artifacts on disk and an engine, and the networks that it must agree with."""

    def __init__(self, store: Path, engine: str) -> None:
        artifacts = {
            "imdb": write_tiny(store / "imdb" / "1"),
            "topics": write_tiny(
                store / "topics" / "3",
                seed=1,
                cell="gru",
                num_layers=2,
                pooling=("max", "mean"),
                labels=("a", "b", "c"),
                pad_id=7,
            ),
        }
        self.networks = {
            name: SequenceClassifier.from_weights(artifact.config, artifact.weights)
            for name, artifact in artifacts.items()
        }
        self.settings = Settings.model_validate(
            {"store": store, "engine": engine, "device": "cpu", "precision": "float32", "threads": 2}
        )

    def app(self) -> FastAPI:
        return create_app(self.settings, Repository("imdb"), choose(self.settings))


@pytest.fixture(scope="module", params=["native", "packed"])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Real:
    if request.param == "native":
        pytest.importorskip("service.engine._core", reason="the native engine is not built")
    return Real(tmp_path_factory.mktemp("store"), request.param)


@pytest.fixture
async def real_client(real: Real) -> AsyncIterator[httpx.AsyncClient]:
    async with running(real.app()) as client:
        yield client


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["imdb", "topics"]),
    sequences=st.lists(st.lists(st.integers(8, 39), min_size=1, max_size=64), min_size=1, max_size=6),
    more=st.sampled_from([0, 0, 1, 100]),
    with_lengths=st.booleans(),
)
async def test_logits_are_those_of_each_sequence_alone(
    real: Real, real_client: httpx.AsyncClient, name: str, sequences: list[list[int]], more: int, with_lengths: bool
) -> None:
    network = real.networks[name]
    width = max(map(len, sequences)) + more
    body: dict[str, Any] = {"token_ids": [row + [network.config.pad_id] * (width - len(row)) for row in sequences]}
    if with_lengths:
        body["lengths"] = [len(row) for row in sequences]
    reply = await real_client.post(f"/models/{name}/predict", json=body)
    assert reply.status_code == 200
    assert reply.json()["labels"] == list(network.config.labels)
    alone = np.concatenate([network.predict([row]) for row in sequences])
    np.testing.assert_allclose(reply.json()["logits"], alone, rtol=0, atol=1e-5)


async def test_pads_inside_are_tokens_where_lengths_say_so(real: Real, real_client: httpx.AsyncClient) -> None:
    body = {"token_ids": [[9, 0, 0, 0], [0, 0, 9, 0]], "lengths": [3, 4]}
    logits = (await real_client.post("/predict", json=body)).json()["logits"]
    alone = np.concatenate([real.networks["imdb"].predict([row]) for row in ([9, 0, 0], [0, 0, 9, 0])])
    np.testing.assert_allclose(logits, alone, rtol=0, atol=1e-5)


async def test_many_callers_at_once_each_get_their_own(real: Real, real_client: httpx.AsyncClient) -> None:
    draw = np.random.default_rng(0)
    requests = [
        (name, [draw.integers(8, 40, draw.integers(1, 50)).tolist()])
        for name in draw.choice(["imdb", "topics"], 100).tolist()
    ]
    replies = await asyncio.gather(
        *(real_client.post(f"/models/{name}/predict", json={"token_ids": rows}) for name, rows in requests)
    )
    for (name, rows), reply in zip(requests, replies, strict=True):
        np.testing.assert_allclose(reply.json()["logits"], real.networks[name].predict(rows), rtol=0, atol=1e-5)
