"""Tensors of the Open Inference Protocol V2, in JSON and in the binary tensor extension, to Python and back.

Numbers are little-endian and row-major; an element of BYTES is its length in four bytes, then its bytes. Dimensions and
sizes are such as the schemas take; each is held against the bytes that are there before memory is taken for it. What is
wrong raises InvalidContent, naming the tensor.
"""

import itertools
import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic_core import to_json

from service.errors import InvalidContent

INTEGERS: dict[str, np.dtype[np.signedinteger[Any]]] = {"INT32": np.dtype("<i4"), "INT64": np.dtype("<i8")}

MAX_ECHO = 64
"""Characters of a header that an error repeats."""

Integers = npt.NDArray[np.signedinteger[Any]]
Floats = npt.NDArray[np.float32]


class Tensor(NamedTuple):
    """One output, ``[rows, columns]`` or ``[rows]``: FP32 where its values are numbers, BYTES where they are texts."""

    name: str
    shape: tuple[int, ...]
    values: Floats | list[str]

    @property
    def datatype(self) -> str:
        return "BYTES" if isinstance(self.values, list) else "FP32"

    def flat(self) -> list[Any]:
        """The elements, row-major."""
        return self.values if isinstance(self.values, list) else self.values.ravel().tolist()

    def packed(self) -> bytes:
        """The same as bytes."""
        return pack(self.values) if isinstance(self.values, list) else self.values.astype("<f4").tobytes()


def split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """The JSON of a body and the binary data after it, by the header Inference-Header-Content-Length."""
    if header_length is None:
        return body, memoryview(b"")
    if not (header_length.isascii() and header_length.isdecimal() and len(header_length) < 19):
        raise _wrong_header(header_length, "must be the bytes of the JSON, a decimal number")
    length = int(header_length)
    if not 0 < length <= len(body):
        raise _wrong_header(header_length, f"must be from 1 to the body's {len(body)} bytes: the JSON comes first")
    return body[:length], memoryview(body)[length:]


def shares(sizes: Iterable[int | None], raw: memoryview) -> list[memoryview | None]:
    """What each input has of the binary data, in their order; None where it has none."""
    sizes = list(sizes)
    if (total := sum(size or 0 for size in sizes)) != len(raw):
        raise InvalidContent(
            f"the inputs' binary_data_size add up to {total} bytes, the body holds {len(raw)} after "
            "its JSON: Inference-Header-Content-Length says where that ends"
        )
    ends = itertools.accumulate(size or 0 for size in sizes)
    return [None if size is None else raw[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def integers(name: str, datatype: str, shape: Sequence[int], data: list[Any] | memoryview) -> Integers:
    """An INT32 or INT64 tensor of that shape."""
    dtype, count = INTEGERS[datatype], math.prod(shape)
    if isinstance(data, memoryview):
        if len(data) != count * dtype.itemsize:
            raise _wrong(name, f"has {len(data)} bytes, {datatype} {list(shape)} takes {count * dtype.itemsize}")
        return np.frombuffer(data, dtype).reshape(shape)
    flat = _flat(name, shape, count, data)
    if set(map(type, flat)) != {int}:
        raise _wrong(name, f"must hold integers alone, as its datatype {datatype} says")
    try:
        values = np.array(flat, np.int64)
        if (values.astype(dtype) != values).any():
            raise OverflowError
    except OverflowError as error:
        raise _wrong(name, f"holds an integer that {datatype} does not") from error
    return values.reshape(shape)


def texts(name: str, shape: Sequence[int], data: list[Any] | memoryview) -> list[str]:
    """The elements of a BYTES tensor of that shape, which are UTF-8."""
    count = math.prod(shape)
    if isinstance(data, memoryview):
        return unpack(name, count, data)
    flat = _flat(name, shape, count, data)
    if set(map(type, flat)) != {str}:
        raise _wrong(name, "must hold strings alone, as its datatype BYTES says")
    return flat


def pack(elements: Iterable[str]) -> bytes:
    """The elements of a BYTES tensor as its binary data."""
    encoded = [element.encode() for element in elements]
    return b"".join(part for element in encoded for part in (struct.pack("<I", len(element)), element))


def unpack(name: str, count: int, raw: memoryview) -> list[str]:
    """The `count` elements of a BYTES tensor's binary data."""
    if 4 * count > len(raw):
        raise _wrong(name, f"has {len(raw)} bytes, too few for the lengths of {count} elements")
    elements, start = [], 0
    for number in range(count):
        left = len(raw) - start - 4
        length = struct.unpack_from("<I", raw, start)[0] if left >= 0 else 0
        if length > left:
            raise _wrong(name, f"element {number} goes beyond the end of the tensor's {len(raw)} bytes")
        start += 4 + length
        try:
            elements.append(str(raw[start - length : start], "utf-8"))
        except UnicodeDecodeError as error:
            raise _wrong(name, f"element {number} is not UTF-8: {error.reason} at its byte {error.start}") from error
    if start != len(raw):
        raise _wrong(name, f"has {len(raw)} bytes, its {count} elements take {start}")
    return elements


def classes(name: str, values: Floats, count: int, labels: Sequence[str]) -> Tensor:
    """The `count` highest of each row ``[rows, columns]``, as ``value:index:label``; all where there are fewer.

    The label is left out where there is not one a column. As the classification extension of Triton does.
    """
    rows, columns = values.shape
    kept = min(count, columns)
    endings = [f":{label}" for label in labels] if len(labels) == columns else [""] * columns
    order = np.argsort(-values, axis=1, kind="stable")[:, :kept]
    found = [f"{values[row, column]:f}:{column}{endings[column]}" for row in range(rows) for column in order[row]]
    return Tensor(name, (rows, kept), found)


def join(document: dict[str, Any], outputs: Iterable[tuple[Tensor, bool]]) -> tuple[bytes, int | None]:
    """The body of a reply with these outputs, each either as bytes (True) or in its JSON, which `document` begins.

    With it the length of the JSON, None where there are no bytes after it.
    """
    described, pieces = [], []
    for tensor, binary in outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if binary:
            pieces.append(tensor.packed())
            entry["parameters"] = {"binary_data_size": len(pieces[-1])}
        else:
            entry["data"] = tensor.flat()
        described.append(entry)
    header = to_json({**document, "outputs": described})
    return b"".join([header, *pieces]), len(header) if pieces else None


def _flat(name: str, shape: Sequence[int], count: int, data: list[Any]) -> list[Any]:
    """The elements of JSON data, which is flat, or nested as the shape ``[rows]`` or ``[rows, columns]`` says."""
    if len(shape) == 2 and any(type(row) is list for row in data):
        if len(data) != shape[0] or any(type(row) is not list or len(row) != shape[1] for row in data):
            raise _wrong(name, f"is nested otherwise than its shape {list(shape)}: send such rows, or flat data")
        data = list(itertools.chain.from_iterable(data))
    if len(data) != count:
        raise _wrong(name, f"has {len(data)} elements, its shape {list(shape)} takes {count}")
    return data


def _wrong(name: str, problem: str) -> InvalidContent:
    return InvalidContent(f"input {name}: {problem}")


def _wrong_header(value: str, rule: str) -> InvalidContent:
    return InvalidContent(f"header Inference-Header-Content-Length {value[:MAX_ECHO]!r} {rule}")
