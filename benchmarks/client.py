"""A load generator that costs little beside the server it loads: plain HTTP/1.1 over asyncio streams."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit


class Result(NamedTuple):
    """Latencies in seconds of the requests of one closed loop, and how long it lasted."""

    latencies: list[float]
    seconds: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Connection:
    """One kept-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def post(self, path: str, body: bytes) -> bytes:
        """The reply's body. Raises RuntimeError when its status is not 200."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        headers = await self._reader.readuntil(b"\r\n\r\n")
        length = int(headers.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        reply = await self._reader.readexactly(length)
        if not headers.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(reply.decode())
        return reply

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def connect(url: str) -> Connection:
    parts = urlsplit(url)
    return Connection(*await asyncio.open_connection(parts.hostname, parts.port))


async def closed_loop(
    url: str,
    bodies: Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    check: Callable[[int, list[list[float]]], None],
) -> Result:
    """Each connection posts to /predict again as soon as it is answered; `check` sees every reply's body number."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        connection = await connect(url)
        while (began := time.perf_counter()) < end:
            index = number % len(bodies)
            reply = await connection.post("/predict", bodies[index])
            latencies.append(time.perf_counter() - began)
            check(index, json.loads(reply)["logits"])
            number += connections
        await connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(connections)))
    return Result(latencies, time.perf_counter() - began)
