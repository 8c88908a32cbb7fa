"""The service with the fake engine, asked without a socket from plain functions, as Hypothesis wants them."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
from fastapi import FastAPI

from tests.fake_engine import running

JSON = {"Content-Type": "application/json"}


class Asked:
    """A client that counts what it is told."""

    def __init__(self, loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient) -> None:
        self._loop, self._client = loop, client
        self.statuses = Counter[int]()

    def post(self, path: str, body: object, headers: dict[str, str] | None = None) -> httpx.Response:
        """The reply to bytes as they are, or to anything else as JSON."""
        return self.send("POST", path, body, {**JSON, **(headers or {})})

    def send(self, method: str, path: str, body: object = b"", headers: dict[str, str] | None = None) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = self._loop.run_until_complete(self._client.request(method, path, content=content, headers=headers))
        self.statuses[reply.status_code] += 1
        return reply


@contextlib.contextmanager
def asked(app: FastAPI) -> Iterator[Asked]:
    """A client of the app, which runs on a loop of its own while it is asked."""
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        client = runner.run(stack.enter_async_context(running(app)))
        try:
            yield Asked(runner.get_loop(), client)
        finally:
            runner.run(stack.aclose())


def raw(document: Any) -> bytes:
    return json.dumps(document).encode()
