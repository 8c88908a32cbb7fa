"""Connections bounded in number, bytes and time, by clients that are slow, greedy or wrong."""

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.protocol import PIPELINED
from tests.fake_engine import Fake, fake_app, right
from tests.serving import serving

SMALL: dict[str, Any] = {
    "header_seconds": 0.3,
    "keep_alive_seconds": 1,
    "max_header_bytes": 1024,
    "max_connections": 8,
    "timeout_ms": 3000,
}
PREDICT = b"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture
def port(fake: Fake) -> Iterator[int]:
    with serving(fake_app(fake, **SMALL), **SMALL) as port:
        yield port
        fake.gate.set()


class Client:
    """A connection that sends what it is told, byte for byte."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._received = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def flood(self, data: bytes) -> None:
        """Sends it over and over until the service has had enough."""
        with contextlib.suppress(ConnectionError):
            for _ in range(10_000):
                self._socket.sendall(data)
            raise AssertionError("there is no end to what it takes")

    def reply(self) -> tuple[int, dict[str, str], bytes]:
        """The next one. Raises EOFError where the connection ends before it."""
        while b"\r\n\r\n" not in self._received:
            self._more()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        while len(self._received) < int(headers["content-length"]):
            self._more()
        body, self._received = (
            self._received[: int(headers["content-length"])],
            self._received[int(headers["content-length"]) :],
        )
        return int(first.split()[1]), headers, body

    def ends(self) -> bytes:
        """What is left of it, once the service has closed it."""
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                self._more()
        return self._received

    def _more(self) -> None:
        data = self._socket.recv(1 << 16)
        if not data:
            raise EOFError
        self._received += data


def ask(tokens: list[int], *headers: str) -> bytes:
    body = json.dumps({"token_ids": [tokens]}).encode()
    lines = "".join(f"{header}\r\n" for header in (*headers, f"Content-Length: {len(body)}"))
    return PREDICT + lines.encode() + b"\r\n" + body


def refused(client: Client, status: int, *words: str) -> None:
    """The reply is the problem, with these words, and the connection's end."""
    found, headers, body = client.reply()
    problem = json.loads(body)
    assert (found, problem["status"], headers["connection"]) == (status, status, "close"), problem
    assert headers["content-type"] == "application/problem+json"
    assert all(word in problem["detail"] for word in words), problem["detail"]
    assert client.ends() == b""


def closed(port: int, reason: str) -> float:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    return float(text.split(f'lstmserve_connections_closed_total{{reason="{reason}"}} ')[1].split()[0])


def test_who_says_nothing_is_closed_without_a_word(port: int) -> None:
    with Client(port) as client:
        assert client.ends() == b""
    assert closed(port, "idle") == 1


@pytest.mark.parametrize("start", [b"GET /livez HT", PREDICT, b"POST /predict HTTP/1.1\r\nx:" + b" " * 500])
def test_a_head_that_does_not_come_to_its_end(port: int, start: bytes) -> None:
    with Client(port) as client:
        client.send(LIVEZ)
        assert client.reply()[0] == 200
        client.send(start)
        refused(client, 408, "0.3 s", "LSTMSERVE_HEADER_SECONDS")
    assert closed(port, "head_slow") == 1


def test_a_head_of_drops_has_no_more_time(port: int) -> None:
    with Client(port) as client:
        client.send(b"GET /livez HTTP/1.1\r\n")
        client._socket.settimeout(0.05)
        for _ in range(200):
            try:
                client.send(b"x: y\r\n")
                client._more()
            except TimeoutError:
                continue
            except ConnectionError:
                pass
            break
        client._socket.settimeout(20)
        refused(client, 408)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 2000 + b" HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nx: " + b"y" * 2000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"x: y\r\n" * 300 + b"\r\n",
        PREDICT + b"y" * 2000,
    ],
)
def test_a_head_over_the_limit(port: int, head: bytes) -> None:
    with Client(port) as client:
        client.send(head)
        refused(client, 431, "1024 bytes", "LSTMSERVE_MAX_HEADER_BYTES")
    assert closed(port, "head_large") == 1


