"""A request's body: its media type, its bytes up to a limit, and whether its sender is still there."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from service.errors import BodyTooLarge, BodyTooSlow, NotJSON, UnsupportedMediaType

T = TypeVar("T")

LENGTH_DIGITS = 18
"""Of a Content-Length: more is no number of bytes, and takes long to read as one."""

WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""zlib's window bits, which say what frames the data, by content coding (RFC 9110, section 8.4.1)."""


async def read_body(request: Request, limit: int, seconds: float | None) -> bytes:
    """The body's bytes, decompressed; `seconds` is None where it has come already.

    Raises BodyTooLarge as soon as it is known to be over `limit` bytes, before or after it is decompressed,
    BodyTooSlow when it is not there after `seconds`, UnsupportedMediaType, or NotJSON where it does not decompress.
    """
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    pieces = _decompressed(request.stream(), coding, limit) if coding in WINDOWS else request.stream()
    try:
        async with asyncio.timeout(seconds):
            body = await _read(request, pieces, limit)
    except TimeoutError as error:
        raise BodyTooSlow from error
    if coding not in WINDOWS and coding != "identity":
        raise UnsupportedMediaType(f"Content-Encoding {coding!r} is not supported: send gzip, deflate or none")
    return body


async def read_json(request: Request, limit: int, seconds: float | None) -> bytes:
    """The body of a request that says it is JSON; raises as `read_body` does."""
    body = await read_body(request, limit, seconds)
    sent = request.headers.get("content-type", "none")
    media, *parameters = (part.strip().lower() for part in sent.split(";"))
    charsets = {parameter for parameter in parameters if parameter.startswith("charset")}
    if media != "application/json" or charsets - {"charset=utf-8", 'charset="utf-8"'}:
        raise UnsupportedMediaType(f"Content-Type must be application/json in UTF-8, not {sent!r}")
    return body


async def _read(request: Request, pieces: AsyncIterator[bytes], limit: int) -> bytes:
    """Reads before anything is refused, for many clients hear nothing until they have sent all.

    For that reason too a body over the limit is read on and dropped, up to as much again.
    """
    length = request.headers.get("content-length", "0")
    if len(length) > LENGTH_DIGITS or int(length) > 2 * limit:
        raise BodyTooLarge(limit)
    body, size = bytearray(), 0
    async for piece in pieces:
        size += len(piece)
        if size <= limit:
            body += piece
        elif size > 2 * limit:
            break
    if size > limit:
        raise BodyTooLarge(limit)
    return bytes(body)


async def _decompressed(chunks: AsyncIterator[bytes], coding: str, limit: int) -> AsyncIterator[bytes]:
    """Pieces of at most `limit` bytes, so that a small body cannot take more memory than a large one.

    Raises NotJSON where what came is not of that coding, or not all of it.
    """
    unzip = zlib.decompressobj(WINDOWS[coding])
    sent = 0
    try:
        async for chunk in chunks:
            sent += len(chunk)
            if sent > 2 * limit:  # it may decompress to nothing
                raise BodyTooLarge(limit)
            while chunk:
                yield unzip.decompress(chunk, limit)
                if unzip.unused_data:
                    raise NotJSON(f"the body goes on after its {coding} data: send one stream")
                chunk = unzip.unconsumed_tail
    except zlib.error as error:
        raise NotJSON(f"the body is not {coding}, as its Content-Encoding says: {error}") from error
    if not unzip.eof:
        raise NotJSON(f"the body's {coding} data is cut short")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves; then raises ClientDisconnect.

    The body must have been read: what is received after it can only be the client's leaving.
    """
    task = asyncio.current_task()
    assert task is not None
    working = True

    def leave(_: object) -> None:
        if working:
            task.cancel()

    leaving = asyncio.ensure_future(request.receive())
    leaving.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if leaving.done() and not task.uncancel():  # nobody else has cancelled it
            raise ClientDisconnect from None
        raise
    finally:
        working = False
        leaving.cancel()
