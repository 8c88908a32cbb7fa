"""The Open Inference Protocol over the whole application and the fake engine: what it answers."""

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

from service.keys import Key, digest, line
from service.schemas.v2 import ModelMetadata, StatisticsReply
from service.tensors import pack
from tests.fake_engine import POISON, Fake, right, running
from tests.v2_requests import HEADER, INFER, TOKENIZER, body, lengths, outputs, refused, text, tokens, v2_app

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(fake: Fake) -> AsyncIterator[httpx.AsyncClient]:
    async with running(v2_app(fake)) as client:
        yield client


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
    key.write_text(line(Key("ops", urgent=False), digest(b"secret")))
    async with running(v2_app(fake, admin_keys_file=key)) as client:
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
        app.state.health.draining = True
        for path in paths:
            assert "draining" in refused(await client.get(f"/v2/{path}"), 503)
        assert (await client.get("/v2/health/live")).status_code == 200
        assert (await client.post(INFER, json=body(tokens([1])))).status_code == 200
        fake.collect_fails = RuntimeError("device lost")
        refused(await client.post(INFER, json=body(tokens([1]))), 503)
        assert "engine" in refused(await client.get("/v2/health/live"), 503)


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
