"""The operator's routes: who may, what they say, and that the store is watched where that is asked for."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.engine import choose
from service.keys import Key, digest, line
from service.repository import Repository
from service.settings import Settings
from tests.fake_engine import running, until
from tests.test_reload import wrong
from tests.tiny import write_tiny

pytestmark = pytest.mark.anyio

KEY = "lsk_of-the-operator"
LOAD, UNLOAD, INDEX = (f"/v2/repository/{rest}" for rest in ("models/imdb/load", "models/imdb/unload", "index"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for version in (1, 2):
        write_tiny(tmp_path / "store" / "imdb" / str(version), seed=version)
    write_tiny(tmp_path / "store" / "topics" / "7", labels=("a", "b", "c"))
    (tmp_path / "keys").write_text(line(Key("ops", False), digest(KEY.encode())))
    return tmp_path / "store"


def service(store: Path, **changes: Any) -> Any:
    settings = Settings.model_validate(
        {"store": store, "device": "cpu", "threads": 1, "admin_keys_file": store.parent / "keys", **changes}
    )
    return create_app(settings, Repository("imdb"), choose(settings))


@pytest.fixture
async def client(store: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running(service(store)) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        yield client


def told(reply: httpx.Response, status: int) -> str:
    """The error of that protocol."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert list(reply.json()) == ["error"]
    return str(reply.json()["error"])


@pytest.mark.parametrize("path", [LOAD, UNLOAD, INDEX])
async def test_without_a_key_nobody_is_let_in(store: Path, client: httpx.AsyncClient, path: str) -> None:
    for sent in ("", "Bearer", "Bearer wrong", f"Basic {KEY}", KEY, f"Bearer {KEY}x"):
        reply = await client.post(path, headers={"Authorization": sent})
        assert "key" in told(reply, 401)
        assert reply.headers["www-authenticate"].startswith("Bearer ")
    async with running(service(store, admin_keys_file=None)) as closed:
        reply = await closed.post(path, headers={"Authorization": f"Bearer {KEY}"})
        assert "LSTMSERVE_ADMIN_KEYS_FILE" in told(reply, 403)
    assert (await client.get("/models/imdb")).json()["version"] == 2, "nothing has happened"


async def test_the_index_lists_every_version(store: Path, client: httpx.AsyncClient) -> None:
    (store / "imdb" / "3").mkdir()
    rows = (await client.post(INDEX)).json()
    assert [(row["name"], row["version"], row["state"]) for row in rows] == [
        ("imdb", "1", "UNAVAILABLE"),
        ("imdb", "2", "READY"),
        ("topics", "7", "READY"),
    ]
    rows = (await client.post(INDEX, json={"ready": True})).json()
    assert [(row["name"], row["version"]) for row in rows] == [("imdb", "2"), ("topics", "7")]
    shutil.rmtree(store / "imdb" / "2")
    assert ("imdb", "2", "READY") in [tuple(row.values())[:3] for row in (await client.post(INDEX)).json()]


async def test_load_pins_a_version_and_says_what_changes(client: httpx.AsyncClient) -> None:
    async def version() -> int:
        return int((await client.post("/predict", json={"token_ids": [[3, 4]]})).json()["version"])

    assert await version() == 2
    reply = await client.post(LOAD, json={"parameters": {"version": 1}})
    assert reply.status_code == 200
    body = reply.json()
    assert (body["model"], body["version"], body["replaced"], body["pinned"]) == ("imdb", 1, 2, True)
    assert body["comparison"]["golden"]["texts"] > 3
    assert body["comparison"]["served"] == {"sequences": 0, "flips": 0}
    assert body["seconds"] > 0
    assert await version() == 1
    body = (await client.post(LOAD, json={"parameters": {"version": "2"}})).json()
    assert (body["version"], body["pinned"]) == (2, True)
    body = (await client.post(LOAD)).json()  # no body, as some clients send none
    assert (body["version"], body["pinned"]) == (2, False)


