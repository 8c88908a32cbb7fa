"""Token batches made by Hypothesis: taken where a plain reference takes them, with right answers and true errors."""

import json
import re
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from tests.fake_engine import LIMITS, POISON, Fake, refused, right
from tests.fuzzing import SCALE, SEED, examples
from tests.fuzzing_client import Asked, asked, raw
from tests.fuzzing_tokens import (
    MOST_SEQUENCES,
    MOST_TOKENS,
    PAD,
    VOCABULARY,
    Wrong,
    batches,
    documents,
    without_pads,
    wrong_document,
    wrong_rows,
)
from tests.v2_requests import HEADER, INFER, outputs, v2_app
from tests.v2_requests import refused as v2_refused

BODY_BYTES = 1 << 16


@pytest.fixture(scope="module")
def service() -> Iterator[Asked]:
    fake = Fake()
    with asked(v2_app(fake, max_body_bytes=BODY_BYTES, queue_tokens=1 << 16)) as service:
        yield service
        if SCALE > 1:
            print(f"FUZZ_SEED={SEED}")
    assert fake.closed


def answered(reply: httpx.Response, sequences: list[list[int]]) -> list[list[float]] | None:
    """The logits that are right; None where the fake engine is to fail, and did."""
    if any(POISON in sequence for sequence in sequences):
        assert reply.status_code == 500, reply.text
        return None
    assert reply.status_code == 200, reply.text
    return [right(sequence) for sequence in sequences]


def is_true(reply: httpx.Response, wrong: list[Wrong]) -> None:
    """The refusal lists nothing but what is wrong, and names the limit of each."""
    problem = refused(reply, 422)
    assert problem.errors
    assert problem.error_count
    assert len(problem.errors) == min(20, problem.error_count)
    assert problem.detail == f"{problem.errors[0].pointer}: {problem.errors[0].detail}"
    for error in problem.errors:
        names = [each.names for each in wrong if each.pointer in (error.pointer, "*")]
        assert any(name in error.detail for name in names), (error, wrong)


def plain(document: Any) -> bool:
    """Whether JSON can say it: surrogates alone and numbers that are none it cannot."""
    text = json.dumps(document)
    return not re.search(r"\\ud[89a-f]|NaN|Infinity", text)


@seed(SEED)
@examples(1500)
@given(documents())
def test_predict(service: Asked, document: Any) -> None:
    reply = service.post("/predict", document)
    wrong = wrong_document(document)
    if wrong and not plain(document) and reply.status_code == 400:
        refused(reply, 400)
    elif wrong:
        is_true(reply, wrong)
    else:
        logits = answered(reply, without_pads(document["token_ids"], document.get("lengths")))
        assert logits is None or reply.json()["logits"] == logits


NEVER_RIGHT: dict[str, list[Any]] = {
    "name": ["", "x", None, 1, ["token_ids"], "TOKEN_IDS", "\ud800"],
    "datatype": ["FP32", "BYTES", "int64", "", None, 64],
    "shape": [[], [0], [-1, 1], [1.5, 1], [True, 1], [2**53, 2**53], [2**64, 1], [1, 1, 1], "1", None, 1],
    "data": ["x", {}, [None], ["1"], [[[1]]], [1.0], [True], [1e999], [10**300]],
}
"""What no input can have."""


@st.composite
def infer_requests(draw: st.DrawFn) -> tuple[bytes, dict[str, str], list[list[int]] | None, list[int] | None]:
    """A body, its headers, and the rows and lengths that it holds; rows are None where it does not hold together."""
    rows, lengths = draw(batches())
    document: dict[str, Any] = {"inputs": []}
    tail, whole = b"", True
    values: list[tuple[str, list[Any], list[int]]] = [
        ("token_ids", [token for row in rows for token in row], [len(rows), len(rows[0]) if rows else 0])
    ]
    if lengths is not None:
        values.append(("lengths", lengths, [len(lengths), 1] if draw(st.booleans()) else [len(lengths)]))
    for name, flat, shape in values:
        datatype = draw(st.sampled_from(["INT64", "INT64", "INT32"]))
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        whole &= all(type(value) is int for value in flat)
        whole &= name == "lengths" or (len({*map(len, rows)}) == 1 and shape[1] > 0)
        whole &= len(flat) > 0
        if draw(st.booleans()) and whole and all(-(2**31) <= value < 2**31 for value in flat):
            packed = struct.pack(f"<{len(flat)}{'q' if datatype == 'INT64' else 'i'}", *flat)
            cut = draw(st.sampled_from([0, 0, 0, 0, 1, 4]))
            whole &= cut == 0
            packed = packed[: len(packed) - cut]
            tensor["parameters"] = {"binary_data_size": len(packed)}
            tail += packed
        else:
            bits = 63 if datatype == "INT64" else 31
            whole &= all(type(value) is int and -(2**bits) <= value < 2**bits for value in flat)
            nested = len(shape) == 2 and draw(st.booleans())
            tensor["data"] = (rows if name == "token_ids" else [[value] for value in flat]) if nested else flat
        if draw(st.integers(0, 9)) == 0:
            key = draw(st.sampled_from(list(NEVER_RIGHT)))
            tensor[key] = draw(st.sampled_from(NEVER_RIGHT[key]))
            whole = False
        document["inputs"].append(tensor)
    if draw(st.booleans()):
        document["inputs"].reverse()
        tail = tail if sum("parameters" in tensor for tensor in document["inputs"]) < 2 else b""
        whole &= bool(tail) or not any("parameters" in tensor for tensor in document["inputs"])
    head = raw(document)
    headers = {HEADER: str(len(head))} if tail or draw(st.booleans()) else {}
    if headers and draw(st.integers(0, 9)) == 0:
        headers[HEADER] = draw(st.sampled_from(["-1", "0", "x", "1e3", str(len(head) - 1), "9" * 30, ""]))
        whole = False
    return head + tail, headers, rows if whole else None, lengths


@seed(SEED)
@examples(1500)
@given(infer_requests())
def test_infer(
    service: Asked, request_: tuple[bytes, dict[str, str], list[list[int]] | None, list[int] | None]
) -> None:
    body, headers, rows, lengths = request_
    reply = service.post(INFER, body, headers)
    within = (
        rows is not None
        and len(rows) <= MOST_SEQUENCES
        and len(rows[0]) <= MOST_TOKENS
        and all(token >= 0 for row in rows for token in row)
        and all(length >= 1 for length in lengths or [])
    )
    if rows is None or not within or wrong_rows(rows, lengths):
        told = v2_refused(reply)
        assert re.search(r"token_ids|lengths|inputs|header|JSON", told), told
        return
    logits = answered(reply, without_pads(rows, lengths))
    assert logits is None or outputs(reply)["logits"] == [value for row in logits for value in row]


@seed(SEED)
@examples(500)
@given(st.binary(max_size=200), st.sampled_from(["/predict", "/classify", INFER, "/tei", "/models/odd/predict"]))
def test_bytes_that_are_no_json(service: Asked, body: bytes, path: str) -> None:
    reply = service.post(path, body)
    assert reply.status_code in (400, 413, 422), reply.text
    assert reply.status_code != 413 or path == "/tei"


def test_so_many_cases_were_asked(service: Asked) -> None:
    assert (VOCABULARY, PAD) == (40, 0)
    assert service.statuses.total() >= 3500 * SCALE
    assert service.statuses[200] >= 800 * SCALE
    assert service.statuses[400] + service.statuses[413] + service.statuses[422] >= 1000 * SCALE
    assert LIMITS["max_sequences"] == MOST_SEQUENCES
