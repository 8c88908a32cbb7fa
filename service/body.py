"""A request's body: its media type, its bytes up to a limit, and whether its sender is still there."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from service.errors import BodyTooLarge, BodyTooSlow, UnsupportedMediaType

T = TypeVar("T")


async def read_json(request: Request, limit: int, seconds: float) -> bytes:
    """The body's bytes.

    Raises UnsupportedMediaType, BodyTooLarge as soon as it is known to be over `limit` bytes, or BodyTooSlow when it
    is not there after `seconds`.
    """
    try:
        async with asyncio.timeout(seconds):
            body = await _read(request, limit)
    except TimeoutError as error:
        raise BodyTooSlow from error
    sent = request.headers.get("content-type", "none")
    media, *parameters = (part.strip().lower() for part in sent.split(";"))
    charsets = {parameter for parameter in parameters if parameter.startswith("charset")}
    if media != "application/json" or charsets - {"charset=utf-8", 'charset="utf-8"'}:
        raise UnsupportedMediaType(f"Content-Type must be application/json in UTF-8, not {sent!r}")
    if (encoding := request.headers.get("content-encoding", "identity")).lower() != "identity":
        raise UnsupportedMediaType(f"Content-Encoding {encoding!r} is not supported: send the body as it is")
    return body


async def _read(request: Request, limit: int) -> bytes:
    """Reads before anything is refused, for many clients hear nothing until they have sent all.

    For that reason too a body over the limit is read on and dropped, up to as much again.
    """
    if int(request.headers.get("content-length", 0)) > 2 * limit:
        raise BodyTooLarge(limit)
    body, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            body += chunk
        elif size > 2 * limit:
            break
    if size > limit:
        raise BodyTooLarge(limit)
    return bytes(body)


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