async def test_a_version_that_cannot_serve_changes_nothing_and_is_told(store: Path, client: httpx.AsyncClient) -> None:
    wrong(store / "imdb" / "3")
    error = told(await client.post(LOAD), 400)
    assert "failed to load 'imdb', nothing has changed" in error
    assert "a golden case of" in error
    assert (await client.get("/models/imdb")).json()["version"] == 2
    assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"parameters": {"version": 0}}, "greater than or equal to 1"),
        ({"parameters": {"version": "x"}}, "#/parameters/version"),
        ({"parameters": {"version": 1.5}}, "#/parameters/version"),
        ({"parameters": {"config": "{}"}}, "is one of 1 unknown fields; known: version"),
        ({"parameters": []}, "must be an object"),
        ({"version": 1}, "is one of 1 unknown fields; known: parameters"),
        ([], "#"),
    ],
)
async def test_a_body_that_is_not_right_changes_nothing(client: httpx.AsyncClient, body: object, says: str) -> None:
    assert says in told(await client.post(LOAD, json=body), 400)
    assert (await client.get("/models/imdb")).json()["version"] == 2


async def test_unknown_names_are_404(client: httpx.AsyncClient) -> None:
    assert "no model 'nope'" in told(await client.post("/v2/repository/models/nope/load"), 404)
    assert "no model 'nope'" in told(await client.post("/v2/repository/models/nope/unload"), 404)
    assert "no version 9" in told(await client.post(LOAD, json={"parameters": {"version": 9}}), 404)
    told(await client.post("/v2/repository/models/%2e%2e/load"), 404)


async def test_without_its_default_model_the_service_is_not_ready(client: httpx.AsyncClient) -> None:
    reply = await client.post(UNLOAD, json={"parameters": {"unload_dependents": False}})
    assert reply.status_code == 200
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.get("/livez")).status_code == 200, "there is nothing that a restart would mend"
    reply = await client.post("/predict", json={"token_ids": [[3, 4]]})
    assert reply.status_code == 404
    assert "there are: topics" in reply.json()["detail"]
    assert (await client.post("/models/topics/predict", json={"token_ids": [[3, 4]]})).status_code == 200
    assert (await client.post(LOAD)).json()["replaced"] is None
    assert (await client.get("/readyz")).status_code == 200


async def test_two_loads_at_once_follow_each_other(client: httpx.AsyncClient) -> None:
    replies = await asyncio.gather(*(client.post(LOAD, json={"parameters": {"version": 1 + n % 2}}) for n in range(6)))
    bodies = [reply.json() for reply in replies]
    assert [body["version"] for body in bodies] == [1, 2] * 3
    assert [body["replaced"] for body in bodies] == [2, 1] * 3


async def test_a_watched_store_serves_what_appears(store: Path) -> None:
    async with running(service(store, watch=True)) as client:

        async def serves(version: int) -> bool:
            return bool((await client.get("/models/imdb")).json()["version"] == version)

        write_tiny(store.parent / "made" / "9", seed=9)
        # as a copy by hand would: the digests first, then file by file
        (store / "imdb" / "9").mkdir()
        for name in ("SHA256SUMS", "config.json", "golden.json", "tokenizer.json"):
            shutil.copy(store.parent / "made" / "9" / name, store / "imdb" / "9")
            await asyncio.sleep(0.4)
        assert await serves(2), "not before it is whole"
        shutil.copy(store.parent / "made" / "9" / "model.safetensors", store / "imdb" / "9")
        await until(lambda: serves(9))
        scrape = (await client.get("/metrics")).text
        assert 'outcome="failed"} 1.0' not in scrape, "half a copy is no failure"
        shutil.move(store, store.parent / "before")
        write_tiny(store / "imdb" / "10", seed=10)
        await until(lambda: serves(10))


async def test_a_store_that_is_not_watched_is_left_alone(store: Path, client: httpx.AsyncClient) -> None:
    write_tiny(store / "imdb" / "9", seed=9)
    await asyncio.sleep(1.5)
    assert (await client.get("/models/imdb")).json()["version"] == 2
