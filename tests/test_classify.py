"""POST /classify: each text has an ending of its own, and neighbours change nothing."""

import asyncio
import json
import math
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.tokenizer import Tokenizer
from service.app import create_app
from service.repository import Model, Repository
from service.schemas.classify import ClassifyReply
from service.settings import Settings
from tests.fake_engine import LIMITS, Fake, refused, right, running
from tests.served import served
from tests.tiny import TEXTS, tiny_config, write_tiny

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}
MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TOKENIZER = Tokenizer.train(TEXTS, 30, min_count=1)


def text_app(fake: Fake, **chosen: Any) -> FastAPI:
    """`tiny` reads texts of up to 16 tokens, `plain` has no tokenizer."""
    options = Settings(**{**LIMITS, "model": "tiny", **chosen})
    repository = Repository("tiny")
    config = tiny_config(max_length=16, temperature=2.0)
    repository.put(Model("tiny", 3, config, "weights", "float32", TOKENIZER, unknown_id=1))
    repository.put(Model("plain", 1, config, "weights", "float32"))
    return create_app(options, repository, fake)


@pytest.fixture
async def client(fake: Fake) -> AsyncIterator[httpx.AsyncClient]:
    async with running(text_app(fake)) as client:
        yield client


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small model of every output rule."""
    folder = tmp_path_factory.mktemp("store")
    write_tiny(folder / "imdb" / "1", labels=("a", "b", "c"), max_length=20)
    write_tiny(folder / "sigmoid" / "1", labels=("a", "b", "c"), output="sigmoid", temperature=1.5)
    write_tiny(folder / "binary" / "2", labels=("no", "yes"), output="binary", temperature=0.5)
    yield folder
    shutil.rmtree(folder)


async def results(client: httpx.AsyncClient, *texts: str, path: str = "/classify", **fields: Any) -> list[Any]:
    reply = await client.post(path, json={"texts": texts, **fields})
    assert reply.status_code == 200, reply.text
    ClassifyReply.model_validate_json(reply.content, strict=True)
    return list(reply.json()["results"])


async def test_the_reply(client: httpx.AsyncClient, fake: Fake) -> None:
    (ids,) = TOKENIZER.encode(["good unheard film"])
    reply = await client.post("/classify", json={"texts": ["Good UNHEARD film"]})
    total, length = right(ids)
    negative = 1 / (1 + math.exp((length - total) / 2.0))
    assert reply.json() == {
        "model": "tiny",
        "version": 3,
        "results": [
            {
                "label": "negative",
                "scores": {"negative": pytest.approx(negative), "positive": pytest.approx(1 - negative)},
                "logits": [total, length],
                "tokens": 3,
                "unknown_tokens": 1,
                "kept_tokens": 3,
                "dropped_tokens": 0,
            }
        ],
    }
    assert reply.headers["content-type"] == "application/json"
    timing = dict(part.split(";dur=") for part in reply.headers["server-timing"].split(", "))
    assert timing.keys() == {"queue", "compute"}
    assert all(float(value) >= 0 for value in timing.values())
    assert fake.started == [ids]


async def test_errors_stand_in_their_places(client: httpx.AsyncClient, fake: Fake) -> None:
    long = "good " * 17
    found = await results(client, "", "good", long, "zyx", "bad film", " \n")
    assert [item.get("error", {}).get("code") for item in found] == [
        "empty",
        None,
        "too_long",
        "unknown_only",
        None,
        "empty",
    ]
    good, bad = TOKENIZER.encode(["good", "bad film"])
    assert [item["logits"] for item in found if "logits" in item] == [right(good), right(bad)]
    assert fake.started == [good, bad], "the others are not computed"
    assert "has 17 tokens, at most 16" in found[2]["error"]["detail"]


async def test_texts_that_all_fail_compute_nothing(client: httpx.AsyncClient, fake: Fake) -> None:
    found = await results(client, "", "zyx")
    assert [item["error"]["code"] for item in found] == ["empty", "unknown_only"]
    assert fake.started == []


async def test_the_part_of_a_long_text(client: httpx.AsyncClient, fake: Fake) -> None:
    words = ["good"] * 10 + ["film"] * 5 + ["zyx"] + ["bad"] * 4
    (ids,) = TOKENIZER.encode([" ".join(words)])
    head, short = await results(client, " ".join(words), "bad", truncate="head")
    (tail,) = await results(client, " ".join(words), truncate="tail")
    assert fake.started == [ids[:16], ids[-4:-3], ids[-16:]]
    for item in (head, tail):
        assert (item["tokens"], item["kept_tokens"], item["dropped_tokens"]) == (20, 16, 4)
        assert item["unknown_tokens"] == 1
    assert (short["tokens"], short["dropped_tokens"]) == (1, 0)
    (absent,) = await results(client, " ".join(words), truncate=None)
    assert absent["error"]["code"] == "too_long"


async def test_the_service_has_a_limit_of_tokens_too(fake: Fake) -> None:
    async with running(text_app(fake, max_tokens=3)) as client:
        long, short = await results(client, "good good good good", "good good good")
    assert "at most 3 are read (LSTMSERVE_MAX_TOKENS" in long["error"]["detail"]
    assert short["tokens"] == 3


async def test_a_model_without_a_tokenizer(client: httpx.AsyncClient, fake: Fake) -> None:
    problem = refused(await client.post("/models/plain/classify", json={"texts": ["good"]}), 422)
    assert problem.detail == "model 'plain' has no tokenizer: send token ids to /models/plain/predict"


async def test_a_named_and_an_unknown_model(client: httpx.AsyncClient) -> None:
    assert len(await results(client, "good", path="/models/tiny/classify")) == 1
    problem = refused(await client.post("/models/nope/classify", json={"texts": ["good"]}), 404)
    assert problem.detail == "no model 'nope'; there are: tiny, plain"


REFUSED: dict[str, tuple[object, str, str]] = {
    "not an object": (["good"], "#", "object"),
    "no texts": ({}, "#/texts", "is missing; the fields are texts, truncate and explain"),
    "one text": ({"texts": "good"}, "#/texts", "must be a list of texts, also for one"),
    "null": ({"texts": None}, "#/texts", "must be a list of texts"),
    "empty": ({"texts": []}, "#/texts", "is empty: send at least one text"),
    "too many": ({"texts": ["good"] * 9}, "#/texts", "at most 8 are taken (LSTMSERVE_MAX_SEQUENCES)"),
    "number as text": ({"texts": ["good", 1]}, "#/texts/1", "must be a string"),
    "null as text": ({"texts": [None]}, "#/texts/0", "must be a string"),
    "list as text": ({"texts": [["good"]]}, "#/texts/0", "must be a string"),
    "unknown part": ({"texts": ["good"], "truncate": "middle"}, "#/truncate", "'head' or 'tail'"),
    "true as part": ({"texts": ["good"], "truncate": True}, "#/truncate", "'head' or 'tail'"),
    "number as explain": ({"texts": ["good"], "explain": 1}, "#/explain", "boolean"),
    "unknown field": ({"texts": ["good"], "lang": "en"}, "#/lang", "known: texts, truncate, explain"),
}


@pytest.mark.parametrize("rule", REFUSED)
async def test_invalid_content(client: httpx.AsyncClient, fake: Fake, rule: str) -> None:
    body, pointer, message = REFUSED[rule]
    problem = refused(await client.post("/classify", json=body), 422)
    assert problem.errors is not None
    assert [error.pointer for error in problem.errors] == [pointer]
    assert problem.detail == f"{pointer}: {problem.errors[0].detail}"
    assert message in problem.detail
    assert fake.started == []


async def test_unknown_fields_are_counted_together(client: httpx.AsyncClient) -> None:
    body = {"texts": ["good"], **{f"x{number}": 1 for number in range(50)}}
    problem = refused(await client.post("/classify", json=body), 422)
    assert problem.error_count == 1
    assert "one of 50 unknown fields" in problem.detail


@pytest.mark.parametrize(
    "content",
    [
        b'{"texts": ["\\ud83d"]}',
        b'{"texts": ["\\ude00 good"]}',
        b'{"texts": ["\xed\xa0\xbd"]}',
        b'{"texts": ["\xff"]}',
        b'{"texts": ["good"',
        b"",
    ],
)
async def test_what_is_no_text_at_all(client: httpx.AsyncClient, fake: Fake, content: bytes) -> None:
    """Half a surrogate pair is no character: it has no UTF-8, and so no tokens."""
    assert "not JSON" in refused(await client.post("/classify", content=content, headers=JSON), 400).detail
    assert fake.started == []


async def test_a_whole_surrogate_pair_is_a_character(client: httpx.AsyncClient) -> None:
    reply = await client.post("/classify", content=b'{"texts": ["good \\ud83d\\ude00"]}', headers=JSON)
    assert reply.json()["results"][0]["tokens"] == 2


@pytest.mark.parametrize("method", ["get", "put"])
async def test_other_methods(client: httpx.AsyncClient, method: str) -> None:
    reply = await client.request(method, "/classify")
    assert refused(reply, 405).detail.startswith(f"{method.upper()} /classify: ")
    assert reply.headers["allow"] == "POST"


async def test_the_media_type(client: httpx.AsyncClient) -> None:
    reply = await client.post("/classify", content=b'{"texts": ["good"]}', headers={"Content-Type": "text/plain"})
    assert "application/json in UTF-8, not 'text/plain'" in refused(reply, 415).detail


async def test_the_request_id_comes_back(client: httpx.AsyncClient) -> None:
    reply = await client.post("/classify", json={"texts": ["good"]}, headers={"X-Request-ID": "mine"})
    assert reply.headers["x-request-id"] == "mine"


async def test_a_deadline_that_has_passed(fake: Fake) -> None:
    async with running(text_app(fake)) as client:
        fake.gate.clear()
        reply = await client.post("/classify", json={"texts": ["good"]}, headers={"X-Request-Timeout-Ms": "20"})
        refused(reply, 504)
        fake.gate.set()


async def test_others_are_answered_while_a_megabyte_is_read(fake: Fake) -> None:
    async with running(text_app(fake, max_body_bytes=4 << 20, max_text_bytes=4 << 20)) as client:
        body = {"texts": ["good film " * 200_000], "truncate": "tail"}
        work = asyncio.ensure_future(client.post("/classify", json=body))
        answered = 0
        while not work.done():
            assert (await client.get("/livez")).status_code == 200
            answered += 1
            await asyncio.sleep(0)  # that request never waits
        (found,) = (await work).json()["results"]
    assert answered > 10, "held up"
    assert (found["tokens"], found["kept_tokens"]) == (400_000, 16)


@pytest.mark.parametrize("model", ["imdb", "sigmoid", "binary"])
async def test_what_predict_says_of_the_same_tokens(store: Path, model: str) -> None:
    tokenizer = Tokenizer.train(TEXTS, 40, min_count=1)
    texts = [*TEXTS, "a treat"]
    async with served(store) as client:
        found = await results(client, *texts, path=f"/models/{model}/classify")
        for text, item in zip(texts, found, strict=True):
            rows = {"token_ids": tokenizer.encode([text])}
            predicted = (await client.post(f"/models/{model}/predict", json=rows)).json()
            assert item["logits"] == pytest.approx(predicted["logits"][0], abs=1e-5)
            assert list(item["scores"]) == predicted["labels"]
            scores, logits = list(item["scores"].values()), item["logits"]
            assert item["label"] == predicted["labels"][scores.index(max(scores))]
            if model == "binary":
                assert scores == pytest.approx([1 / (1 + math.exp(s * logits[0] / 0.5)) for s in (1, -1)])
            elif model == "sigmoid":
                assert scores == pytest.approx([1 / (1 + math.exp(-logit / 1.5)) for logit in logits])
            else:
                assert sum(scores) == pytest.approx(1)
                assert math.log(scores[0] / scores[1]) == pytest.approx(logits[0] - logits[1], abs=1e-6)


WORDS = st.sampled_from(["good", "bad", "film", "not", "very", ",", "!", "zyx", "\U0001f600", "", "<br />"])


@pytest.fixture(scope="module")
def native() -> None:
    pytest.importorskip("service.engine._core", reason="the native engine is not built")


@pytest.fixture
async def native_client(store: Path, native: None) -> AsyncIterator[httpx.AsyncClient]:
    async with served(store, engine="native") as client:
        yield client


@MANY
@given(
    st.lists(st.lists(WORDS, max_size=25).map(" ".join), min_size=1, max_size=6),
    st.sampled_from([None, "head", "tail"]),
    st.booleans(),
)
async def test_neighbours_change_nothing(
    native_client: httpx.AsyncClient, texts: list[str], truncate: str | None, explain: bool
) -> None:
    """Bit for bit, on the native engine."""
    together = await results(native_client, *texts, truncate=truncate, explain=explain)
    alone = [await results(native_client, text, truncate=truncate, explain=explain) for text in texts]
    assert together == [item for (item,) in alone]


async def test_the_documented_example_is_answered(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    texts = document["components"]["schemas"]["ClassifyRequest"]["properties"]["texts"]
    assert (texts["minItems"], texts["maxItems"]) == (1, 8)
    assert len(await results(client, *texts["examples"][0])) == len(texts["examples"][0])
    assert json.dumps(document["paths"]["/classify"]["post"]["requestBody"]).count("ClassifyRequest") == 1
