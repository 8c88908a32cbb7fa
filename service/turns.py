"""Requests that compute begin a few at a time, so that the event loop gets to everything else between them."""

import asyncio
from collections import deque

from starlette.types import ASGIApp, Receive, Scope, Send

AT_ONCE = 4
"""Requests that begin in one iteration of the loop. Beginning is what takes time: to read, check and queue a batch."""


class Turns:
    """ASGI middleware: a probe waits for a few requests that came before it, and not for hundreds that came at once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._left = AT_ONCE
        """In this iteration; 0 while anybody waits."""
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            await self._turn()
        await self._app(scope, receive, send)

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._left:
            turn = loop.create_future()
            self._waiting.append(turn)
            await turn
            return
        if self._left == AT_ONCE:
            loop.call_soon(self._renew)
        self._left -= 1

    def _renew(self) -> None:
        given = 0
        while self._waiting and given < AT_ONCE:
            turn = self._waiting.popleft()
            if not turn.done():  # its request may have been cut off
                turn.set_result(None)
                given += 1
        self._left = 0 if given else AT_ONCE  # who comes now is behind those who are about to begin
        if given:
            asyncio.get_running_loop().call_soon(self._renew)
