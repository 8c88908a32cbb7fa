"""The Open Inference Protocol over the whole application and the fake engine: every rule of ``/v2``."""

import asyncio
import gzip
import itertools
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.tokenizer import Tokenizer
from service.app import create_app
from service.repository import Model, Repository
from service.schemas.v2 import InferReply, ModelMetadata, StatisticsReply
from service.settings import Settings
from service.tensors import pack
from tests.fake_engine import LIMITS, POISON, Fake, right, running, until
from tests.tiny import TEXTS, tiny_config

pytestmark = pytest.mark.anyio

HEADER = "Inference-Header-Content-Length"
MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TOKENIZER = Tokenizer.train(TEXTS, 40, min_count=1)
INFER = "/v2/models/tiny/infer"


def v2_app(fake: Fake, **chosen: Any) -> FastAPI:
    """`tiny` reads texts too, `odd` has another pad id."""
    options = Settings(**{**LIMITS, "model": "tiny", **chosen})
    fake.lanes = options.lanes
    repository = Repository("tiny")
    repository.put(Model("tiny", 1, tiny_config(max_length=16), "weights", "float32", TOKENIZER, unknown_id=1))
    repository.put(Model("odd", 7, tiny_config(max_length=6, pad_id=3, vocab_size=10), "weights", "float32"))
    return create_app(options, repository, fake)


@pytest.fixture
async def client(fake: Fake) -> AsyncIterator[httpx.AsyncClient]:
    async with running(v2_app(fake)) as client:
        yield client


def tokens(*rows: list[Any], **fields: Any) -> dict[str, Any]:
    """The input token_ids."""
    return {"name": "token_ids", "datatype": "INT64", "shape": [len(rows), len(rows[0])], "data": [*rows], **fields}


def lengths(*values: int, **fields: Any) -> dict[str, Any]:
    return {"name": "lengths", "datatype": "INT64", "shape": [len(values)], "data": [*values], **fields}


def text(*values: Any, **fields: Any) -> dict[str, Any]:
    return {"name": "text", "datatype": "BYTES", "shape": [len(values)], "data": [*values], **fields}


def body(*inputs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"inputs": [*inputs], **fields}


def outputs(reply: httpx.Response) -> dict[str, Any]:
    """The data of every output by its name, from JSON or from bytes."""
    assert reply.status_code == 200, reply.text
    end = int(reply.headers.get(HEADER, len(reply.content)))
    document = json.loads(reply.content[:end])
    InferReply.model_validate(document, strict=True)
    found = {}
    for output in document["outputs"]:
        if "data" in output:
            found[output["name"]] = output["data"]
            continue
        start, end = end, end + output["parameters"]["binary_data_size"]
        found[output["name"]] = reply.content[start:end]
    assert end == len(reply.content)
    return found


