"""What the Open Inference Protocol's routes refuse, each with a reason, and that nothing is ever their own error."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.tensors import pack
from tests.fake_engine import POISON, Fake, running, until
from tests.v2_requests import HEADER, INFER, body, lengths, refused, text, tokens, v2_app

pytestmark = pytest.mark.anyio

MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
async def client(fake: Fake) -> AsyncIterator[httpx.AsyncClient]:
    async with running(v2_app(fake, max_body_bytes=1 << 15)) as client:
        yield client


LONG = "good " * 17
MOST_DIGITS = 10**4299
"""The longest number that Python writes: a sum of ten such is one that it does not."""

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
    "negative shape": (
        body(tokens([1], shape=[-1, 1])),
        "#/inputs/0/shape/0: Input should be greater than or equal to 1",
    ),
    "empty shape": (body(tokens([1], shape=[1, 0])), "#/inputs/0/shape/1: Input should be greater than or equal to 1"),
    "huge shape": (body(tokens([1], shape=[2**53, 2**53])), f"input token_ids: has {2**53} rows, at most 8 are taken"),
    "huger shape": (
        body(tokens([1], shape=[8, MOST_DIGITS])),
        "#/inputs/0/shape/1: Input should be less than or equal",
    ),
    "huge bytes": (
        body({"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": MOST_DIGITS}}),
        "#/inputs/0/parameters/binary_data_size: Input should be less than or equal to 9007199254740992",
    ),
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
    "over the limit": (body(tokens([1] * 33)), "input token_ids: has rows of 33 token ids, at most 32 are taken (LSTM"),
    "too many rows": (body(tokens(*[[1]] * 9)), "input token_ids: has 9 rows, at most 8 are taken (LSTMSERVE_MAX_SEQ"),
    "too many texts": (body(text(*["good"] * 9)), "input text: has 9 rows, at most 8 are taken (LSTMSERVE_MAX_SEQUENC"),
    "a pad inside": (body(tokens([1, 0, 1])), "input token_ids[0, 1]: is the pad id 0 inside a sequence"),
    "only pads": (body(tokens([1], [0])), "input token_ids[1]: holds only the pad id 0"),
    "two flaws": (body(tokens([1, 0, 1], [40, 1, 1])), "input token_ids[0, 1]: is the pad id 0 inside a sequence"),
    "over the model's length by lengths": (
        body(tokens([1] + [0] * 16, [0] * 17), lengths(1, 17)),
        "input token_ids[1]: has 17 tokens, the model takes at most 16",
    ),
    "beyond a later length": (
        body(tokens([1, 0], [1, 2]), lengths(1, 1)),
        "input token_ids[1, 1]: is beyond the row's length of 1",
    ),
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
        "#/inputs/0/parameters/shared_memory_region: shared memory is not supported: send the tensors' data",
    ),
    "shared memory out": (
        body(tokens([1]), outputs=[{"name": "logits", "parameters": {"shared_memory_region": "r"}}]),
        "#/outputs/0/parameters/shared_memory_region: shared memory is not supported: send the tensors' data",
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
    assert "LSTMSERVE_MAX_BODY_BYTES" in refused(await client.post(INFER, content=b" " * (1 << 15) + b"{}"), 413)
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
        assert "/docs" not in said
    for path in ("none/config", "none/trace/setting", "none/versions/1/config"):
        assert "there are: tiny, odd" in refused(await client.get(f"/v2/models/{path}"), 404)
    assert "does not serve" in refused(await client.get("/v2/models/tiny/versions/2/config"), 404)


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


JSONS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([MOST_DIGITS, -MOST_DIGITS])
    | st.floats()
    | st.text(max_size=5),
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


LARGEST = st.sampled_from([MOST_DIGITS, 9 * MOST_DIGITS])
SIZES = st.tuples(st.integers(0, 40) | LARGEST, st.integers(0, 40) | LARGEST)


@MANY
@given(st.binary(max_size=40), SIZES, st.lists(st.integers(-2, 2**63) | LARGEST, min_size=1, max_size=2))
async def test_any_bytes_are_never_the_services_error(
    client: httpx.AsyncClient, raw: bytes, sizes: tuple[int, int], shape: list[int]
) -> None:
    def sent(name: str, datatype: str, size: int) -> dict[str, Any]:
        return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}

    alone = [("token_ids", "INT64"), ("token_ids", "INT32"), ("text", "BYTES")]
    both = [
        {**sent("token_ids", "INT64", sizes[0]), "shape": [*shape, *shape][:2]},
        {**sent("lengths", "INT32", sizes[1]), "shape": shape[:1]},
    ]
    for inputs in [*([sent(name, datatype, sizes[0])] for name, datatype in alone), both]:
        header = json.dumps(body(*inputs)).encode()
        reply = await client.post(INFER, content=header + raw, headers={HEADER: str(len(header))})
        if reply.status_code != 200:
            assert refused(reply, 400)
