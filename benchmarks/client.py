"""A load generator that costs little beside the server it loads: prepared bytes over bare HTTP/1.1 connections."""

import asyncio
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

import uvloop

Result = TypeVar("Result")


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """On the event loop that costs least."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


class Reply(NamedTuple):
    """What became of one request; times are seconds of one clock."""

    number: int
    """Of the request among those that were given."""
    due: float
    """When it was to be sent: in an open loop it may have had to wait for the generator."""
    sent: float
    finished: float
    status: int
    body: bytes

    @property
    def latency(self) -> float:
        """From when it was due, so that a server which stalls the generator is not spared."""
        return self.finished - self.due


def post(path: str, body: bytes) -> bytes:
    """A request, ready to be sent."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def predict(sequences: Sequence[Sequence[int]], pad_id: int) -> bytes:
    """A request for the logits of `sequences`."""
    lengths = [len(sequence) for sequence in sequences]
    rows = [[*sequence, *[pad_id] * (max(lengths) - len(sequence))] for sequence in sequences]
    return post("/predict", json.dumps({"token_ids": rows, "lengths": lengths}).encode())


def reply_of(received: bytes) -> tuple[int, bytes] | None:
    """Status and body of the reply, if all of it is there."""
    head, end, body = received.partition(b"\r\n\r\n")
    if not end or len(body) < int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]):
        return None
    return int(head.split(b" ", 2)[1]), body


class Connection(asyncio.Protocol):
    """A kept-alive connection with at most one request under way."""

    def __init__(self, answered: Callable[["Connection", Reply], None]) -> None:
        self._answered = answered
        self._received = b""
        self._pending: tuple[int, float, float] | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Raises ConnectionError when the server closed it on a request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one but in name

    def send(self, number: int, request: bytes, due: float | None = None) -> None:
        """Sends the request now; it was `due` then, or is now. Raises ConnectionError on a closed connection."""
        if self._transport.is_closing():
            raise ConnectionError("the server closed a connection between requests")
        now = time.perf_counter()
        self._pending = number, now if due is None else due, now
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if (found := reply_of(self._received)) is None:
            return
        assert self._pending is not None, "nothing was asked"
        pending = self._pending
        self._received, self._pending = b"", None
        self._answered(self, Reply(*pending, time.perf_counter(), *found))

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None or self._pending is not None:
            self.ended.set_exception(error or ConnectionError("the server closed a connection on a request"))
        else:
            self.ended.set_result(None)

    def close(self) -> None:
        self._transport.close()


async def connect(url: str, count: int, answered: Callable[[Connection, Reply], None]) -> list[Connection]:
    """One after another: processes that share a port then get about equal numbers of them."""
    host, _, port = urlsplit(url).netloc.rpartition(":")
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(lambda: Connection(answered), host, int(port)))[1] for _ in range(count)]


async def closed_loop(url: str, requests: Sequence[bytes], connections: int, seconds: float) -> list[Reply]:
    """Each connection sends the next of `requests` as soon as it is answered. Raises ConnectionError."""
    replies: list[Reply] = []
    numbers = itertools.cycle(range(len(requests)))

    def answered(connection: Connection, reply: Reply) -> None:
        replies.append(reply)
        if reply.finished < end:
            number = next(numbers)
            connection.send(number, requests[number])
        else:
            connection.close()

    clients = await connect(url, connections, answered)
    end = time.perf_counter() + seconds
    for client in clients:
        number = next(numbers)
        client.send(number, requests[number])
    await asyncio.gather(*(client.ended for client in clients))
    return replies


async def open_loop(
    url: str, requests: Sequence[bytes], arrivals: Sequence[float], connections: int = 128
) -> list[Reply]:
    """Sends the next of `requests` at each of `arrivals`, ascending seconds from the start, whatever was answered.

    With none of the connections free a request waits for one: its latency counts from when it was due.
    Raises ConnectionError.
    """
    replies: list[Reply] = []
    due: deque[tuple[int, float]] = deque()
    free: deque[Connection] = deque()

    def send() -> None:
        while due and free:
            number, when = due.popleft()
            free.popleft().send(number, requests[number], when)

    def answered(connection: Connection, reply: Reply) -> None:
        replies.append(reply)
        free.append(connection)  # the one that rested longest goes first: all of a server's processes get work
        send()
        if len(replies) == len(arrivals):
            for client in clients:
                client.close()

    clients = await connect(url, connections, answered)
    free.extend(clients)
    began = time.perf_counter()
    for number, arrival in enumerate(arrivals):
        while (delay := began + arrival - time.perf_counter()) > 0:  # noqa: ASYNC110 (it may wake early)
            await asyncio.sleep(delay)
        due.append((number % len(requests), began + arrival))
        send()
    await asyncio.gather(*(client.ended for client in clients))
    return replies