def test_a_head_just_within_the_limit(port: int) -> None:
    with Client(port) as client:
        client.send(LIVEZ[:-2] + b"x: " + b"y" * 900 + b"\r\n\r\n")
        assert client.reply()[0] == 200


@pytest.mark.parametrize("start", [b"GET /livez HTTP/1.1\r\nx: ", b"GET /livez HTTP/1.1\r\n", b""])
def test_a_head_without_end_is_not_kept(port: int, start: bytes) -> None:
    with Client(port) as client:
        client.send(start)
        client.flood(b"\r\n" * 32768 if not start else b"y" * 65536)


@pytest.mark.parametrize(
    "endless",
    [
        b"2\r\n[]\r\n0\r\nx: " + b"y" * 70_000,  # a trailer
        b"2;" + b"y" * 70_000,  # a chunk's extension
    ],
)
def test_what_is_no_body_is_bounded_after_the_head_too(port: int, endless: bytes) -> None:
    with Client(port) as client:
        client.send(PREDICT + b"Transfer-Encoding: chunked\r\n\r\n" + endless)
        assert client.reply()[0] == 431
        client.ends()


def test_chunks_of_one_byte_are_a_body_like_any(port: int) -> None:
    body = json.dumps({"token_ids": [[5, 6]]} | {"lengths": [2]}).encode() + b" " * 3000
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\nX-Request-Timeout-Ms: 0\r\n\r\n"
    with Client(port) as client:
        client.send(PREDICT + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + LIVEZ)
        assert json.loads(client.reply()[2])["logits"] == [right([5, 6])], "a trailer is no header"
        assert client.reply()[0] == 200


@pytest.mark.parametrize(
    "bad",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        "GET /ünïcode HTTP/1.1\r\n\r\n".encode(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        PREDICT + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        PREDICT + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        PREDICT + b"Content-Length: -1\r\n\r\n",
        PREDICT + b"Content-Length: 99999999999999999999999\r\n\r\n",
        PREDICT + b"Bad Header: x\r\n\r\n",
        PREDICT + b"Transfer-Encoding: chunked\r\n\r\nnot a size\r\n",
    ],
)
def test_what_is_not_http(port: int, bad: bytes) -> None:
    with Client(port) as client:
        client.send(bad)
        refused(client, 400, "RFC 9112")
    assert closed(port, "malformed") == 1
    assert httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200


def test_what_was_asked_before_something_malformed_is_answered(fake: Fake, port: int) -> None:
    fake.gate.clear()
    with Client(port) as client:
        client.send(ask([1, 2]) + ask([3]) + b"GARBAGE\r\n\r\n")
        assert fake.stepping.acquire(timeout=10)
        fake.gate.set()
        assert json.loads(client.reply()[2])["logits"] == [right([1, 2])]
        _, headers, body = client.reply()
        assert json.loads(body)["logits"] == [right([3])]
        assert headers["connection"] == "close"
        assert client.ends() == b""


def test_a_new_connection_takes_the_place_of_the_one_that_rests_longest(port: int) -> None:
    with contextlib.ExitStack() as stack:
        first, *others = [stack.enter_context(Client(port)) for _ in range(8)]
        for client in (*others, first):
            client.send(LIVEZ)
            assert client.reply()[0] == 200
        with Client(port) as probe:
            probe.send(LIVEZ)
            assert probe.reply()[0] == 200
        assert others[0].ends() == b"", "it has rested longest"
        for client in (first, *others[1:]):
            client.send(LIVEZ)
            assert client.reply()[0] == 200
    assert closed(port, "crowded_out") == 1


