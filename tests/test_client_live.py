"""The client with a real service, and the examples of its page."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.client import AsyncClient, Client, Error, Label, TextError, pad
from service.keys import Key, digest, line
from tests.server import Server
from tests.tiny import write_tiny

ROOT = Path(__file__).parent.parent
TOKEN_IDS = [[6, 753, 4, 175, 23, 3], [763, 4, 5, 247, 106, 208, 3]]
EXAMPLES = re.findall(r"```python\n(.*?)```\n(?:\n```\n(.*?)```\n)?", (ROOT / "docs/client.md").read_text(), re.DOTALL)


KEY = "lsk_of-the-operator"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    file = tmp_path_factory.mktemp("keys") / "admins"
    file.write_text(line(Key("ops", False), digest(KEY.encode())))
    with Server(ROOT / "models/store", "--precision", "float32", LSTMSERVE_ADMIN_KEYS_FILE=str(file)) as server:
        yield server.url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


def test_predict(url: str, client: Client) -> None:
    token_ids, lengths = pad(TOKEN_IDS)
    expected = httpx.post(f"{url}/predict", json={"token_ids": token_ids, "lengths": lengths}).json()
    answer = client.predict(TOKEN_IDS)
    assert vars(answer) == expected
    assert client.predict(token_ids, lengths) == client.predict(token_ids) == answer
    with Client(url, model="imdb") as named:
        assert named.predict(TOKEN_IDS) == answer


def test_predict_by_many_at_once(url: str, client: Client) -> None:
    async def ask() -> None:
        async with AsyncClient(url) as chosen:
            answers = await asyncio.gather(*(chosen.predict([row]) for row in TOKEN_IDS * 20))
        assert [answer.logits[0] for answer in answers] == client.predict(TOKEN_IDS).logits * 20

    asyncio.run(ask())


def test_ready(client: Client) -> None:
    assert client.ready() is True


def test_field_errors(client: Client) -> None:
    with pytest.raises(Error) as caught:
        client.predict([[1, 2], [10**6]])
    assert caught.value.status == 422
    assert [error.pointer for error in caught.value.errors] == ["#/token_ids/1/0"]
    assert "vocabulary" in caught.value.detail
    assert caught.value.request_id


def test_an_unknown_model(url: str) -> None:
    with Client(url, model="none") as chosen, pytest.raises(Error) as caught:
        chosen.predict([[1]])
    assert caught.value.status == 404


def test_a_timeout_over_the_limit_of_the_service(url: str) -> None:
    with Client(url, timeout=3600) as chosen, pytest.raises(Error) as caught:
        chosen.predict([[1]])
    assert [error.pointer for error in caught.value.errors] == ["X-Request-Timeout-Ms"]


def test_models(client: Client) -> None:
    (model,) = client.models()
    assert client.model("imdb") == model
    assert (model.name, model.version, model.versions, model.default) == ("imdb", 1, [1], True)
    assert (model.labels, model.pad_id, model.tokenizer) == (["negative", "positive"], 0, True)


def test_classify(client: Client) -> None:
    texts = ["A moving, funny film.", "", "Dull, and far too long."]
    answer = client.classify(texts, explain=True)
    good, empty, bad = answer.results
    assert isinstance(good, Label)
    assert isinstance(bad, Label)
    assert isinstance(empty, TextError)
    assert (good.label, bad.label, empty.code) == ("positive", "negative", "empty")
    assert good.logits == pytest.approx(client.predict(TOKEN_IDS[:1]).logits[0], abs=1e-4)
    assert sum(good.scores.values()) == pytest.approx(1)
    assert (good.tokens, good.dropped_tokens) == (6, 0)
    assert good.contributions is not None
    assert [texts[0][entry.start : entry.end] for entry in good.contributions][:2] == ["A", "moving"]


def test_classify_truncates(client: Client) -> None:
    long = "good " * 10_000
    (refused,) = client.classify([long]).results
    assert isinstance(refused, TextError)
    assert refused.code == "too_long"
    (kept,) = client.classify([long], truncate="head").results
    assert isinstance(kept, Label)
    assert kept.kept_tokens == client.model("imdb").max_tokens
    assert kept.tokens == kept.kept_tokens + kept.dropped_tokens


def test_unload_and_load(url: str, client: Client) -> None:
    with Client(url, api_key=KEY, timeout=3600) as admin:
        for version in (None, 1):
            admin.unload("imdb")
            with pytest.raises(Error, match="404: "):
                client.predict([[1]])
            load = admin.load("imdb", version)
            assert (load.model, load.version, load.precision) == ("imdb", 1, "float32")
            assert (load.pinned, load.replaced, load.comparison) == (version is not None, None, None)
            assert client.predict([[1]]).version == 1
        with pytest.raises(Error, match="404: "):
            admin.load("imdb", 9)
    with Client(url, api_key="wrong") as stranger, pytest.raises(Error, match="401: "):
        stranger.unload("imdb")


def test_a_service_with_keys_and_a_rate(tmp_path: Path) -> None:
    write_tiny(tmp_path / "imdb/1")
    (tmp_path / "keys").write_text(line(Key("web", False), digest(b"lsk_web")))
    keys = {"LSTMSERVE_API_KEYS_FILE": str(tmp_path / "keys"), "LSTMSERVE_RATE_LIMIT": "2"}
    with Server(tmp_path, **keys) as server:
        with Client(server.url) as stranger:
            assert stranger.ready()
            with pytest.raises(Error, match="401: send an API key as Authorization: Bearer KEY"):
                stranger.predict([[5]])
        with Client(server.url, api_key="lsk_web") as client:
            answers = [client.predict([[5]]) for _ in range(4)]  # two are refused, and asked again when told
        assert len(answers) == 4
    assert sum(record["message"] == "request" and record["status"] == 429 for record in server.log) >= 1
    assert {record["key"] for record in server.log if record["message"] == "request"} == {None, "web"}


@pytest.mark.parametrize(("example", "shown"), EXAMPLES, ids=lambda text: text.splitlines()[-1][:40] if text else "")
def test_the_examples_of_the_page(url: str, example: str, shown: str) -> None:
    script = example.replace("http://127.0.0.1:8000", url)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == shown


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4
