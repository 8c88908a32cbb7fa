"""Texts made by Hypothesis, and bodies that are none: each text has its own ending, and the right one."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from tests.fake_engine import POISON, Fake, refused, right
from tests.fuzzing import SCALE, SEED, examples
from tests.fuzzing_client import Asked, asked, raw
from tests.fuzzing_tokens import MOST_LENGTH, MOST_SEQUENCES, odd_values
from tests.v2_requests import TOKENIZER, v2_app

BODY_BYTES = 1 << 16


@pytest.fixture(scope="module")
def service() -> Iterator[Asked]:
    fake = Fake()
    with asked(v2_app(fake, max_body_bytes=BODY_BYTES, queue_tokens=1 << 16)) as service:
        yield service
        if SCALE > 1:
            print(f"FUZZ_SEED={SEED}")
    assert fake.closed


texts = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(["good", "film", "bad", "not", "zzz", "GOOD", "\u2019", "<br />", "\0", "\u202e", "."])
    ).map(" ".join),
    st.sampled_from(["good " * 17, "good " * 33, "\U0001f600" * 200, "a" * 5000, "\ufdfa" * 300, "e\u0301" * 99]),
)


def read(text: str, truncate: str | None) -> list[int] | str:
    """The token ids that are read of a text, or why none are."""
    (ids,) = TOKENIZER.encode([text])
    if not ids:
        return "empty"
    if len(ids) > MOST_LENGTH:
        if truncate is None:
            return "too_long"
        ids = ids[:MOST_LENGTH] if truncate == "head" else ids[-MOST_LENGTH:]
    return "unknown_only" if set(ids) == {1} else ids


@seed(SEED)
@examples(1000)
@given(st.lists(texts, min_size=1, max_size=MOST_SEQUENCES), st.sampled_from([None, "head", "tail"]))
def test_classify(service: Asked, several: list[str], truncate: str | None) -> None:
    reply = service.post("/classify", {"texts": several, "truncate": truncate})
    found = [read(text, truncate) for text in several]
    if any(POISON in ids for ids in found if isinstance(ids, list)):
        assert reply.status_code == 500
        return
    assert reply.status_code == 200, reply.text
    for ids, result in zip(found, reply.json()["results"], strict=True):
        if isinstance(ids, str):
            assert result["error"]["code"] == ids
            assert ids != "too_long" or str(MOST_LENGTH) in result["error"]["detail"]
        else:
            assert result["logits"] == right(ids)
            assert result["kept_tokens"] == len(ids)
            assert result["unknown_tokens"] == ids.count(1)


@st.composite
def text_bodies(draw: st.DrawFn) -> tuple[bytes, bool]:
    """Bodies of ``POST /classify`` in which something is odd, and whether they are right."""
    text = draw(texts)
    good: list[Any] = [text] * draw(st.integers(1, 3))
    match draw(st.integers(0, 9)):
        case 0:
            lone = draw(st.sampled_from([b"\\ud800", b"\\udfff", b"\\ud800\\ud800", b"\\ud83d x", b"\\uD83D\\u0041"]))
            return b'{"texts": ["good ' + lone + b'"]}', False
        case 1:
            return b'{"texts": ["' + draw(
                st.sampled_from([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\n", b"\0"])
            ) + b'"]}', False
        case 2:
            return b'{"texts": ["good\\u0000\\ud83d\\ude00"], "texts": ["good film"]}', True
        case 3:
            return raw({"texts": draw(odd_values)}), False
        case 4:
            return raw({"texts": [*good, draw(odd_values.filter(lambda value: not isinstance(value, str)))]}), False
        case 5:
            return raw({"texts": good, draw(st.text(min_size=1, max_size=80)): 1}), False
        case 6:
            return raw({"texts": good * 9}), len(good * 9) <= MOST_SEQUENCES
        case 7:
            depth = draw(st.sampled_from([3, 199, 5000]))
            return b'{"texts": ' + b"[" * depth + b'"good"' + b"]" * depth + b"}", False
        case 8:
            field, value = draw(
                st.sampled_from([("truncate", "middle"), ("truncate", 1), ("explain", 1), ("explain", None)])
            )
            return raw({"texts": good, field: value}), False
        case _:
            return raw({"texts": ["good " * 20_000]}), False


@seed(SEED)
@examples(1000)
@given(text_bodies())
def test_bodies_of_texts(service: Asked, case: tuple[bytes, bool]) -> None:
    body, holds = case
    reply = service.post("/classify", body)
    if holds:
        assert reply.status_code == 200, reply.text
    elif len(body) > BODY_BYTES:
        assert str(BODY_BYTES) in refused(reply, 413).detail
    else:
        assert reply.status_code in (400, 422), reply.text
        problem = refused(reply, reply.status_code)
        assert reply.status_code == 400 or problem.errors or "LSTMSERVE_MAX_SEQUENCES" in problem.detail


@st.composite
def tei_bodies(draw: st.DrawFn) -> tuple[dict[str, Any], list[str] | None]:
    """Bodies of ``POST /tei/predict``, and the texts that they hold where they are right."""
    several = draw(st.lists(texts, min_size=1, max_size=MOST_SEQUENCES + 1))
    document: dict[str, Any] = {"raw_scores": True, "truncate": draw(st.booleans())}
    if document["truncate"]:
        document["truncation_direction"] = draw(st.sampled_from(["Left", "right", "Right", "left"]))
    held: list[str] | None = several
    match draw(st.integers(0, 7)):
        case 0:
            document["inputs"], held = several[0], several[:1]
        case 1:
            document["inputs"], held = several[:1], several[:1]
        case 2:
            document["inputs"], held = several * 2, None
        case 3:
            document["inputs"], held = draw(odd_values.filter(lambda value: not isinstance(value, str))), None
        case 4:
            document["inputs"], held = [[text, text] for text in several], None
        case 5:
            document["inputs"], held = [[text] for text in several] + [draw(odd_values)], None
        case _:
            document["inputs"] = [[text] for text in several]
    if held and len(held) > MOST_SEQUENCES:
        held = None
    return document, held


@seed(SEED)
@examples(1000)
@given(tei_bodies())
def test_tei(service: Asked, case: tuple[dict[str, Any], list[str] | None]) -> None:
    document, held = case
    reply = service.post("/tei/predict", document)
    direction = document.get("truncation_direction", "").lower()
    truncate = {"left": "tail", "right": "head"}.get(direction)
    found = [read(text, truncate) for text in held or []]
    if held is None or any(isinstance(each, str) for each in found):
        assert reply.status_code in (400, 413), reply.text
        assert reply.headers["content-type"] == "application/json"
        assert reply.json().keys() == {"error", "error_type"}
        assert reply.json()["error_type"] == "Validation"
        assert reply.status_code == 400 or reply.json()["error"].startswith("#/inputs")
        return
    if any(POISON in ids for ids in found):
        assert reply.status_code == 424
        return
    assert reply.status_code == 200, reply.text
    replies = [reply.json()] if not isinstance(reply.json()[0], list) else reply.json()
    for ids, told in zip(found, replies, strict=True):
        assert isinstance(ids, list)
        assert {each["label"]: each["score"] for each in told} == dict(
            zip(("negative", "positive"), right(ids), strict=True)
        )


def test_so_many_cases_were_asked(service: Asked) -> None:
    assert service.statuses.total() >= 3000 * SCALE
    assert service.statuses[200] >= 1000 * SCALE
    assert service.statuses[400] + service.statuses[413] + service.statuses[422] >= 500 * SCALE
