"""A server that does what a script says, and a client of either kind to call it with."""

import asyncio
import contextlib
import inspect
import itertools
import json
import socket
import socketserver
import struct
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import httpx

from service.client import AsyncClient, Client

PREDICTION = {"model": "imdb", "version": 1, "labels": ["n", "p"], "logits": [[-1.5, 2]]}
MODEL = {
    "name": "imdb",
    "version": 2,
    "versions": [1, 2],
    "default": True,
    "labels": ["n", "p"],
    "precision": "float32",
    "output": "softmax",
    "max_tokens": 512,
    "pad_id": 0,
    "vocab_size": 9,
    "tokenizer": True,
    "card": None,
}
LOAD = {
    "model": "imdb",
    "version": 2,
    "precision": "float32",
    "pinned": True,
    "replaced": 1,
    "seconds": 0.5,
    "comparison": {
        "golden": {"texts": 16, "flips": [{"text": "so so", "before": "n", "after": "p"}]},
        "served": {"sequences": 40, "flips": 3},
    },
}


class Arrived(NamedTuple):
    line: str
    headers: dict[str, str]
    body: Any
    connection: int


class Handler(socketserver.StreamRequestHandler):
    server: "Scripted"

    def handle(self) -> None:
        connection = next(self.server.connections)
        with contextlib.suppress(ConnectionError):
            while line := self.rfile.readline().decode().strip():
                fields = iter(lambda: self.rfile.readline().decode().strip(), "")
                headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
                body = self.rfile.read(int(headers.get("content-length", 0)))
                self.server.arrived.append(
                    Arrived(line.removesuffix(" HTTP/1.1"), headers, json.loads(body or "null"), connection)
                )
                if not self.server.script.pop(0)(self):
                    return


Action = Callable[[Handler], bool]
"""Answers a request; whether the connection is kept."""


class Scripted(socketserver.ThreadingTCPServer):
    """Its script has one action for each request that may arrive: one more is an error."""

    allow_reuse_address = True

    def __init__(self, *script: Action, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.script, self.arrived, self.connections = list(script), list[Arrived](), itertools.count()
        self.arrival, self.released = threading.Event(), threading.Event()
        self.failed = False
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.failed = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def lines(self) -> list[str]:
        return [arrived.line for arrived in self.arrived]

    def close(self) -> None:
        self.released.set()
        self.shutdown()
        self._thread.join()
        self.server_close()  # joins the handlers
        assert not self.failed, "more requests than the script has"
        assert not self.script, "fewer requests than the script has"


def raw(status: int, body: bytes, *headers: str) -> Action:
    def act(handler: Handler) -> bool:
        lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *headers, "", ""]
        handler.wfile.write("\r\n".join(lines).encode() + body)
        return True

    return act


def reply(document: object, status: int = 200, *headers: str) -> Action:
    return raw(status, json.dumps(document).encode(), *headers)


def refuse(status: int, *headers: str) -> Action:
    return reply({"detail": "no"}, status, *headers)


def close(handler: Handler) -> bool:
    return False


def reset(handler: Handler) -> bool:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    return False


def break_off(handler: Handler) -> bool:
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"model"')
    return False


def babble(handler: Handler) -> bool:
    handler.wfile.write(b"220 smtp.example ready\r\n\r\n")
    return False


def hold(handler: Handler) -> bool:
    handler.server.arrival.set()
    handler.server.released.wait(20)
    return False


def trickle(handler: Handler) -> bool:
    """A whole reply, in about five seconds."""
    body = b"{}".ljust(250)
    handler.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode())
    for byte in body:
        handler.wfile.write(bytes([byte]))
        handler.server.released.wait(0.02)
    return True


class Caller:
    """A client of either kind, called in one way; what it waits between attempts is kept and not waited."""

    def __init__(self, kind: str, url: str, options: dict[str, Any]) -> None:
        self.waits: list[float] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self._runner = asyncio.Runner()
        kinds: dict[str, Any] = {"sync": Client, "async": AsyncClient}
        self.client = kinds[kind](url, **options)
        self.client._sleep = self._wait

    def __call__(self, method: str, *arguments: Any, **named: Any) -> Any:
        result = getattr(self.client, method)(*arguments, **named)
        return self._runner.run(result) if inspect.iscoroutine(result) else result

    def close(self) -> None:
        self("close" if isinstance(self.client, Client) else "aclose")
        self._runner.close()

    async def _wait(self, seconds: float) -> None:
        if self.waits:
            self.meanwhile()
        self.waits.append(seconds)


class Net:
    """Scripted servers and callers of one kind of client, sync or async; the callers are closed before the servers."""

    def __init__(self, kind: str) -> None:
        self._kind, self._servers, self._callers = kind, contextlib.ExitStack(), contextlib.ExitStack()

    def serve(self, *script: Action, port: int = 0) -> Scripted:
        server = Scripted(*script, port=port)
        self._servers.callback(server.close)
        return server

    def call(self, url: str, **options: Any) -> Caller:
        caller = Caller(self._kind, url, options)
        self._callers.callback(caller.close)
        return caller

    def transport(self) -> httpx.BaseTransport | httpx.AsyncBaseTransport:
        return httpx.HTTPTransport() if self._kind == "sync" else httpx.AsyncHTTPTransport()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._servers, self._callers:
            pass


def free_port() -> int:
    """A port of loopback on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
