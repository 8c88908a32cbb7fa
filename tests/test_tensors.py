"""Tensors in JSON and in bytes: both ways, and every size that does not hold."""

import json
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidContent
from service.tensors import Tensor, classes, integers, join, pack, shares, split, texts, unpack

SIDES = st.tuples(st.integers(1, 5), st.integers(1, 5))


@given(SIDES, st.sampled_from(["INT32", "INT64"]), st.data())
def test_flat_nested_and_binary_integers_are_the_same(
    side: tuple[int, int], datatype: str, data: st.DataObject
) -> None:
    bits = int(datatype[3:])
    element = st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    flat = data.draw(st.lists(element, min_size=side[0] * side[1], max_size=side[0] * side[1]))
    nested = [flat[start : start + side[1]] for start in range(0, len(flat), side[1])]
    raw = struct.pack(f"<{len(flat)}{'i' if bits == 32 else 'q'}", *flat)
    assert integers("x", datatype, side, flat).tolist() == nested
    assert integers("x", datatype, side, list(nested)).tolist() == nested
    assert integers("x", datatype, side, memoryview(raw)).tolist() == nested
    assert integers("x", datatype, side[:1], flat[: side[0]]).tolist() == flat[: side[0]]


@given(st.lists(st.text(), min_size=1))
def test_flat_nested_and_binary_texts_are_the_same(elements: list[str]) -> None:
    raw = memoryview(pack(elements))
    assert texts("x", [len(elements)], raw) == elements
    assert texts("x", [len(elements), 1], raw) == elements
    assert texts("x", [len(elements)], list(elements)) == elements
    assert texts("x", [len(elements), 1], [[element] for element in elements]) == elements


def test_an_element_is_its_length_and_its_bytes() -> None:
    assert pack(["é", ""]) == b"\x02\0\0\0\xc3\xa9\0\0\0\0"


def one(length: int, content: bytes) -> memoryview:
    return memoryview(struct.pack("<I", length) + content)


HUGE = 2**53

REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "too few": (lambda: integers("x", "INT64", [2, 2], [1, 2, 3]), "input x: has 3 elements, its shape [2, 2] takes 4"),
    "too many": (lambda: integers("x", "INT64", [2], [1, 2, 3]), "input x: has 3 elements, its shape [2] takes 2"),
    "huge": (lambda: integers("x", "INT64", [HUGE, HUGE], [1]), f"input x: has 1 elements, its shape [{HUGE}, {HUGE}]"),
    "huge binary": (lambda: integers("x", "INT64", [HUGE, 4], memoryview(bytes(8))), "input x: has 8 bytes, INT64"),
    "wraps to nothing": (lambda: integers("x", "INT64", [HUGE, 2**11], memoryview(b"")), "input x: has 0 bytes, INT64"),
    "short binary": (
        lambda: integers("x", "INT64", [1], memoryview(bytes(7))),
        "input x: has 7 bytes, INT64 [1] takes 8",
    ),
    "long binary": (
        lambda: integers("x", "INT32", [1], memoryview(bytes(8))),
        "input x: has 8 bytes, INT32 [1] takes 4",
    ),
    "float": (lambda: integers("x", "INT64", [2], [1, 2.0]), "input x: must hold integers alone"),
    "boolean": (lambda: integers("x", "INT64", [2], [1, True]), "input x: must hold integers alone"),
    "null": (lambda: integers("x", "INT64", [2], [1, None]), "input x: must hold integers alone"),
    "deep": (lambda: integers("x", "INT64", [1, 1], [[[1]]]), "input x: must hold integers alone"),
    "nested for one dimension": (lambda: integers("x", "INT64", [1], [[1]]), "input x: must hold integers alone"),
    "ragged": (lambda: integers("x", "INT64", [2, 2], [[1, 2, 3], [4]]), "input x: is nested otherwise than its shape"),
    "half nested": (lambda: integers("x", "INT64", [2, 2], [[1, 2], 3, 4]), "input x: is nested otherwise"),
    "transposed": (lambda: integers("x", "INT64", [2, 1], [[1, 2]]), "input x: is nested otherwise than its shape"),
    "over INT32": (lambda: integers("x", "INT32", [1], [2**31]), "input x: holds an integer that INT32 does not"),
    "over INT64": (lambda: integers("x", "INT64", [1], [2**63]), "input x: holds an integer that INT64 does not"),
    "under INT64": (lambda: integers("x", "INT64", [1], [-(2**70)]), "input x: holds an integer that INT64 does not"),
    "no string": (lambda: texts("x", [2], ["a", 1]), "input x: must hold strings alone"),
    "texts too few": (lambda: texts("x", [2], ["a"]), "input x: has 1 elements, its shape [2] takes 2"),
    "huge texts": (
        lambda: texts("x", [HUGE], memoryview(bytes(8))),
        "input x: has 8 bytes, too few for the lengths of",
    ),
    "no length": (lambda: unpack("x", 1, memoryview(b"abc")), "input x: has 3 bytes, too few for the lengths of 1"),
    "element too long": (lambda: unpack("x", 1, one(4, b"abc")), "input x: element 0 goes beyond the end"),
    "element of 4 GiB": (lambda: unpack("x", 1, one(2**32 - 1, b"abc")), "input x: element 0 goes beyond the end"),
    "second length cut": (
        lambda: unpack("x", 2, memoryview(pack(["abcdef"]) + b"\0\0")),
        "input x: element 1 goes beyond the end of the tensor's 12 bytes",
    ),
    "more than the elements": (lambda: unpack("x", 1, memoryview(pack(["a", "b"]))), "input x: has 10 bytes, its 1"),
    "not UTF-8": (
        lambda: unpack("x", 1, one(2, b"a\xff")),
        "input x: element 0 is not UTF-8: invalid start byte at its",
    ),
    "header words": (lambda: split(b"{}", "two"), "header Inference-Header-Content-Length 'two' must be"),
    "header sign": (lambda: split(b"{}", "-1"), "header Inference-Header-Content-Length '-1' must be"),
    "header empty": (lambda: split(b"{}", ""), "header Inference-Header-Content-Length '' must be"),
    "header other digits": (lambda: split(b"{}", "²"), "header Inference-Header-Content-Length '²' must be"),
    "header long": (lambda: split(b"{}", "1" * 5000), "header Inference-Header-Content-Length '1111"),
    "header zero": (lambda: split(b"{}", "0"), "header Inference-Header-Content-Length '0' must be from 1 to the"),
    "header over the body": (lambda: split(b"{}", "3"), "header Inference-Header-Content-Length '3' must be from 1 to"),
    "data left": (lambda: shares([1, None], memoryview(b"ab")), "the inputs' binary_data_size add up to 1 bytes, the"),
    "data missing": (lambda: shares([1, 2], memoryview(b"ab")), "the inputs' binary_data_size add up to 3 bytes, the"),
    "data of nobody": (
        lambda: shares([None], memoryview(b"ab")),
        "the inputs' binary_data_size add up to 0 bytes, the",
    ),
    "sizes huge": (
        lambda: shares([HUGE, HUGE], memoryview(b"ab")),
        f"the inputs' binary_data_size add up to {2 * HUGE}",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_hold_is_refused(case: str) -> None:
    call, message = REFUSED[case]
    tracemalloc.start()
    with pytest.raises(InvalidContent) as refused:
        call()
    assert tracemalloc.get_traced_memory()[1] < 1 << 20, "memory was taken for what was only announced"
    tracemalloc.stop()
    assert refused.value.detail.startswith(message)
    assert len(refused.value.detail) < 300


@given(st.binary(max_size=40), st.integers(1, 4))
def test_any_bytes_are_texts_or_refused(raw: bytes, count: int) -> None:
    try:
        found = unpack("x", count, memoryview(raw))
    except InvalidContent:
        return
    assert len(found) == count
    assert pack(found) == raw


def test_the_parts_of_a_body() -> None:
    for body, length, header, raw in (
        (b"{}", None, b"{}", b""),
        (b"{}", "2", b"{}", b""),
        (b"{}abc", "2", b"{}", b"abc"),
    ):
        assert split(body, length) == (header, memoryview(raw))
    assert shares([], memoryview(b"")) == []
    assert shares([1, None, 0, 2], memoryview(b"abc")) == [b"a", None, b"", b"bc"]


def test_the_highest_classes() -> None:
    values = np.array([[1, 5, 10, 4], [2, 2, -1, 2]], np.float32)
    names = ["a", "b", "c", "d"]
    assert classes("x", values, 2, names) == Tensor(
        "x", (2, 2), ["10.000000:2:c", "5.000000:1:b", "2.000000:0:a", "2.000000:1:b"]
    )
    assert classes("x", values, 9, names).shape == (2, 4)
    assert classes("x", values[:, :1], 1, names) == Tensor("x", (2, 1), ["1.000000:0", "2.000000:0"])


def test_a_reply() -> None:
    numbers = Tensor("n", (1, 2), np.array([[0.5, -2]], np.float32))
    words = Tensor("w", (2,), ["yes", "no"])
    body, length = join({"id": "7"}, [(numbers, False), (words, False)])
    expected: dict[str, Any] = {
        "id": "7",
        "outputs": [
            {"name": "n", "datatype": "FP32", "shape": [1, 2], "data": [0.5, -2.0]},
            {"name": "w", "datatype": "BYTES", "shape": [2], "data": ["yes", "no"]},
        ],
    }
    assert (json.loads(body), length) == (expected, None)
    body, length = join({"id": "7"}, [(words, True), (numbers, True)])
    assert json.loads(body[:length])["outputs"] == [
        {"name": "w", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 13}},
        {"name": "n", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
    ]
    assert body[length:] == pack(["yes", "no"]) + struct.pack("<2f", 0.5, -2)