def test_a_probe_gets_in_among_many_slow_ones(port: int) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            for _ in range(20):
                stack.enter_context(Client(port)).send(PREDICT)
            with Client(port) as probe:
                probe.send(LIVEZ)
                assert probe.reply()[0] == 200


def test_where_all_are_busy_a_new_one_is_told(fake: Fake, port: int) -> None:
    fake.gate.clear()
    with contextlib.ExitStack() as stack:
        busy = [stack.enter_context(Client(port)) for _ in range(8)]
        for number, client in enumerate(busy, 1):
            client.send(ask([number]))
            assert fake.stepping.acquire(timeout=10)
        with Client(port) as late:
            refused(late, 503, "LSTMSERVE_MAX_CONNECTIONS")
        fake.gate.set()
        for number, client in enumerate(busy, 1):
            assert json.loads(client.reply()[2])["logits"] == [right([number])]
    assert closed(port, "busy") == 1


def test_who_does_not_take_his_replies_is_cut_off(port: int) -> None:
    with Client(port) as client:
        client.send(b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: test\r\n\r\n" * 10)  # 17 MB
        for _ in range(10_000):
            if closed(port, "not_reading"):
                break
        else:
            raise AssertionError("it was never cut off")


@pytest.mark.parametrize("length", [b"Content-Length: 1000000", b"Transfer-Encoding: chunked"])
def test_a_body_that_goes_on_after_its_answer_has_an_end(port: int, length: bytes) -> None:
    with Client(port) as client:
        client.send(b"POST /nothing HTTP/1.1\r\nHost: test\r\n" + length + b"\r\n\r\n")
        assert client.reply()[0] == 404
        client._socket.settimeout(0.05)
        for _ in range(400):
            try:
                client.send(b"1\r\nx\r\n")
                client._more()
            except TimeoutError:
                continue
            except (ConnectionError, EOFError):
                return
        raise AssertionError("it was never cut off")


def test_replies_while_draining_end_their_connections(fake: Fake) -> None:
    app = fake_app(fake)
    with serving(app) as port, Client(port) as client:
        client.send(ask([1]))
        assert "connection" not in client.reply()[1]
        app.state.health.draining = True
        client.send(ask([2]))
        status, headers, _ = client.reply()
        assert (status, headers["connection"]) == (200, "close")
        assert client.ends() == b""


@pytest.mark.parametrize(("wanted", "most", "expected"), [(100, 1000, 100), (4096, 1000, 744)])
def test_as_many_files_as_connections_need(wanted: int, most: int, expected: int) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(__import__('sys').argv[2])));"
        "from service.server import open_files;"
        "print(open_files(int(__import__('sys').argv[1])), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(wanted), str(most)], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [str(expected), str(expected + 256)]
    assert ("LSTMSERVE_MAX_CONNECTIONS" in found.stderr) is (expected < wanted)


@pytest.fixture
def full(fake: Fake) -> Iterator[int]:
    """A service in which 250 tokens wait and six more have room: a body of at most 55 bytes."""
    settings = {**SMALL, "max_connections": 64, "timeout_ms": 30_000}
    fake.gate.clear()
    with serving(fake_app(fake, lanes=1, **settings), **settings) as port, contextlib.ExitStack() as stack:
        for tokens in (1, *[16] * 15, 10):
            stack.enter_context(Client(port)).send(ask([1] * tokens))
        while "lstmserve_queue_tokens 250.0" not in httpx.get(f"http://127.0.0.1:{port}/metrics").text:
            pass
        yield port
        fake.gate.set()


