"""The rules of a token batch, by the parser alone: what each refusal names, and that nothing else is refused."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidContent, NotJSON
from service.schemas.predict import Vocabulary, predict_request
from service.schemas.shared import Problem, parse

SCHEMA = predict_request(max_sequences=4, max_tokens=8)
VOCABULARY = Vocabulary(size=10, pad_id=0, max_length=6)


def refusal(body: object, vocabulary: Vocabulary = VOCABULARY) -> InvalidContent:
    with pytest.raises(InvalidContent) as caught:
        parse(SCHEMA, json.dumps(body).encode(), vocabulary)
    return caught.value


def pointers(body: object) -> list[str]:
    return [error.pointer for error in refusal(body).errors]


ROW = "#/token_ids/0"
REFUSED: dict[str, tuple[object, str, str]] = {
    "not an object": ([[1]], "#", "object"),
    "no token_ids": ({"lengths": [1]}, "#/token_ids", "is missing; the fields are"),
    "null as batch": ({"token_ids": None}, "#/token_ids", "must be a list, as token_ids in [[1,"),
    "string as batch": ({"token_ids": "1"}, "#/token_ids", "must be a list, as token_ids in [[1,"),
    "object as batch": ({"token_ids": {"0": [1]}}, "#/token_ids", "must be a list, as token_ids in [[1,"),
    "number as row": ({"token_ids": [1]}, ROW, "must be a row of token ids"),
    "null as row": ({"token_ids": [None]}, ROW, "must be a row of token ids"),
    "string as row": ({"token_ids": ["1"]}, ROW, "must be a row of token ids"),
    "bool as row": ({"token_ids": [True]}, ROW, "must be a row of token ids"),
    "float as token": ({"token_ids": [[1, 2.5]]}, ROW + "/1", "not a float"),
    "whole float as token": ({"token_ids": [[2.0]]}, ROW + "/0", "not a float"),
    "string as token": ({"token_ids": [["2"]]}, ROW + "/0", "string"),
    "bool as token": ({"token_ids": [[True]]}, ROW + "/0", "boolean"),
    "null as token": ({"token_ids": [[None]]}, ROW + "/0", "null"),
    "array as token": ({"token_ids": [[[1]]]}, ROW + "/0", "integer"),
    "negative token": ({"token_ids": [[1], [-1]]}, "#/token_ids/1/0", "greater than or equal to 0"),
    "token at the vocabulary's size": ({"token_ids": [[1, 10]]}, ROW + "/1", "vocabulary of 10"),
    "token beyond 64 bits": ({"token_ids": [[10**30]]}, ROW + "/0", "vocabulary of 10"),
    "negative token beyond 64 bits": ({"token_ids": [[-(10**30)]]}, ROW + "/0", "greater than or equal to 0"),
    "ragged rows": ({"token_ids": [[1, 2], [1]]}, "#/token_ids/1", "row 0 has 2"),
    "empty batch": ({"token_ids": []}, "#/token_ids", "is empty: send at least one entry"),
    "empty row": ({"token_ids": [[]]}, ROW, "is empty: send at least one token id"),
    "too many rows": ({"token_ids": [[1]] * 5}, "#/token_ids", "at most 4 are taken (LSTMSERVE_MAX_SEQUENCES)"),
    "too wide": ({"token_ids": [[1] * 9]}, ROW, "at most 8 are taken (LSTMSERVE_MAX_TOKENS)"),
    "over the model's length": ({"token_ids": [[1] * 7]}, ROW, "at most 6"),
    "over the model's length, by lengths": ({"token_ids": [[1] * 7], "lengths": [7]}, ROW, "at most 6"),
    "only pads": ({"token_ids": [[1, 0], [0, 0]]}, "#/token_ids/1", "only the pad id 0"),
    "pad inside": ({"token_ids": [[1, 0, 2]]}, ROW + "/1", "pad id 0 inside"),
    "pad first": ({"token_ids": [[0, 2]]}, ROW + "/0", "pad id 0 inside"),
    "length 0": ({"token_ids": [[1, 0]], "lengths": [0]}, "#/lengths/0", "greater than or equal to 1"),
    "length negative": ({"token_ids": [[1, 0]], "lengths": [-1]}, "#/lengths/0", "greater than or equal to 1"),
    "length over the width": ({"token_ids": [[1, 0]], "lengths": [3]}, "#/lengths/0", "width of 2"),
    "length beyond 64 bits": ({"token_ids": [[1]], "lengths": [10**30]}, "#/lengths/0", "less than or equal to 8"),
    "float as length": ({"token_ids": [[1]], "lengths": [1.0]}, "#/lengths/0", "not a float"),
    "string as length": ({"token_ids": [[1]], "lengths": ["1"]}, "#/lengths/0", "string"),
    "bool as length": ({"token_ids": [[1]], "lengths": [True]}, "#/lengths/0", "boolean"),
    "null as length": ({"token_ids": [[1]], "lengths": [None]}, "#/lengths/0", "null"),
    "number as lengths": ({"token_ids": [[1]], "lengths": 1}, "#/lengths", "lengths in [3, 2]"),
    "empty lengths": ({"token_ids": [[1]], "lengths": []}, "#/lengths", "is empty: send at least one entry"),
    "too few lengths": ({"token_ids": [[1], [2]], "lengths": [1]}, "#/lengths", "1 entries for 2 rows"),
    "too many lengths": ({"token_ids": [[1]], "lengths": [1, 1]}, "#/lengths", "2 entries for 1 rows"),
    "token beyond the length": ({"token_ids": [[1, 0, 2]], "lengths": [1]}, ROW + "/2", "beyond the row's length of 1"),
    "unknown field": ({"token_ids": [[1]], "tokens": [[1]]}, "#/tokens", "known: token_ids, lengths"),
    "unknown field, escaped": ({"token_ids": [[1]], "a/b~c d": 1}, "#/a~1b~0c%20d", "1 unknown fields"),
    "unknown field without a name": ({"token_ids": [[1]], "": 1}, "#/", "1 unknown fields"),
}


@pytest.mark.parametrize("rule", REFUSED)
def test_each_rule_names_its_field(rule: str) -> None:
    body, pointer, reason = REFUSED[rule]
    error = refusal(body)
    assert error.count == 1
    assert len(error.errors) == 1
    assert error.errors[0].pointer == pointer
    assert reason in error.errors[0].detail
    assert error.detail == f"{pointer}: {error.errors[0].detail}"


@pytest.mark.parametrize(
    ("body", "pad_id", "sequences"),
    [
        ({"token_ids": [[1]]}, 0, [[1]]),
        ({"token_ids": [[9, 8], [7, 0]]}, 0, [[9, 8], [7]]),
        ({"token_ids": [[1] * 6 + [0, 0]]}, 0, [[1] * 6]),  # the model's limit is of tokens, not of the width
        ({"token_ids": [[1, 0, 2, 0]], "lengths": [3]}, 0, [[1, 0, 2]]),
        ({"token_ids": [[1, 0, 0, 0]], "lengths": [2]}, 0, [[1, 0]]),
        ({"token_ids": [[0, 0]], "lengths": [1]}, 0, [[0]]),
        ({"token_ids": [[1, 2], [3, 0]], "lengths": None}, 0, [[1, 2], [3]]),
        ({"token_ids": [[0, 3], [3, 3]], "lengths": [1, 2]}, 3, [[0], [3, 3]]),
        ({"token_ids": [[0, 3], [0, 0]]}, 3, [[0], [0, 0]]),
        ({"token_ids": [[1] * 6] * 4}, 0, [[1] * 6] * 4),
    ],
)
def test_what_is_right_is_accepted(body: object, pad_id: int, sequences: list[list[int]]) -> None:
    batch = parse(SCHEMA, json.dumps(body).encode(), VOCABULARY._replace(pad_id=pad_id))
    assert batch.sequences() == sequences


def test_several_faults_are_all_told() -> None:
    assert pointers({"token_ids": [[1, 2], [10]], "lengths": [2, 1]}) == ["#/token_ids/1", "#/token_ids/1/0"]
    assert pointers({"token_ids": [[1.5, 2.5], ["x"]], "lengths": [0, True]}) == [
        "#/token_ids/0/0",  # a row counts its first one
        "#/token_ids/1/0",
        "#/lengths/0",
        "#/lengths/1",
    ]


def test_at_most_twenty_are_listed_and_all_counted() -> None:
    schema = predict_request(max_sequences=100, max_tokens=8)
    with pytest.raises(InvalidContent) as caught:
        parse(schema, json.dumps({"token_ids": [[-1]] * 33}).encode(), VOCABULARY)
    assert [error.pointer for error in caught.value.errors] == [f"#/token_ids/{n}/0" for n in range(20)]
    assert caught.value.count == 33
    with pytest.raises(InvalidContent) as caught:
        parse(schema, json.dumps({"token_ids": [[99]] * 33}).encode(), VOCABULARY)
    assert (len(caught.value.errors), caught.value.count) == (20, 33)


def test_a_long_field_name_is_not_repeated_whole() -> None:
    assert len(refusal({"token_ids": [[1]], "x" * 100_000: 1}).detail) < 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"token_ids",
        b"{'token_ids': [[1]]}",
        b'{"token_ids": [[1]]} {}',
        b'{"token_ids": [[1],]}',
        b'{"token_ids": [[01]]}',
        b'{"token_ids": [["\xff"]]}',
        b"\xef\xbb\xbf{}",
        b'{"\\ud800": 1}',
        b"[" * 100_000,
        b'{"token_ids": [[' + b"9" * 5000 + b"]]}",  # Python's limit of digits
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_not_json(body: bytes) -> None:
    with pytest.raises(NotJSON, match=r"the body is not JSON that can be read: .* at line 1 column"):
        parse(SCHEMA, body, VOCABULARY)


def plain_rules(body: dict[str, Any], vocabulary: Vocabulary) -> bool:
    """Whether a batch of integers keeps every rule, said the long way round."""
    rows, lengths = body["token_ids"], body.get("lengths")
    if not rows or len(rows) > 4 or any(len(row) != len(rows[0]) or not 1 <= len(row) <= 8 for row in rows):
        return False
    if any(not 0 <= token < vocabulary.size for row in rows for token in row):
        return False
    if lengths is None:
        kept = [" ".join(map(str, row)).split() for row in rows]
        for row in kept:
            while row and row[-1] == str(vocabulary.pad_id):
                row.pop()
        return all(row and str(vocabulary.pad_id) not in row and len(row) <= vocabulary.max_length for row in kept)
    if len(lengths) != len(rows):
        return False
    return all(
        1 <= length <= min(len(row), vocabulary.max_length) and set(row[length:]) <= {vocabulary.pad_id}
        for row, length in zip(rows, lengths, strict=True)
    )


@st.composite
def nearly_right(draw: st.DrawFn) -> dict[str, Any]:
    """Batches of integers that keep most of the rules."""
    width = draw(st.integers(1, 9))
    token = st.sampled_from([0, 0, 1, 3, 3, 5, 9, 9, 10, -1])
    rows = draw(st.lists(st.lists(token, min_size=width, max_size=width), min_size=0, max_size=5))
    if rows and draw(st.integers(0, 5)) == 0:
        rows[-1] = rows[-1][:-1]
    body: dict[str, Any] = {"token_ids": rows}
    if draw(st.booleans()):
        body["lengths"] = [draw(st.integers(max(0, width - 2), width)) for _ in rows]
    return body


@given(nearly_right(), st.sampled_from([0, 3]))
def test_exactly_the_rules_decide(body: dict[str, Any], pad_id: int) -> None:
    vocabulary = VOCABULARY._replace(pad_id=pad_id)
    if plain_rules(body, vocabulary):
        parse(SCHEMA, json.dumps(body).encode(), vocabulary)
    else:
        error = refusal(body, vocabulary)
        assert error.count >= len(error.errors) >= 1


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=4), st.integers(0, 2))
def test_padding_is_taken_off_again(sequences: list[list[int]], more: int) -> None:
    width = max(map(len, sequences)) + more
    rows: Sequence[list[int]] = [row + [0] * (width - len(row)) for row in sequences]
    for body in ({"token_ids": rows}, {"token_ids": rows, "lengths": [len(row) for row in sequences]}):
        assert parse(SCHEMA, json.dumps(body).encode(), VOCABULARY).sequences() == sequences


def test_the_documented_schema_has_the_limits() -> None:
    fields = SCHEMA.model_json_schema()["properties"]
    assert (fields["token_ids"]["minItems"], fields["token_ids"]["maxItems"]) == (1, 4)
    row = fields["token_ids"]["items"]
    assert (row["minItems"], row["maxItems"], row["items"]) == (1, 8, {"type": "integer", "minimum": 0})
    assert Problem.model_json_schema()["properties"]["errors"]["anyOf"][0]["maxItems"] == 20
