"""Text Embeddings Inference's dialect: its requests and replies, and a client that was written for that server."""

import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.tokenizer import Tokenizer
from service.dialects import TEI
from service.schemas.tei import TeiInfo, TeiRefusal
from tests.fake_engine import LIMITS, Fake, fake_app, right, running
from tests.served import served
from tests.server import Server
from tests.test_classify import text_app
from tests.tiny import TEXTS, write_tiny

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}
TOKENIZER = Tokenizer.train(TEXTS, 30, min_count=1)


@pytest.fixture
async def client(fake: Fake) -> AsyncIterator[httpx.AsyncClient]:
    async with running(text_app(fake)) as client:
        yield client


async def ask(client: httpx.AsyncClient, inputs: Any, path: str = "/tei/predict", **fields: Any) -> Any:
    reply = await client.post(path, json={"inputs": inputs, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def refused(reply: httpx.Response, status: int, kind: str) -> str:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    refusal = TeiRefusal.model_validate_json(reply.content, strict=True)
    assert refusal.error_type == kind
    return refusal.error


def ranked(text: str, raw: bool = False) -> list[dict[str, object]]:
    """What the fake engine says of a text; its model has a temperature of 2."""
    (ids,) = TOKENIZER.encode([text])
    values = right(ids)
    if not raw:
        weights = [math.exp((value - max(values)) / 2) for value in values]
        values = [weight / sum(weights) for weight in weights]
    pairs = sorted(zip(values, ("negative", "positive"), strict=True), reverse=True)
    return [{"score": pytest.approx(value), "label": label} for value, label in pairs]


@pytest.mark.parametrize("path", ["/tei/predict", "/tei"])
async def test_the_reply_to_a_text_and_to_a_batch(client: httpx.AsyncClient, path: str) -> None:
    """A text alone gives its labels; a batch, also of one, a list of such."""
    assert await ask(client, "good film", path) == ranked("good film")
    assert await ask(client, ["good film"], path) == ranked("good film")
    assert await ask(client, [["good film"]], path) == [ranked("good film")]
    assert await ask(client, [["good film"], ["bad"]], path) == [ranked("good film"), ranked("bad")]


@pytest.mark.parametrize("fields", [{"raw_scores": True}, {"parameters": {"function_to_apply": "none"}}])
async def test_raw_scores_are_logits(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    assert await ask(client, [["good film"], ["very bad film"]], **fields) == [
        ranked("good film", raw=True),
        ranked("very bad film", raw=True),
    ]


async def test_the_best_labels_alone(client: httpx.AsyncClient) -> None:
    assert await ask(client, "good film", parameters={"top_k": 1}) == ranked("good film")[:1]
    assert await ask(client, "good film", parameters={"top_k": 9}) == ranked("good film")


async def test_truncation_drops_at_the_named_side(client: httpx.AsyncClient, fake: Fake) -> None:
    text = " ".join(["good"] * 10 + ["film"] * 10)
    (ids,) = TOKENIZER.encode([text])
    await ask(client, text, truncate=True)
    for side in ("Right", "right", "Left", "left"):
        await ask(client, [[text]], truncate=True, truncation_direction=side)
    assert fake.started == [ids[:16]] * 3 + [ids[-16:]] * 2
    for fields in ({}, {"truncate": False}, {"truncate": None}, {"truncation_direction": "Left"}):
        reply = await client.post("/tei/predict", json={"inputs": text, **fields})
        assert refused(reply, 413, "Validation") == (
            "#/inputs: the text has 20 tokens, at most 16 are read (LSTMSERVE_MAX_TOKENS, or the model's own limit): "
            "shorten it, or set truncate to have a part of it read"
        )


PAIR = 'reads single texts: send a batch as [["a"], ["b"]]'
REFUSED: dict[str, tuple[object, str]] = {
    "a pair": ({"inputs": ["a", "b"]}, "#/inputs: is a list of strings, which this protocol reads as a pair"),
    "three strings": ({"inputs": ["a", "b", "c"]}, PAIR),
    "a batch with a pair": ({"inputs": [["good"], ["a", "b"]]}, "#/inputs/1: is a pair of texts"),
    "a batch with none": ({"inputs": [["good"], []]}, "#/inputs/1: must be a list of one text"),
    "texts and lists": ({"inputs": ["good", ["bad"]]}, "#/inputs/0: must be a list of one text"),
    "a number in a batch": ({"inputs": [["good"], [1]]}, "#/inputs/1/0: must be a string"),
    "nothing": ({"inputs": []}, "#/inputs: is empty"),
    "a number": ({"inputs": 3}, "#/inputs: must be a text, or a batch of them"),
    "null": ({"inputs": None}, "#/inputs: must be a text, or a batch of them"),
    "an object": ({"inputs": {"a": "b"}}, "#/inputs: must be a text, or a batch of them"),
    "no inputs": ({}, "#/inputs: is missing; the fields are inputs, truncate"),
    "too many": ({"inputs": [["good"]] * 9}, "at most 8 are taken (LSTMSERVE_MAX_SEQUENCES)"),
    "an empty text": ({"inputs": ""}, "#/inputs: the text has no token"),
    "a bad text in a batch": ({"inputs": [["good"], [" "], ["bad"]]}, "#/inputs/1: the text has no token"),
    "an unknown text": ({"inputs": [["zyx"]]}, "#/inputs/0: no token of the text is in the model's vocabulary"),
    "another side": ({"inputs": "good", "truncation_direction": "LEFT"}, "#/truncation_direction: "),
    "number as truncate": ({"inputs": "good", "truncate": 1}, "#/truncate: "),
    "null as raw_scores": ({"inputs": "good", "raw_scores": None}, "#/raw_scores: "),
    "an unknown field": ({"inputs": "good", "normalize": True}, "#/normalize: is one of 1 unknown fields"),
    "an unknown parameter": ({"inputs": "good", "parameters": {"x": 1}}, "#/parameters/x: is one of 1 unknown fields"),
    "no labels": ({"inputs": "good", "parameters": {"top_k": 0}}, "#/parameters/top_k: "),
}


@pytest.mark.parametrize("rule", REFUSED)
async def test_invalid_content(client: httpx.AsyncClient, fake: Fake, rule: str) -> None:
    body, message = REFUSED[rule]
    assert message in refused(await client.post("/tei/predict", json=body), 413, "Validation")
    assert fake.started == []


async def test_other_refusals(fake: Fake) -> None:
    async with running(text_app(fake)) as client:
        assert "not JSON" in refused(await client.post("/tei/predict", content=b"{", headers=JSON), 400, "Validation")
        refused(await client.post("/tei/predict", content=b'{"inputs": "good"}'), 415, "Validation")
        large = await client.post("/tei/predict", json={"inputs": "x" * LIMITS["max_body_bytes"]})
        assert "LSTMSERVE_MAX_BODY_BYTES" in refused(large, 413, "Validation")
        refused(await client.get("/tei/predict"), 405, "Validation")
        refused(await client.post("/tei/embed", json={"inputs": "good"}), 404, "Validation")
        fake.gate.clear()
        late = await client.post("/tei/predict", json={"inputs": "good"}, headers={"X-Request-Timeout-Ms": "20"})
        assert "X-Request-Timeout-Ms" in refused(late, 424, "Backend")
        fake.gate.set()


async def test_a_model_without_a_tokenizer(fake: Fake) -> None:
    async with running(fake_app(fake, model="tiny")) as client:
        error = refused(await client.post("/tei/predict", json={"inputs": "good"}), 413, "Validation")
    assert error.startswith("model 'tiny' has no tokenizer")


async def test_health(fake: Fake) -> None:
    app = text_app(fake)
    async with running(app) as client:
        reply = await client.get("/tei/health")
        assert (reply.status_code, reply.content) == (200, b"")
        app.state.health.draining = True
        refused(await client.get("/tei/health"), 503, "Unhealthy")


async def test_info(client: httpx.AsyncClient) -> None:
    reply = await client.get("/tei/info")
    info = TeiInfo.model_validate_json(reply.content, strict=True).model_dump()
    assert info.pop("version")
    assert info == {
        "model_id": "tiny",
        "model_sha": "3",
        "model_dtype": "float32",
        "model_type": {
            "classifier": {
                "id2label": {"0": "negative", "1": "positive"},
                "label2id": {"negative": 0, "positive": 1},
            }
        },
        "max_input_length": 16,
        "max_client_batch_size": 8,
        "auto_truncate": False,
    }


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "binary"])
async def test_scores_and_logits_of_every_output_rule(tmp_path: Path, output: str) -> None:
    """The scores are those of /classify; raw, each score is a function of the logit beside it."""
    labels = ("no", "yes") if output == "binary" else ("a", "b", "c")
    write_tiny(tmp_path / "imdb" / "1", labels=labels, output=output)
    async with served(tmp_path) as client:
        scores = await ask(client, [["good film"], ["very bad"]])
        raw = await ask(client, [["good film"], ["very bad"]], raw_scores=True)
        reply = await client.post("/classify", json={"texts": ["good film", "very bad"]})
    for found, logits, item in zip(scores, raw, reply.json()["results"], strict=True):
        by_label = {each["label"]: each["score"] for each in found}
        assert by_label == pytest.approx(item["scores"])
        assert found[0]["label"] == item["label"]
        assert [each["label"] for each in logits] == list(by_label)
        if output == "softmax":
            total = sum(math.exp(each["score"]) for each in logits)
            expected = [math.exp(each["score"]) / total for each in logits]
        else:
            expected = [1 / (1 + math.exp(-each["score"])) for each in logits]
        assert list(by_label.values()) == pytest.approx(expected)


async def test_an_engine_failure(fake: Fake) -> None:
    app = text_app(fake)
    async with running(app) as client:
        fake.start_fails = MemoryError("no room")
        assert "no room" not in refused(await client.post("/tei/predict", json={"inputs": "good"}), 424, "Backend")
        assert await ask(client, "good") == ranked("good")


async def test_the_document_says_what_is_sent(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    route = document["paths"]["/tei/predict"]["post"]
    assert route["tags"] == ["tei"]
    assert set(route["responses"]) == {"200", *(str(status) for status, _ in TEI.values())} - {"401", "403", "405"}
    inputs = document["components"]["schemas"]["TeiPredictRequest"]["properties"]["inputs"]
    assert inputs["anyOf"][2]["maxItems"] == 8
    assert len(inputs["examples"]) == 2


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = tmp_path_factory.mktemp("store")
    write_tiny(store / "imdb" / "1", max_length=20)
    with Server(store, "--device", "cpu", "--threads", "1", "--precision", "float32") as server:
        yield server.url


def hub(url: str) -> Any:
    """huggingface_hub's client of a server of its own."""
    library = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    return library.InferenceClient(model=url, provider="hf-inference")


@pytest.mark.parametrize("path", ["/tei", "/tei/predict"])
def test_a_text_by_huggingface_hub(url: str, path: str) -> None:
    """Of a single text it gives the first label alone, as with that server: it expects a list of lists."""
    best, *_ = httpx.post(url + path, json={"inputs": "good film"}).json()
    found = hub(url + path).text_classification("good film")
    assert (found.label, found.score) == (best["label"], best["score"])
    assert hub(url + path).text_classification("good film", top_k=1) == found


def test_a_batch_by_huggingface_hub(url: str) -> None:
    found = hub(url + "/tei").text_classification([["good film"]])
    assert [each.label for each in found] == [
        each["label"] for each in httpx.post(url + "/tei", json={"inputs": "good film"}).json()
    ]


def test_health_and_info_by_huggingface_hub(url: str) -> None:
    client = hub(url + "/tei")
    assert client.health_check()
    assert client.get_endpoint_info()["model_id"] == "imdb"


def test_errors_of_huggingface_hub_say_why(url: str) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    with pytest.raises(HfHubHTTPError, match="the text has 30 tokens, at most 20 are read") as caught:
        hub(url + "/tei").text_classification("good " * 30)
    assert caught.value.response.status_code == 413
