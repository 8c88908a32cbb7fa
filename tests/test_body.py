"""A request's body: compressed or not, in any pieces, up to a limit that holds whatever is sent."""

import asyncio
import gzip
import itertools
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from service.body import read_body
from service.errors import BodyTooLarge, BodyTooSlow, NotJSON, UnsupportedMediaType
from tests.fake_engine import LIMITS, Fake, fake_app, refused, right, running

pytestmark = pytest.mark.anyio

PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}
JSON = {"Content-Type": "application/json"}
BODY = b'{"token_ids": [[5, 6]]}'


class Sender:
    """A client that sends these pieces; `taken` bytes of them have been read."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces: Iterator[bytes] = iter(pieces)
        self.taken = 0

    async def receive(self) -> dict[str, Any]:
        piece = next(self._pieces, None)
        self.taken += len(piece or b"")
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def read(self, limit: int, coding: str, *, length: str = "0", seconds: float = 60) -> bytes:
        raw = [(b"content-encoding", coding.encode()), (b"content-length", length.encode())]
        return await read_body(Request({"type": "http", "headers": raw}, self.receive), limit, seconds)


def pieces(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(sorted(PACK)), st.integers(1, 50), st.integers(0, 300))
def test_any_content_in_any_pieces(content: bytes, coding: str, size: int, limit: int) -> None:
    sender = Sender(pieces(PACK[coding](content), size))
    if len(content) <= limit and len(PACK[coding](content)) <= 2 * limit:
        assert asyncio.run(sender.read(limit, coding)) == content
    elif len(content) > limit:
        with pytest.raises(BodyTooLarge):
            asyncio.run(sender.read(limit, coding))


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_the_limit_is_of_decompressed_bytes(coding: str) -> None:
    content = b"x" * 1000
    assert await Sender([PACK[coding](content)]).read(1000, coding) == content
    with pytest.raises(BodyTooLarge, match="limit of 999 bytes"):
        await Sender([PACK[coding](content)]).read(999, coding)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("size", [1 << 10, 1 << 20])
async def test_a_bomb_takes_no_more_memory_than_a_body(coding: str, size: int) -> None:
    limit = 1 << 20
    bomb = PACK[coding](bytes(256 * limit))
    assert len(bomb) < limit // 2
    sender = Sender(pieces(bomb, size))
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            await sender.read(limit, coding)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * limit
    if size < len(bomb) // 16:
        assert sender.taken < len(bomb) // 16, "it is not read to its end"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_every_truncated_stream_is_refused(coding: str) -> None:
    whole = PACK[coding](BODY)
    for end in range(len(whole)):
        with pytest.raises(NotJSON, match=f"the body's {coding} data is cut short"):
            await Sender([whole[:end]]).read(100, coding)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("more", [b"x", b"\x00" * 50, None])
async def test_what_follows_the_stream_is_refused(coding: str, apart: bool, more: bytes | None) -> None:
    whole = PACK[coding](BODY)
    after = whole if more is None else more  # a second stream is refused too: some read it, some do not
    with pytest.raises(NotJSON, match=f"goes on after its {coding} data: send one stream"):
        await Sender([whole, after] if apart else [whole + after]).read(100, coding)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("content", [BODY, b"\x1f\x8b\x08\x00nonsense", zlib.compress(BODY)[2:-4]])
async def test_what_is_not_compressed_is_refused(coding: str, content: bytes) -> None:
    with pytest.raises(NotJSON, match=coding):
        await Sender([content]).read(100, coding)


async def test_a_damaged_checksum_is_refused() -> None:
    for coding in ("gzip", "deflate"):
        whole = bytearray(PACK[coding](BODY))
        whole[-1 if coding == "deflate" else -5] ^= 1
        with pytest.raises(NotJSON, match=f"the body is not {coding}"):
            await Sender([bytes(whole)]).read(100, coding)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_empty_blocks_without_end_are_refused(coding: str) -> None:
    head = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" if coding == "gzip" else b"\x78\x9c"
    sender = Sender(itertools.chain([head], itertools.repeat(b"\x00\x00\x00\xff\xff" * 20)))
    with pytest.raises(BodyTooLarge):
        await sender.read(1000, coding)
    assert sender.taken <= 2 * 1000 + 100


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, deflate", "x", "gzip;q=1"])
async def test_an_unknown_coding(coding: str) -> None:
    sender = Sender([b"any", b"thing"])
    with pytest.raises(UnsupportedMediaType, match="send gzip, deflate or none"):
        await sender.read(100, coding)
    assert sender.taken == 8, "it is read, so that the sender hears of it"


@pytest.mark.parametrize("coding", [" GZIP ", "gzip", "Deflate"])
async def test_a_coding_is_told_in_any_case(coding: str) -> None:
    assert await Sender([PACK[coding.strip().lower()](BODY)]).read(100, coding) == BODY


@pytest.mark.parametrize("coding", ["gzip", "deflate", "identity"])
async def test_a_content_length_over_twice_the_limit(coding: str) -> None:
    sender = Sender([b"x"])
    with pytest.raises(BodyTooLarge):
        await sender.read(100, coding, length="201")
    assert sender.taken == 0


@pytest.mark.parametrize("coding", ["gzip", "identity"])
async def test_a_slow_sender(coding: str) -> None:
    class Slow(Sender):
        async def receive(self) -> dict[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError

    with pytest.raises(BodyTooSlow):
        await Slow([]).read(100, coding, seconds=0.01)


@pytest.fixture
async def client(fake: Fake) -> Any:
    async with running(fake_app(fake)) as client:
        yield client


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_compressed_request_is_answered(client: httpx.AsyncClient, coding: str) -> None:
    async def chunked() -> Any:
        for piece in pieces(PACK[coding](BODY), 7):
            yield piece

    headers = {**JSON, "Content-Encoding": coding}
    for content in (PACK[coding](BODY), chunked()):
        reply = await client.post("/predict", content=content, headers=headers)
        assert reply.json()["logits"] == [right([5, 6])]


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (gzip.compress(b"{"), {**JSON, "Content-Encoding": "gzip"}, 400),
        (BODY, {**JSON, "Content-Encoding": "gzip"}, 400),
        (gzip.compress(BODY)[:-1], {**JSON, "Content-Encoding": "gzip"}, 400),
        (gzip.compress(BODY), {"Content-Type": "text/plain", "Content-Encoding": "gzip"}, 415),
        (BODY, {**JSON, "Content-Encoding": "br"}, 415),
        (gzip.compress(BODY.ljust(LIMITS["max_body_bytes"] + 1)), {**JSON, "Content-Encoding": "gzip"}, 413),
        (gzip.compress(BODY), JSON, 400),
    ],
)
async def test_what_is_wrong_is_one_problem(
    client: httpx.AsyncClient, fake: Fake, content: bytes, headers: dict[str, str], status: int
) -> None:
    refused(await client.post("/predict", content=content, headers=headers), status)
    assert fake.started == []
