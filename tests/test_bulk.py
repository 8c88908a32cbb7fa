"""Bodies that hold far more than any request can need, and those that only look so."""

import json
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidContent
from service.schemas.bulk import SPARE, check_bulk
from service.schemas.classify import classify_request
from service.schemas.predict import predict_request
from service.schemas.shared import parse
from service.schemas.tei import tei_predict_request
from service.schemas.v2 import InferRequest
from tests.fake_engine import Fake, running
from tests.v2_requests import INFER, body, outputs, refused, text, tokens, v2_app

pytestmark = pytest.mark.anyio

SIZE, SEQUENCES, TOKENS = 1 << 20, 64, 1024  # a quarter of what the service has
TEI, CLASSIFY = tei_predict_request(SEQUENCES), classify_request(SEQUENCES)
PREDICT = predict_request(SEQUENCES, TOKENS)


@pytest.fixture
async def client(fake: Fake) -> AsyncIterator[httpx.AsyncClient]:
    async with running(v2_app(fake, max_body_bytes=SIZE)) as client:
        yield client


def read(schema: Any, sent: bytes) -> None:
    check_bulk(sent, SEQUENCES, TOKENS)
    parse(schema, sent)


def peak(schema: Any, sent: bytes) -> int:
    """Bytes that reading it took; it may be refused."""
    tracemalloc.start()
    try:
        read(schema, sent)
    except InvalidContent:
        pass
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return most


PIECES = ["[[1]]", "[1]", "[]", "{}", "0", "1.5", "null", '""', '"a"', '{"a":1}', '"\\""', "[" * 100 + "]" * 100]
PLACES = {
    "data": (InferRequest, '{"inputs":[{"name":"token_ids","datatype":"INT64","shape":[9,9],"data":[%s]}]}'),
    "a row of data": (InferRequest, '{"inputs":[{"name":"token_ids","datatype":"INT64","shape":[9,9],"data":[[%s]]}]}'),
    "inputs": (InferRequest, '{"inputs":[%s]}'),
    "a shape": (InferRequest, '{"inputs":[{"name":"text","datatype":"BYTES","data":["a"],"shape":[%s]}]}'),
    "an unknown field": (InferRequest, '{"x":[%s]}'),
    "a batch of texts": (TEI, '{"inputs":[%s]}'),
    "a pair of texts": (TEI, '{"inputs":[[%s]]}'),
    "an unknown field beside texts": (TEI, '{"inputs":"a","x":[%s]}'),
    "rows of token ids": (PREDICT, '{"token_ids":[%s]}'),
    "a row of token ids": (PREDICT, '{"token_ids":[[%s]]}'),
    "lengths": (PREDICT, '{"lengths":[%s]}'),
    "a list of texts": (CLASSIFY, '{"texts":[%s]}'),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_never_needed_takes_no_memory(place: str) -> None:
    """No more objects are made of any body than of the largest one that is legitimate."""
    row = [1000] * TOKENS
    largest = peak(InferRequest, json.dumps(body(tokens(*[row] * SEQUENCES))).encode())
    assert largest > SEQUENCES * TOKENS * 8
    schema, frame = PLACES[place]
    for piece in PIECES:
        bomb = (frame % ",".join([piece] * (SIZE // (len(piece) + 1)))).encode()
        assert peak(schema, bomb) < largest + 3 * SIZE, piece  # the body, and copies of it
    fields = ",".join(f'"{number}":0' for number in range(SIZE // 10))
    assert peak(schema, (frame % f"{{{fields}}}").encode()) < largest + 3 * SIZE


@pytest.mark.parametrize(
    ("piece", "what"),
    [
        ('"a",', "strings"),
        ("[1],", "lists, objects and fields"),
        ("{},", "lists, objects and fields"),
        ("0,", "values"),
    ],
)
async def test_the_routes_say_what_is_too_much(client: httpx.AsyncClient, piece: str, what: str) -> None:
    sent = f'{{"inputs":[{(piece * 20_000)[:-1]}]}}'.encode()
    expected = f"{what}, more than 8 sequences (LSTMSERVE_MAX_SEQUENCES) of 32 tokens (LSTMSERVE_MAX_TOKENS) can need"
    assert expected in refused(await client.post(INFER, content=sent))
    reply = await client.post("/tei/predict", content=sent, headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.json()["error_type"]) == (413, "Validation")
    assert expected in reply.json()["error"]


@pytest.mark.parametrize("filling", ["[", "{:,", '"', "\\", '\\"', '\\\\"["', "é,"])
async def test_what_stands_in_a_text_is_not_counted(client: httpx.AsyncClient, filling: str) -> None:
    sent = json.dumps(body(text("good " + filling * 20_000)), ensure_ascii=False)
    said = await client.post(INFER, content=sent.encode())
    assert outputs(said) if said.status_code == 200 else "the text has" in refused(said)
    assert "can need" not in said.text


@given(st.lists(st.text(alphabet='\\"[]{}:,é ') | st.integers() | st.lists(st.booleans(), max_size=3), max_size=9))
def test_the_counts_are_exact(document: list[Any]) -> None:
    """At the limit it passes, with one list more it does not."""

    def sent(lists: int) -> bytes:
        return json.dumps([document, *[[]] * lists]).encode()

    own = 2 + sum(isinstance(each, list) for each in document)
    check_bulk(sent(SPARE + SEQUENCES - own), SEQUENCES, TOKENS)
    with pytest.raises(InvalidContent, match=f"has {SPARE + SEQUENCES + 1} lists"):
        check_bulk(sent(SPARE + SEQUENCES - own + 1), SEQUENCES, TOKENS)
