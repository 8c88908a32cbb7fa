"""GET /models: what serves, and the model cards."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from service.schemas.models import ModelReply
from tests.fake_engine import Fake, fake_app, refused, running
from tests.served import served
from tests.tiny import write_tiny

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n"
CARD = """# A card é

<script>alert(1)</script> and <b>bold</b> and [bad](javascript:alert(1)) and [good](https://example.org/)

![curves](curves.png)

| a | b |
| --- | --- |
| 1 | <i>2</i> |
"""


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """`imdb` in versions 1 and 4, with a card; `plain` without a tokenizer or a card."""
    write_tiny(tmp_path / "imdb" / "1", max_length=30)
    version = tmp_path / "imdb" / "4"
    write_tiny(version, max_length=30)
    (tmp_path / "imdb" / "5.training").mkdir()
    (version / "README.md").write_text(CARD, encoding="utf-8")
    (version / "curves.png").write_bytes(PNG)
    (version / "folder.png").mkdir()
    (tmp_path / "imdb" / "secret.png").write_bytes(b"secret")
    write_tiny(tmp_path / "plain" / "2", with_tokenizer=False, labels=("no", "yes"), output="binary", pad_id=3)
    async with served(tmp_path, max_tokens=50) as client:
        yield client


async def test_every_model(client: httpx.AsyncClient) -> None:
    reply = await client.get("/models")
    assert reply.status_code == 200
    imdb, plain = reply.json()
    assert imdb == {
        "name": "imdb",
        "version": 4,
        "versions": [4, 1],
        "default": True,
        "labels": ["negative", "positive"],
        "output": "softmax",
        "precision": "float32",
        "max_tokens": 30,
        "vocab_size": 40,
        "pad_id": 0,
        "tokenizer": True,
        "card": "/models/imdb/card",
    }
    assert plain == {
        **imdb,
        "name": "plain",
        "version": 2,
        "versions": [2],
        "default": False,
        "labels": ["no", "yes"],
        "output": "binary",
        "max_tokens": 50,
        "pad_id": 3,
        "tokenizer": False,
        "card": None,
    }
    for described in (imdb, plain):
        ModelReply.model_validate(described, strict=True)
        assert (await client.get(f"/models/{described['name']}")).json() == described


@pytest.mark.parametrize("path", ["/models/nope", "/models/nope/card", "/models/nope/card/curves.png", "/models/.."])
async def test_an_unknown_model(client: httpx.AsyncClient, path: str) -> None:
    refused(await client.get(path.replace("..", "%2e%2e")), 404)


async def test_models_that_are_not_on_disk(fake: Fake) -> None:
    async with running(fake_app(fake)) as client:
        tiny, *_ = (await client.get("/models")).json()
        assert (tiny["name"], tiny["versions"], tiny["card"]) == ("tiny", [], None)
        assert "has no model card" in refused(await client.get("/models/tiny/card"), 404).detail
        refused(await client.get("/models/tiny/card/curves.png"), 404)


async def test_the_card_is_a_page_without_its_html(client: httpx.AsyncClient) -> None:
    reply = await client.get("/models/imdb/card")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1>A card \u00e9</h1>" in reply.text
    assert "imdb, version 4" in reply.text.partition("<title>")[2].partition("</title>")[0]
    assert "<script" not in reply.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; and &lt;b&gt;" in reply.text
    assert 'href="javascript' not in reply.text
    assert 'href="https://example.org/"' in reply.text
    assert "<td>&lt;i&gt;2&lt;/i&gt;</td>" in reply.text


async def test_its_pictures_are_where_it_points(client: httpx.AsyncClient) -> None:
    page = httpx.URL("http://test/models/imdb/card")
    text = (await client.get(page)).text
    base, source = (text.partition(f'<{mark}="')[2].partition('"')[0] for mark in ("base href", "img src"))
    reply = await client.get(page.join(base).join(source))
    assert (reply.status_code, reply.content) == (200, PNG)
    assert reply.headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    "picture",
    [
        "confusion.png",  # not there
        "folder.png",
        "config.json",
        "model.safetensors",
        "README.md",
        "curves.PNG.md",
        ".png",
        "%2e%2e",
        "..%2fsecret.png",
        "..%2f..%2fimdb%2fsecret.png",
        "%2e%2e%2fsecret.png",
        "..%5csecret.png",
        "%2fetc%2fhostname",
        "curves.png%00",
        "curves.png%00.png",
        "curves.png/",
    ],
)
async def test_nothing_but_its_pictures_is_given(client: httpx.AsyncClient, picture: str) -> None:
    reply = await client.get(f"/models/imdb/card/{picture}")
    refused(reply, 404)
    assert b"secret" not in reply.content.replace(b"secret.png", b"")


async def test_a_link_out_of_the_version_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "store" / "imdb" / "1"
    write_tiny(folder)
    for name, text in (("README.md", "secret"), ("x.png", "secret")):
        (tmp_path / name).write_text(text)
        (folder / name).symlink_to(tmp_path / name)
    async with served(tmp_path / "store") as client:
        for path in ("card", "card/x.png"):
            refused(await client.get(f"/models/imdb/{path}"), 404)
        assert (await client.get("/models/imdb")).json()["card"] is None


async def test_a_version_without_a_card(client: httpx.AsyncClient) -> None:
    problem = refused(await client.get("/models/plain/card"), 404)
    assert problem.detail == "version 2 of 'plain' has no model card (README.md)"