def test_a_body_that_has_no_room_is_refused_before_it_comes(full: int) -> None:
    with Client(full) as client:
        client.send(PREDICT + b"X-Request-ID: mine\r\nContent-Length: 56\r\n\r\n")
        status, headers, body = client.reply()
        problem = json.loads(body)
        assert (status, problem["status"], problem["request_id"], headers["x-request-id"]) == (429, 429, "mine", "mine")
        assert "more than 256 tokens would be waiting" in problem["detail"]
        assert int(headers["retry-after"]) >= 1
        client.send(b" " * 56 + LIVEZ)
        assert client.reply()[0] == 200, "the connection goes on"
        client.send(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: test\r\nContent-Length: 4000\r\n\r\n")
        status, _, body = client.reply()
        assert (status, list(json.loads(body))) == (429, ["error"])
        client.ends()
    with Client(full) as client:
        client.send(PREDICT + b"Expect: 100-continue\r\nContent-Length: 56\r\n\r\n")
        assert client.reply()[1]["connection"] == "close"
        assert client.ends() == b"", "it may have sent its body or not"
    with Client(full) as client:
        client.send(b"POST /v2/repository/index HTTP/1.1\r\nHost: test\r\nContent-Length: 4000\r\n\r\n")
        assert client.reply()[0] == 403, "who mends the service gets in"
    text = httpx.get(f"http://127.0.0.1:{full}/metrics").text
    assert 'lstmserve_refusals_total{reason="Overloaded"} 3.0' in text
    assert 'lstmserve_requests_total{method="POST",route="none",status="429"} 3.0' in text


def test_each_of_many_refusals_has_its_own_id(full: int) -> None:
    """They are made once and told often."""
    with Client(full) as client:
        ids = []
        for sent in ("a", "b", "", "request-1", "request-2", "~", ""):
            client.send(PREDICT + f"X-Request-ID: {sent}\r\nContent-Length: 56\r\n\r\n".encode() + b" " * 56)
            status, headers, body = client.reply()
            assert (status, json.loads(body)["request_id"]) == (429, headers["x-request-id"])
            ids.append(headers["x-request-id"])
        assert [ids[0], ids[1], ids[3], ids[4]] == ["a", "b", "request-1", "request-2"]
        assert len({ids[2], ids[5], ids[6]}) == 3
        assert {len(ids[number]) for number in (2, 5, 6)} == {32}


def test_a_body_that_may_have_room_is_read(full: int) -> None:
    with Client(full) as client:
        client.send(PREDICT + b"Content-Length: 55\r\n\r\n" + b'{"token_ids":[[1,2,3,4,5,6,7]]}'.ljust(55))
        status, _, body = client.reply()
        assert (status, json.loads(body)["detail"][:37]) == (429, "more than 256 tokens would be waiting")


def test_what_waits_unread_is_told_once_a_second(full: int, caplog: pytest.LogCaptureFixture) -> None:
    with Client(full) as client:
        for _ in range(50):
            client.send(PREDICT + b"Content-Length: 56\r\n\r\n" + b" " * 56)
            assert client.reply()[0] == 429
    told: list[int] = []
    for _ in range(1000):
        told = [vars(record)["requests"] for record in caplog.records if record.name == "service.connections"]
        if sum(told) == 50:
            break
        httpx.get(f"http://127.0.0.1:{full}/livez")
    assert sum(told) == 50
    assert len(told) < 10


def test_trailers_are_not_kept(port: int) -> None:
    """However long the body before them was."""
    with Client(port) as client:
        client.send(b"POST /nothing HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert client.reply()[0] == 404
        client.send(b"200000\r\n" + b"x" * 0x200000 + b"\r\n0\r\n")
        client.flood(b"a:b\r\n" * 2000)


def test_a_pipeline_that_is_not_read_has_an_end(fake: Fake, port: int) -> None:
    fake.gate.clear()
    with Client(port) as client:
        client.send(ask([1]))
        assert fake.stepping.acquire(timeout=10)
        client.send(LIVEZ * 100)
        while not closed(port, "not_reading"):
            pass
        fake.gate.set()
        assert json.loads(client.reply()[2])["logits"] == [right([1])]
        replies = [client.reply() for _ in range(PIPELINED)]
        assert {status for status, _, _ in replies} == {200}
        assert replies[-1][1]["connection"] == "close"
        assert client.ends() == b""


def test_what_comes_after_a_refused_head_is_not_asked(fake: Fake, port: int) -> None:
    with Client(port) as client:
        client.send(b"GET /livez HTTP/1.1\r\nx: " + b"y" * 2000 + b"\r\n\r\n" + ask([7]))
        refused(client, 431)
    assert httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200
    assert fake.started == []


def test_after_something_malformed_nothing_more_is_heard(fake: Fake) -> None:
    settings = {**SMALL, "timeout_ms": 30_000}
    fake.gate.clear()
    with serving(fake_app(fake, **settings), **settings) as port, Client(port) as client:
        client.send(ask([1]) + b"GARBAGE\r\n\r\n")
        assert fake.stepping.acquire(timeout=10)
        for _ in range(5):
            client.send(b"GARBAGE\r\n\r\n")
            httpx.get(f"http://127.0.0.1:{port}/livez")
        fake.gate.set()
        assert client.reply()[0] == 200
        assert client.ends() == b""
        assert closed(port, "malformed") == 1


def test_a_probe_gets_in_where_all_bodies_are_slow(port: int) -> None:
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(Client(port)) for _ in range(8)]
        for client in slow:
            client.send(PREDICT + b"Content-Length: 1000\r\n\r\n ")
        while closed(port, "crowded_out") == 0:
            pass
        with Client(port) as probe:
            probe.send(LIVEZ)
            assert probe.reply()[0] == 200
        refused(slow[0], 503, "LSTMSERVE_MAX_CONNECTIONS", "slow")


def test_a_body_that_may_come_after_its_reply_ends_the_connection(port: int) -> None:
    with Client(port) as client:
        client.send(b"POST /nothing HTTP/1.1\r\nHost: test\r\nContent-Length: 40\r\nExpect: 100-continue\r\n\r\n")
        status, headers, _ = client.reply()
        assert (status, headers["connection"]) == (404, "close")


def test_bodies_on_their_way_are_bounded_together(fake: Fake) -> None:
    settings = {**SMALL, "max_connections": 200, "timeout_ms": 30_000}
    with serving(fake_app(fake, **settings), **settings) as port, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(port)) for _ in range(70)]
        for client in clients:
            client.send(PREDICT + b"Content-Length: 5000\r\n\r\n" + b" " * 4000)
        refused(clients[-1], 503, "arriving")
        clients[0].send(b" " * 1000)
        assert clients[0].reply()[0] == 413


