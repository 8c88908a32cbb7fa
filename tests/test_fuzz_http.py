"""Malformed HTTP by the thousand, over raw sockets to a real process: each connection ends, and nobody else notices."""

import asyncio
import contextlib
import gzip
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import h11
import httpx
import pytest

from models.artifact import write_artifact
from tests.fuzzing import SCALE, SEED
from tests.server import Server
from tests.tiny import tiny_artifact

CASES = 6000 * SCALE
"""Of all seeds together; `make fuzz` asks for more."""
TOGETHER = 40
ALLOWED = {200, 400, 401, 403, 404, 405, 406, 408, 413, 415, 422, 429, 431, 501, 504}
"""Never 500, and 503 only where all connections are busy, which here they are not."""
SECONDS = 20.0
"""In which a connection has its reply or its end: far more than the bounds on heads and bodies."""

GOOD = json.dumps({"token_ids": [[5, 6, 7], [8, 9, 0]], "lengths": [3, 2]}).encode()
PATHS = ["/predict", "/classify", "/v2/models/tiny/infer", "/tei/predict", "/models/tiny/predict", "/livez", "/nothing"]
BODIES = [
    GOOD,
    json.dumps({"texts": ["good", "bad"]}).encode(),
    json.dumps({"inputs": "good"}).encode(),
    json.dumps({"inputs": [{"name": "token_ids", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]}]}).encode(),
    b"",
    b"{",
    b"[" * 100_000,
    b'{"token_ids":' * 3000,
    b'{"token_ids": [[' + b"9" * 100_000 + b"]]}",
    b'{"token_ids": [[1e400]]}',
    b'{"token_ids": [[NaN, Infinity]]}',
    b'{"token_ids": [[1]], "token_ids": [[2]]}',
    b'{"texts": ["\\ud800"]}',
    b'{"texts": ["\xff\xfe"]}',
    b"\xef\xbb\xbf" + GOOD,
    GOOD.decode().encode("utf-16"),
    b"\x00" * 500,
    b'{"texts": [' + b'"a",' * 30_000 + b'"a"]}',
    gzip.compress(b" " * (8 << 20)),
    gzip.compress(GOOD),
    gzip.compress(GOOD)[:-4],
]
HEADERS = [
    b"Content-Type: application/json",
    b"Content-Type: text/plain",
    b"Content-Type: application/json; charset=latin-1",
    b"Content-Encoding: gzip",
    b"Content-Encoding: br",
    b"X-Request-Timeout-Ms: 50",
    b"X-Request-Timeout-Ms: -1",
    b"X-Request-Timeout-Ms: 1e3",
    b"X-Request-Priority: urgent",
    b"X-Request-ID: " + b"i" * 300,
    b"X-Request-ID: \xff\xfe",
    b"Authorization: Bearer \xff",
    b"Inference-Header-Content-Length: 99999999999",
    b"Inference-Header-Content-Length: 5",
    b"Expect: 100-continue",
    b"Expect: 200-ok",
    b"Connection: close",
    b"Connection: upgrade\r\nUpgrade: websocket",
    b"Upgrade: h2c",
    b"Accept: nothing/at-all",
    b"Host: other",
    b"X-Forwarded-For: 1.2.3.4, \xff",
    b"Cookie: " + b"c" * 9000,
    b"Range: bytes=0-1",
    b"Large: " + b"l" * 20_000,
    b": empty",
    b"Folded: one\r\n two",
    b"Null: \x00",
]
METHODS = [b"POST"] * 12 + [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT", b"PATCH", b"X" * 300]


pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    store: Path = tmp_path_factory.mktemp("store")
    write_artifact(store / "tiny" / "1", tiny_artifact())
    bounds = {"header-seconds": 0.2, "timeout-ms": 500, "max-body-bytes": 1 << 20, "keep-alive-seconds": 1}
    flags = [word for name, value in bounds.items() for word in (f"--{name}", str(value))]
    with Server(store, "--model", "tiny", *flags) as server:
        yield server
        server.process.terminate()
        assert server.wait() == 0
        assert [record for record in server.log if record["level"] in ("ERROR", "CRITICAL")] == []
        assert all(line.startswith("{") for line in server.lines)


async def test_no_connection_is_left_without_its_end(server: Server) -> None:
    """Many at a time, and among them requests that are well-formed: they get their answers."""
    port = int(server.url.rsplit(":", 1)[1])
    before, expected = _resident(server), _predict(port)
    counted: Counter[int] = Counter()

    async def exchange(seed: int) -> None:
        draw = random.Random(seed)
        for number in range(CASES // TOGETHER):
            counted.update(await _exchange(port, draw))
            if number % 25 == 0:
                assert await asyncio.to_thread(_predict, port) == expected

    await asyncio.gather(*map(exchange, range(SEED, SEED + TOGETHER)))
    assert counted.total() > CASES / 2, "most get a reply"
    assert set(counted) <= ALLOWED, counted
    assert {200, 400, 404, 405, 408, 413, 415, 422, 431} <= set(counted), "they are refused for many reasons"
    assert _resident(server) - before < 100 << 20


async def _exchange(port: int, draw: random.Random) -> list[int]:
    """Sends a case or several on one connection, until that ends; the statuses of what came back, whole replies."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = b"".join(_request(draw) for _ in range(draw.choice([1, 1, 1, 2, 4])))
    received = b""
    with contextlib.suppress(ConnectionError):  # it was refused before it was all sent
        for piece in _pieces(draw, data):
            writer.write(piece)
            await writer.drain()
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(SECONDS):
            while data := await reader.read(1 << 16):
                received += data
    writer.close()
    return _statuses(received)


def _request(draw: random.Random) -> bytes:
    """A request, mostly well-formed, with up to a few things wrong."""
    body = draw.choice(BODIES)
    path = draw.choice(PATHS).encode()
    headers = [b"Host: test", b"Content-Type: application/json", *draw.sample(HEADERS, draw.choice([0, 0, 1, 2, 5]))]
    if draw.random() < 0.8:
        headers.append(b"Connection: close")
    length = draw.random()
    if length < 0.6:
        headers.append(b"Content-Length: %d" % len(body))
    elif length < 0.8:
        headers.append(b"Transfer-Encoding: chunked")
        size = draw.choice([1 + len(body) // 3, len(body) + 1, 1 << 20])
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in _split(body, size)) + b"0\r\n\r\n"
    elif length < 0.95:
        headers.append(
            b"Content-Length: " + draw.choice([b"-1", b"0", b"3", b"1000000", b"9" * 30, b"5\r\nContent-Length: 6"])
        )
    data = draw.choice(METHODS) + b" " + path + b" HTTP/1.1\r\n" + b"\r\n".join(headers) + b"\r\n\r\n" + body
    spoilt = draw.random()
    if spoilt < 0.2:
        data = data[: draw.randrange(len(data))]
    elif spoilt < 0.5:
        changed = bytearray(data)
        for _ in range(draw.choice([1, 1, 3, 20])):
            changed[draw.randrange(min(len(changed), draw.choice([50, 400, 1 << 20])))] = draw.randrange(256)
        data = bytes(changed)
    return data


def _split(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def _pieces(draw: random.Random, data: bytes) -> Iterator[bytes]:
    if draw.random() < 0.8 or len(data) > 2000:
        yield data
    else:
        yield from _split(data, draw.choice([1, 7, 100]))


def _statuses(received: bytes) -> list[int]:
    """Of the replies, each of them whole, and well-formed by another implementation of HTTP."""
    statuses = []
    connection = h11.Connection(h11.CLIENT)
    rest = received
    while rest:
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method="GET", target="/", headers=[("Host", "test")]))
        connection.send(h11.EndOfMessage())
        head = rest.startswith(b"HTTP/1.1 100")
        connection.receive_data(rest)
        while not isinstance(event := connection.next_event(), h11.Response | h11.InformationalResponse):
            assert event is not h11.NEED_DATA, rest[:300]
        assert not head or event.status_code == 100
        if isinstance(event, h11.InformationalResponse):
            rest = rest.partition(b"\r\n\r\n")[2]
            continue
        statuses.append(event.status_code)
        start, _, rest = rest.partition(b"\r\n\r\n")
        length = int(dict(event.headers).get(b"content-length", b"0"))
        if rest[:9] != b"HTTP/1.1 ":  # or it is the reply to HEAD
            assert len(rest) >= length or not rest, (start, rest[:300])
            rest = rest[length:]
    return statuses


def _predict(port: int) -> object:
    """The logits of a well-formed request."""
    reply = httpx.post(f"http://127.0.0.1:{port}/predict", content=GOOD, headers={"Content-Type": "application/json"})
    return reply.raise_for_status().json()["logits"]


def _resident(server: Server) -> int:
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
