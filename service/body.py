"""A request's body: its media type, its bytes up to a limit, and whether its sender is still there."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from service.errors import BodyTooLarge, UnsupportedMediaType

T = TypeVar("T")


async def read_json(request: Request, limit: int) -> bytes:
    """The body's bytes. Raises UnsupportedMediaType, or BodyTooLarge as soon as it is known to be over `limit`."""
    sent = request.headers.get("content-type", "none")
    media, *parameters = (part.strip().lower() for part in sent.split(";"))
    charsets = {parameter for parameter in parameters if parameter.startswith("charset")}
    if media != "application/json" or charsets - {"charset=utf-8", 'charset="utf-8"'}:
        raise UnsupportedMediaType(f"Content-Type must be application/json in UTF-8, not {sent!r}")
    if (encoding := request.headers.get("content-encoding", "identity")).lower() != "identity":
        raise UnsupportedMediaType(f"Content-Encoding {encoding!r} is not supported: send the body as it is")
    if int(request.headers.get("content-length", 0)) > limit:
        raise BodyTooLarge(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge(limit)
    return bytes(body)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves; then raises ClientDisconnect.

    The body must have been read: what is received after it can only be the client's leaving.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        leaving.cancel()