def refused(reply: httpx.Response, status: int = 400) -> str:
    """What the error says, in the protocol's one shape."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    document = reply.json()
    assert document.keys() == {"error"}
    return str(document["error"])


async def test_the_server(client: httpx.AsyncClient) -> None:
    document = (await client.get("/v2")).json()
    assert document.keys() == {"name", "version", "extensions"}
    assert document["name"] == "lstm-serve"
    assert "binary_tensor_data" in document["extensions"]
    assert "model_repository" not in document["extensions"], "there is no admin key"
    assert (await client.get("/v2/health/live")).json() == {"live": True}
    assert (await client.get("/v2/health/ready")).json() == {"ready": True}
    assert "/docs" in refused(await client.get("/v2/nothing"), 404)


async def test_the_repository_extension_needs_a_key(fake: Fake, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret")
    async with running(v2_app(fake, admin_key_file=key)) as client:
        assert "model_repository" in (await client.get("/v2")).json()["extensions"]


async def test_the_metadata_of_a_model(client: httpx.AsyncClient) -> None:
    reply = await client.get("/v2/models/tiny")
    ModelMetadata.model_validate_json(reply.content, strict=True)
    document = reply.json()
    assert (document["name"], document["versions"]) == ("tiny", ["1"])
    assert document["inputs"] == [
        {"name": "token_ids", "datatype": "INT64", "shape": [-1, -1]},
        {"name": "lengths", "datatype": "INT64", "shape": [-1]},
        {"name": "text", "datatype": "BYTES", "shape": [-1]},
    ]
    assert document["outputs"] == [
        {"name": "logits", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "labels", "datatype": "BYTES", "shape": [-1]},
    ]
    assert (await client.get("/v2/models/tiny/versions/1")).json() == document
    odd = (await client.get("/v2/models/odd/versions/7")).json()
    assert [tensor["name"] for tensor in odd["inputs"]] == ["token_ids", "lengths"], "it has no tokenizer"


@pytest.mark.parametrize("path", ["", "/ready", "/stats", "/infer"])
async def test_unknown_models_and_versions(client: httpx.AsyncClient, fake: Fake, path: str) -> None:
    async def ask(model: str) -> httpx.Response:
        if path == "/infer":
            return await client.post(f"/v2/models/{model}{path}", json=body(tokens([1])))
        return await client.get(f"/v2/models/{model}{path}")

    assert "there are: tiny, odd" in refused(await ask("nope"), 404)
    assert "there are: tiny, odd" in refused(await ask("nope/versions/1"), 404)
    assert "version 2 of 'tiny' does not serve" in refused(await ask("tiny/versions/2"), 404)
    for odd in ("x", "-1", "1.0", "%C2%B9", "9" * 5000):
        assert "versions are numbers" in refused(await ask(f"tiny/versions/{odd}"), 404)
    assert fake.started == []
    assert (await ask("tiny/versions/1")).status_code == 200


async def test_ready_while_draining(fake: Fake) -> None:
    app = v2_app(fake)
    async with running(app) as client:
        paths = ["health/ready", "models/tiny/ready", "models/tiny/versions/1/ready"]
        assert [(await client.get(f"/v2/{path}")).status_code for path in paths] == [200] * 3
        assert (await client.get("/v2/models/odd/ready")).json() == {"name": "odd", "ready": True}
        app.state.draining = True
        for path in paths:
            assert "draining" in refused(await client.get(f"/v2/{path}"), 503)
        assert (await client.get("/v2/health/live")).status_code == 200
        assert (await client.post(INFER, json=body(tokens([1])))).status_code == 200
        fake.healthy = False
        assert "engine thread" in refused(await client.get("/v2/health/live"), 503)


async def test_the_reply(client: httpx.AsyncClient, fake: Fake) -> None:
    reply = await client.post(INFER, json=body(tokens([3, 4, 5], [6, 0, 0]), id="forty two"))
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert HEADER not in reply.headers
    assert {part.split(";")[0] for part in reply.headers["server-timing"].split(", ")} == {"queue", "compute"}
    document = reply.json()
    assert (document["model_name"], document["model_version"], document["id"]) == ("tiny", "1", "forty two")
    described = [(output["name"], output["datatype"], output["shape"]) for output in document["outputs"]]
    assert described == [("logits", "FP32", [2, 2]), ("probabilities", "FP32", [2, 2]), ("labels", "BYTES", [2])]
    found = outputs(reply)
    assert found["logits"] == right([3, 4, 5]) + right([6])
    assert found["labels"] == ["negative", "negative"], "the first logit is the higher one"
    rows = np.array(found["logits"]).reshape(2, 2)
    exponentials = np.exp(rows)
    expected = (exponentials / exponentials.sum(axis=1, keepdims=True)).ravel()
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-6)
    assert fake.started == [[3, 4, 5], [6]]
    assert "id" not in (await client.post(INFER, json=body(tokens([1])))).json()


async def test_the_logits_are_those_of_predict(client: httpx.AsyncClient) -> None:
    rows = [[3, 4, 5], [6, 0, 0]]
    predicted = (await client.post("/models/odd/predict", json={"token_ids": [[4, 5, 3]]})).json()
    inferred = outputs(await client.post("/v2/models/odd/infer", json=body(tokens([4, 5, 3]))))
    assert inferred["logits"] == predicted["logits"][0] == right([4, 5]), "its pad id is 3"
    predicted = (await client.post("/predict", json={"token_ids": rows})).json()
    assert outputs(await client.post(INFER, json=body(tokens(*rows))))["logits"] == [
        *itertools.chain(*predicted["logits"])
    ]


ROWS = [[3, 4, 5], [6, 0, 0]]
FLAT = [3, 4, 5, 6, 0, 0]

ACCEPTED: dict[str, tuple[dict[str, Any], list[list[int]]]] = {
    "flat": (body(tokens(*ROWS, data=FLAT)), [[3, 4, 5], [6]]),
    "INT32": (body(tokens(*ROWS, datatype="INT32")), [[3, 4, 5], [6]]),
    "with lengths": (body(tokens(*ROWS), lengths(3, 2)), [[3, 4, 5], [6, 0]]),
    "lengths first": (body(lengths(3, 2), tokens(*ROWS)), [[3, 4, 5], [6, 0]]),
    "lengths as a column": (body(tokens(*ROWS), lengths(3, 2, shape=[2, 1], data=[[3], [2]])), [[3, 4, 5], [6, 0]]),
    "INT32 lengths": (body(tokens(*ROWS), lengths(3, 2, datatype="INT32")), [[3, 4, 5], [6, 0]]),
    "KServe's field": (body(tokens([1]), model_name="tiny"), [[1]]),
    "Triton's defaults": (
        body(tokens([1]), parameters={"priority": 0, "timeout": 0, "sequence_id": "", "sequence_end": False}),
        [[1]],
    ),
    "the longest timeout": (body(tokens([1]), parameters={"timeout": 30_000_000, "priority": 2**40}), [[1]]),
    "a text": (body(text("good film")), TOKENIZER.encode(["good film"])),
    "texts as a column": (body(text("good", "bad", shape=[2, 1])), TOKENIZER.encode(["good", "bad"])),
    "nested texts": (body(text(["good"], ["bad"], shape=[2, 1])), TOKENIZER.encode(["good", "bad"])),
    "the head of a text": (
        body(text("good " * 9 + "bad " * 9), parameters={"truncate": "head"}),
        TOKENIZER.encode(["good " * 9 + "bad " * 7]),
    ),
    "the tail of a text": (
        body(text("good " * 9 + "bad " * 9), parameters={"truncate": "tail"}),
        TOKENIZER.encode(["good " * 7 + "bad " * 9]),
    ),
}


@pytest.mark.parametrize("case", ACCEPTED)
async def test_inputs(client: httpx.AsyncClient, fake: Fake, case: str) -> None:
    sent, expected = ACCEPTED[case]
    found = outputs(await client.post(INFER, json=sent))
    assert found["logits"] == [logit for row in expected for logit in right(row)]
    assert fake.started == expected


MEDIA = [None, "application/json", "application/octet-stream", "application/x-www-form-urlencoded"]


@pytest.mark.parametrize("media", MEDIA)
async def test_binary_inputs(client: httpx.AsyncClient, fake: Fake, media: str | None) -> None:
    """Clients send any media type, or none."""
    inputs = [
        tokens(*ROWS, datatype="INT32", data=[], parameters={"binary_data_size": 24}),
        lengths(3, 2, data=[], parameters={"binary_data_size": 16}),
    ]
    for tensor in inputs:
        del tensor["data"]
    header = json.dumps(body(*inputs)).encode()
    content = header + struct.pack("<6i", *FLAT) + struct.pack("<2q", 3, 2)
    headers = {HEADER: str(len(header))} | ({"Content-Type": media} if media else {})
    found = outputs(await client.post(INFER, content=content, headers=headers))
    assert found["logits"] == right([3, 4, 5]) + right([6, 0])
    headers["Content-Encoding"] = "gzip"
    reply = await client.post(INFER, content=gzip.compress(content), headers=headers)
    assert outputs(reply) == found, "the header counts the JSON's bytes before they are compressed"
    assert fake.started == [[3, 4, 5], [6, 0]] * 2


async def test_binary_texts_beside_json(client: httpx.AsyncClient, fake: Fake) -> None:
    raw = pack(["good film", "bad"])
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(raw)}}
    header = json.dumps(body(tensor)).encode()
    reply = await client.post(INFER, content=header + raw, headers={HEADER: str(len(header))})
    assert len(outputs(reply)["labels"]) == 2
    assert fake.started == TOKENIZER.encode(["good film", "bad"])


async def test_a_header_over_all_of_the_body(client: httpx.AsyncClient) -> None:
    content = json.dumps(body(tokens([1]))).encode()
    reply = await client.post(INFER, content=content, headers={HEADER: str(len(content))})
    assert outputs(reply)["logits"] == right([1])


async def test_binary_outputs(client: httpx.AsyncClient) -> None:
    reply = await client.post(INFER, json=body(tokens([3, 4, 5]), parameters={"binary_data_output": True}))
    assert reply.headers["content-type"] == "application/octet-stream"
    assert "server-timing" in reply.headers
    found = outputs(reply)
    assert found["logits"] == struct.pack("<2f", *right([3, 4, 5]))
    assert found["labels"] == pack(["negative"])
    assert [*found] == ["logits", "probabilities", "labels"]


async def test_each_output_as_it_is_wanted(client: httpx.AsyncClient) -> None:
    wanted = [{"name": "labels", "parameters": {"binary_data": False}}, {"name": "logits"}]
    sent = body(tokens([3, 4, 5]), outputs=wanted, parameters={"binary_data_output": True})
    found = outputs(await client.post(INFER, json=sent))
    assert [*found.items()] == [("labels", ["negative"]), ("logits", struct.pack("<2f", *right([3, 4, 5])))]
    sent = body(
        tokens([3, 4, 5]), outputs=[{"name": "logits"}, {"name": "labels", "parameters": {"binary_data": True}}]
    )
    found = outputs(await client.post(INFER, json=sent))
    assert found == {"logits": right([3, 4, 5]), "labels": pack(["negative"])}


async def test_classification(client: httpx.AsyncClient) -> None:
    def ask(count: int, **parameters: Any) -> dict[str, Any]:
        wanted = {"name": "logits", "parameters": {"classification": count, **parameters}}
        return body(tokens([3, 4, 5], [1, 0, 0]), outputs=[wanted])

    reply = await client.post(INFER, json=ask(1))
    assert reply.json()["outputs"][0]["datatype"] == "BYTES"
    assert reply.json()["outputs"][0]["shape"] == [2, 1]
    assert outputs(reply) == {"logits": ["12.000000:0:negative", "1.000000:0:negative"]}
    ranked = ["12.000000:0:negative", "3.000000:1:positive", "1.000000:0:negative", "1.000000:1:positive"]
    assert outputs(await client.post(INFER, json=ask(9))) == {"logits": ranked}
    assert outputs(await client.post(INFER, json=ask(2, binary_data=True))) == {"logits": pack(ranked)}
    assert outputs(await client.post(INFER, json=ask(0)))["logits"] == [12, 3, 1, 1]


LONG = "good " * 17

REFUSED: dict[str, tuple[object, str]] = {
    "no object": ([], "#: Input should be an object"),
    "no inputs": ({}, "#/inputs: is missing: send token_ids"),
    "empty inputs": (body(), "#/inputs: List should have at least 1 item"),
    "lengths alone": (body(lengths(1)), "#/inputs: must be token_ids, token_ids and lengths, or text; not lengths"),
    "text and tokens": (body(text("good"), tokens([1])), "#/inputs: must be token_ids, token_ids and lengths, or text"),
    "twice the same": (body(tokens([1]), tokens([1])), "#/inputs: must be token_ids, token_ids and lengths, or text"),
    "three": (body(text("a"), tokens([1]), lengths(1)), "#/inputs: List should have at most 2 items"),
    "another name": (body(tokens([1], name="input")), "#/inputs/0/name: Input should be 'token_ids', 'lengths' or"),
    "another datatype": (body(tokens([1], datatype="FP32")), "#/inputs/0/datatype: Input should be 'INT64', 'INT32'"),
    "numbers of text": (body(text("a", datatype="INT64")), "#/inputs/0/datatype: must be BYTES for text"),
    "bytes of tokens": (body(tokens([1], datatype="BYTES")), "#/inputs/0/datatype: must be INT64 or INT32 for token_"),
    "flat shape": (body(tokens([1], shape=[1])), "#/inputs/0/shape: must be [rows, columns] for token_ids"),
    "wide texts": (body(text("a", "b", shape=[1, 2])), "#/inputs/0/shape: must be [rows] or [rows, 1] for text"),
    "no shape": (body(tokens([1], shape=[])), "#/inputs/0/shape: List should have at least 1 item"),
    "deep shape": (body(tokens([1], shape=[1, 1, 1])), "#/inputs/0/shape: List should have at most 2 items"),
    "shape of strings": (body(tokens([1], shape=["1", "1"])), "#/inputs/0/shape/0: Input should be a valid integer"),
    "negative shape": (body(tokens([1], shape=[-1, 1])), "input token_ids: has the shape [-1, 1]"),
    "huge shape": (body(tokens([1], shape=[2**63, 2**63])), "input token_ids: has more rows than the 8"),
    "huger shape": (body(tokens([1], shape=[8, 10**4000])), "input token_ids: has rows longer than the 32"),
    "too few elements": (
        body(tokens([1], shape=[8, 32], data=[1])),
        "input token_ids: has 1 elements, its shape [8, 32] takes",
    ),
    "no data": (body({"name": "text", "datatype": "BYTES", "shape": [1]}), "#/inputs/0/data: or the parameter binary"),
    "data twice": (body(tokens([1], parameters={"binary_data_size": 8})), "#/inputs/0/data: or the parameter binary_"),
    "empty data": (body(tokens([1], data=[])), "input token_ids: has 0 elements, its shape [1, 1] takes 1"),
    "bytes that are not there": (
        body({"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 8}}),
        "the inputs' binary_data_size add up to 8 bytes, the body holds 0 after its JSON",
    ),
    "negative bytes": (
        body({"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": -8}}),
        "#/inputs/0/parameters/binary_data_size: Input should be greater than or equal to 0",
    ),
    "a float": (body(tokens([1.0])), "input token_ids: must hold integers alone"),
    "a negative token": (body(tokens([1, 2], [3, -1])), "input token_ids[1, 1]: -1 is below 0"),
    "beyond the vocabulary": (body(tokens([1, 40])), "input token_ids[0, 1]: token id 40 is outside the model's vocab"),
    "over INT32": (body(tokens([2**31], datatype="INT32")), "input token_ids: holds an integer that INT32 does not"),
    "over the model's length": (
        body(tokens([1] * 17)),
        "input token_ids[0]: has 17 tokens, the model takes at most 16",
    ),
    "over the limit": (body(tokens([1] * 33)), "input token_ids: has rows longer than the 32 token ids that are taken"),
    "too many rows": (body(tokens(*[[1]] * 9)), "input token_ids: has more rows than the 8 are taken"),
    "too many texts": (body(text(*["good"] * 9)), "input text: has more rows than the 8 are taken"),
    "a pad inside": (body(tokens([1, 0, 1])), "input token_ids[0, 1]: is the pad id 0 inside a sequence"),
    "only pads": (body(tokens([1], [0])), "input token_ids[1]: holds only the pad id 0"),
    "beyond the length": (body(tokens([1, 2]), lengths(1)), "input token_ids[0, 1]: is beyond the row's length of 1"),
    "length of nothing": (body(tokens([1]), lengths(0)), "input lengths[0]: 0 is below 1"),
    "length over the width": (body(tokens([1]), lengths(2)), "input lengths[0]: 2 is over the row's width of 1"),
    "too few lengths": (body(tokens([1], [1]), lengths(1)), "input lengths: has 1 entries for 2 rows of token_ids"),
    "an empty text": (body(text("good", "  ")), "input text[1]: the text has no token"),
    "an unknown text": (body(text("qwertz", "good")), "input text[0]: no token of the text is in the model's"),
    "a long text": (body(text("good", LONG)), "input text[1]: the text has 17 tokens, at most 16 are read"),
    "a number as text": (body(text(1)), "input text: must hold strings alone"),
    "another output": (body(tokens([1]), outputs=[{"name": "score"}]), "#/outputs/0/name: Input should be 'logits', "),
    "an output twice": (body(tokens([1]), outputs=[{"name": "labels"}] * 2), "#/outputs: names an output twice"),
    "classes of labels": (
        body(tokens([1]), outputs=[{"name": "labels", "parameters": {"classification": 1}}]),
        "#/outputs/0/parameters/classification: is for logits and probabilities",
    ),
    "negative classes": (
        body(tokens([1]), outputs=[{"name": "logits", "parameters": {"classification": -1}}]),
        "#/outputs/0/parameters/classification: Input should be greater than or equal to 0",
    ),
    "shared memory in": (
        body(tokens([1], parameters={"shared_memory_region": "r"})),
        "#/inputs/0/parameters/shared_memory_region: is one of 1 unknown fields; known: binary_data_size",
    ),
    "shared memory out": (
        body(tokens([1]), outputs=[{"name": "logits", "parameters": {"shared_memory_region": "r"}}]),
        "#/outputs/0/parameters/shared_memory_region: is one of 1 unknown fields; known: binary_data, classification",
    ),
    "unknown field": (body(tokens([1]), input=1), "#/input: is one of 1 unknown fields; known: id, "),
    "unknown parameter": (body(tokens([1]), parameters={"top_k": 1}), "#/parameters/top_k: is one of 1 unknown fields"),
    "a sequence": (body(tokens([1]), parameters={"sequence_id": 7}), "#/parameters/sequence_id: is not supported"),
    "a named sequence": (body(tokens([1]), parameters={"sequence_id": "s"}), "#/parameters/sequence_id: is not supp"),
    "its start": (body(tokens([1]), parameters={"sequence_start": True}), "#/parameters/sequence_start: is not supp"),
    "its end": (body(tokens([1]), parameters={"sequence_end": True}), "#/parameters/sequence_end: is not supported"),
    "a long timeout": (
        body(tokens([1]), parameters={"timeout": 30_000_001}),
        "#/parameters/timeout: must be at most 30000000 microseconds (LSTMSERVE_TIMEOUT_MS)",
    ),
    "a negative timeout": (body(tokens([1]), parameters={"timeout": -1}), "#/parameters/timeout: Input should be"),
    "truncated tokens": (body(tokens([1]), parameters={"truncate": "head"}), "#/parameters/truncate: is for text"),
    "another truncation": (body(text("good"), parameters={"truncate": True}), "#/parameters/truncate: Input should be"),
}


async def test_invalid_content(client: httpx.AsyncClient, fake: Fake) -> None:
    said = {rule: refused(await client.post(INFER, json=sent)) for rule, (sent, _) in REFUSED.items()}
    assert {rule: detail for rule, detail in said.items() if not detail.startswith(REFUSED[rule][1])} == {}
    assert fake.started == []


async def test_invalid_bytes(client: httpx.AsyncClient, fake: Fake) -> None:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 14}}
    header = json.dumps(body(tensor)).encode()
    raw = pack(["good", "xx"])
    headers = {HEADER: str(len(header))}
    reply = await client.post(INFER, content=header + raw.replace(b"xx", b"\xff\xff"), headers=headers)
    assert refused(reply).startswith("input text: element 1 is not UTF-8")
    reply = await client.post(INFER, content=header + raw + b"x", headers=headers)
    assert "add up to 14 bytes, the body holds 15" in refused(reply)
    assert "not JSON" in refused(await client.post(INFER, content=header + raw, headers={HEADER: "3"}))
    reply = await client.post(INFER, content=header + raw, headers={HEADER: str(len(header) + 15)})
    assert f"must be from 1 to the body's {len(header) + 14} bytes" in refused(reply)
    assert fake.started == []


async def test_texts_without_a_tokenizer(client: httpx.AsyncClient) -> None:
    assert "no tokenizer" in refused(await client.post("/v2/models/odd/infer", json=body(text("good"))))


async def test_other_refusals_in_the_shape_of_the_protocol(client: httpx.AsyncClient) -> None:
    assert "not JSON" in refused(await client.post(INFER, content=b"{"))
    assert "LSTMSERVE_MAX_BODY_BYTES" in refused(await client.post(INFER, content=b" " * 5000), 413)
    assert "'br'" in refused(await client.post(INFER, content=b"x", headers={"Content-Encoding": "br"}), 415)
    assert "X-Request-Priority" in refused(
        await client.post(INFER, json=body(tokens([1])), headers={"X-Request-Priority": "7"})
    )
    assert "Method Not Allowed" in refused(await client.get(INFER), 405)
    refused(await client.post(INFER, json=body(tokens([POISON]))), 500)


UNSUPPORTED = [
    ("GET", "models/tiny/config"),
    ("GET", "models/tiny/versions/1/config"),
    ("GET", "trace/setting"),
    ("POST", "trace/setting"),
    ("POST", "models/tiny/trace/setting"),
    ("GET", "logging"),
    ("POST", "logging"),
    ("GET", "systemsharedmemory/status"),
    ("POST", "systemsharedmemory/region/a/register"),
    ("POST", "cudasharedmemory/unregister"),
]


async def test_what_is_not_supported_says_so(client: httpx.AsyncClient) -> None:
    for method, path in UNSUPPORTED:
        said = refused(await client.request(method, f"/v2/{path}"), 501)
        assert said.startswith(f"{method} /v2/{path}: ")


async def test_priority_and_deadline_by_parameter(fake: Fake) -> None:
    async with running(v2_app(fake, lanes=1)) as client:
        fake.gate.clear()

        def ask(token: int, **parameters: int) -> asyncio.Task[httpx.Response]:
            sent = body(tokens([token]), parameters=parameters)
            return asyncio.create_task(client.post(INFER, json=sent))

        async def two_wait() -> bool:
            return "lstmserve_queue_sequences 2.0" in (await client.get("/metrics")).text.splitlines()

        running_one = ask(1)
        assert await asyncio.to_thread(fake.stepping.acquire, timeout=10)
        assert "deadline" in refused(await ask(2, timeout=40_000), 504)
        normal, high = ask(3, priority=2), ask(4, priority=1, timeout=30_000_000)
        await until(two_wait)
        fake.gate.set()
        for task in (running_one, normal, high):
            assert (await task).status_code == 200
    assert fake.started == [[1], [4], [3]]


async def test_statistics(client: httpx.AsyncClient) -> None:
    for sent in (tokens([1], [2], [3]), tokens([1]), text("good", "bad"), tokens([POISON]), tokens([-1])):
        await client.post(INFER, json=body(sent))
    reply = await client.get("/v2/models/tiny/stats")
    StatisticsReply.model_validate_json(reply.content, strict=True)
    (tiny,) = reply.json()["model_stats"]
    assert (tiny["name"], tiny["version"], tiny["inference_count"], tiny["execution_count"]) == ("tiny", "1", 6, 6)
    assert tiny["last_inference"] > 1_600_000_000_000
    assert tiny["batch_stats"] == []
    spent = tiny["inference_stats"]
    counts = {kind: duration["count"] for kind, duration in spent.items()}
    computed = dict.fromkeys(("queue", "compute_input", "compute_infer", "compute_output"), 3)
    assert counts == {"success": 3, "fail": 2, "cache_hit": 0, "cache_miss": 0, **computed}
    assert all((duration["ns"] > 0) == (duration["count"] > 0) for duration in spent.values())
    assert spent["success"]["ns"] >= sum(spent[kind]["ns"] for kind in computed)
    assert (await client.get("/v2/models/tiny/versions/1/stats")).json()["model_stats"] == [tiny]
    everything = (await client.get("/v2/models/stats")).json()["model_stats"]
    assert [model["name"] for model in everything] == ["tiny", "odd"]
    assert everything[0] == tiny
    assert everything[1]["inference_stats"]["success"]["count"] == 0


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
VALID: dict[str, Any] = body(
    tokens([1, 2], [3, 0]),
    lengths(2, 1),
    id="1",
    outputs=[{"name": "logits", "parameters": {"classification": 1, "binary_data": True}}],
    parameters={"binary_data_output": True, "timeout": 0, "priority": 1},
)


def places(document: Any) -> list[list[Any]]:
    """The path to every value in a document."""
    keys = [*document] if isinstance(document, dict) else [*range(len(document))] if isinstance(document, list) else []
    return [[key, *rest] for key in keys for rest in [[], *places(document[key])]]


@MANY
@given(st.sampled_from(places(VALID)), JSONS)
async def test_one_wrong_value_is_never_the_services_error(
    client: httpx.AsyncClient, place: list[Any], value: object
) -> None:
    """Any value in any place of a request: an answer, or an error that is the client's."""
    sent = json.loads(json.dumps(VALID))
    inside = sent
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    reply = await client.post(INFER, content=json.dumps(sent).encode())
    if reply.status_code != 200:
        assert refused(reply, 400)


@MANY
@given(st.binary(max_size=40), st.integers(0, 40), st.lists(st.integers(-2, 2**63), min_size=1, max_size=2))
async def test_any_bytes_are_never_the_services_error(
    client: httpx.AsyncClient, raw: bytes, size: int, shape: list[int]
) -> None:
    for name, datatype in (("token_ids", "INT64"), ("token_ids", "INT32"), ("text", "BYTES")):
        tensor = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}
        header = json.dumps(body(tensor)).encode()
        reply = await client.post(INFER, content=header + raw, headers={HEADER: str(len(header))})
        if reply.status_code != 200:
            assert refused(reply, 400)
