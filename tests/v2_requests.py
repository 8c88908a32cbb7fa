"""Requests of the Open Inference Protocol to a service with the fake engine, and what their replies hold."""

import json
from typing import Any

import httpx
from fastapi import FastAPI

from models.tokenizer import Tokenizer
from service.app import create_app
from service.repository import Model, Repository
from service.schemas.v2 import InferReply
from service.settings import Settings
from tests.fake_engine import LIMITS, Fake
from tests.tiny import TEXTS, tiny_config

HEADER = "Inference-Header-Content-Length"
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
