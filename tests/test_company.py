"""The same sequence gets the same bits over HTTP, alone and under load, on the native engine."""

import asyncio
from pathlib import Path

import httpx
import numpy as np

from tests.server import Server
from tests.tiny import write_tiny


async def under_load(url: str, rows: list[list[int]], alone: list[list[float]]) -> int:
    """Sends rows in random batches on many connections; gives the number of answers, all of which are as alone."""
    draw = np.random.default_rng(0)
    batches = [draw.integers(0, len(rows), draw.integers(1, 9)).tolist() for _ in range(400)]
    answered = 0

    async def work(client: httpx.AsyncClient) -> None:
        nonlocal answered
        while batches:
            batch = batches.pop()
            width = max(len(rows[n]) for n in batch)
            padded = [rows[n] + [0] * (width - len(rows[n])) for n in batch]
            reply = await client.post("/predict", json={"token_ids": padded})
            assert reply.json()["logits"] == [alone[n] for n in batch]
            answered += len(batch)

    async with httpx.AsyncClient(base_url=url, timeout=60) as client, asyncio.TaskGroup() as group:
        for _ in range(24):
            group.create_task(work(client))
    return answered


def test_answers_under_load_are_bit_identical_to_those_alone(tmp_path: Path) -> None:
    write_tiny(tmp_path / "imdb" / "1", hidden_size=48, num_layers=2, max_length=400, pooling=("last", "max", "mean"))
    draw = np.random.default_rng(1)
    rows = [draw.integers(1, 40, 1 + min(399, int(draw.exponential(80)))).tolist() for _ in range(60)]
    with Server(tmp_path, "--engine", "native", "--table-mb", "0") as server:
        alone = [httpx.post(f"{server.url}/predict", json={"token_ids": [row]}).json()["logits"][0] for row in rows]
        assert asyncio.run(under_load(server.url, rows, alone)) > 1000
    with Server(tmp_path, "--engine", "native", "--table-mb", "0", "--threads", "1", "--lanes", "1") as server:
        again = [httpx.post(f"{server.url}/predict", json={"token_ids": [row]}).json()["logits"][0] for row in rows]
    assert again == alone