def test_a_few_open_files_are_too_few() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200));"
        "from service.server import open_files; open_files(100)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "SettingsError: 200 open files are too few: at least 264 are needed (ulimit -n)" in found.stderr


@pytest.mark.parametrize("wish", [b"h2c", b"websocket"])
def test_a_wish_for_another_protocol_is_passed_over(port: int, wish: bytes) -> None:
    body = b'{"token_ids": [[5, 6]]}'
    with Client(port) as client:
        client.send(
            PREDICT
            + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %b\r\nHTTP2-Settings: AAMAAABk\r\n" % wish
            + b"Content-Length: %d\r\n\r\n" % len(body)
            + body
        )
        assert json.loads(client.reply()[2])["logits"] == [right([5, 6])]


def test_a_body_over_the_limit_is_told_so_and_holds_no_room(full: int) -> None:
    with Client(full) as client:
        client.send(PREDICT + b"Content-Length: 5000\r\n\r\n" + b" " * 5000)
        assert client.reply()[0] == 413, "not to come back later"


def test_a_length_of_thousands_of_digits_is_too_much(fake: Fake, port: int) -> None:
    fake.gate.clear()
    with Client(port) as client:
        client.send(ask([1]) + PREDICT + b"Content-Length: " + b"0" * 900 + b"2\r\n\r\n{}")
        assert fake.stepping.acquire(timeout=10)
        fake.gate.set()
        assert client.reply()[0] == 200
        assert client.reply()[0] == 413
