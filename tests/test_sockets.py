"""POST /predict over real connections: clients that leave, and bodies too large to send."""

import contextlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import httpx
import pytest

from tests.fake_engine import Fake, fake_app, refused, right
from tests.serving import serving

JSON = {"Content-Type": "application/json"}


def connect(port: int, body: bytes, *headers: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    lines = ["POST /predict HTTP/1.1", "Host: test", "Content-Type: application/json", *headers, "", ""]
    client.sendall("\r\n".join(lines).encode() + body)
    return client


@pytest.fixture
def port(fake: Fake) -> Iterator[int]:
    with serving(fake_app(fake, lanes=1)) as port:
        yield port
        fake.gate.set()


def metric(port: int, name: str) -> float:
    lines = httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])


def wait_for(port: int, name: str, value: float) -> None:
    for _ in range(1000):
        if metric(port, name) == value:
            return
    raise AssertionError(f"{name} is {metric(port, name)}, never {value}")


def test_a_client_that_disconnects_frees_what_it_holds(fake: Fake, port: int) -> None:
    def ask(token: int) -> socket.socket:
        body = json.dumps({"token_ids": [[token, token]]}).encode()
        return connect(port, body, f"Content-Length: {len(body)}")

    fake.gate.clear()
    in_a_step = ask(1)
    assert fake.stepping.acquire(timeout=10)
    waiting, stays = ask(2), ask(3)
    wait_for(port, "lstmserve_queue_sequences", 2)
    waiting.close()
    wait_for(port, "lstmserve_queue_sequences", 1)
    in_a_step.close()
    wait_for(port, "lstmserve_requests_in_flight", 2)  # `stays`, and this one
    fake.gate.set()
    reply = stays.recv(65536)
    stays.close()
    assert reply.startswith(b"HTTP/1.1 200")
    assert json.dumps(right([3, 3])).replace(" ", "").encode() in reply
    assert fake.started == [[1, 1], [3, 3]]
    left = 'lstmserve_requests_total{method="POST",route="/predict",status="499"}'
    assert metric(port, left) == 2


def test_a_client_that_leaves_amid_its_body(fake: Fake, port: int) -> None:
    connect(port, b'{"token_ids"', "Content-Length: 100").close()
    wait_for(port, "lstmserve_requests_in_flight", 1)
    for _ in range(100):
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        if 'route="/predict",status="499"} 1.0' in text:
            break
    else:
        raise AssertionError(text)
    assert fake.started == []


MEGABYTE = b"x" * (1 << 20)


@pytest.mark.parametrize("chunked", [False, True])
def test_an_oversized_body_gets_its_reply_over_a_socket(port: int, chunked: bool) -> None:
    """50 MB, by a client that sends all it can before it listens."""
    header = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {50 * len(MEGABYTE)}"
    with connect(port, b"", header) as client:
        with contextlib.suppress(ConnectionError):  # it may be told to stop
            for _ in range(50):
                client.sendall(b"100000\r\n" + MEGABYTE + b"\r\n" if chunked else MEGABYTE)
        reply = client.recv(65536)
    assert reply.startswith(b"HTTP/1.1 413")
    assert b"application/problem+json" in reply


@pytest.mark.parametrize("chunked", [False, True])
def test_an_oversized_body_gets_its_reply_by_httpx(port: int, chunked: bool) -> None:
    content = (MEGABYTE for _ in range(50)) if chunked else MEGABYTE * 50
    reply = httpx.post(f"http://127.0.0.1:{port}/predict", content=content, headers=JSON)
    assert "LSTMSERVE_MAX_BODY_BYTES" in refused(reply, 413).detail


def test_a_body_that_is_far_too_large_is_refused_before_it_comes(port: int) -> None:
    with connect(port, b"", "Content-Length: 10000000000000") as client:
        assert client.recv(65536).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("path", "size", "status"), [("/predict", 3 << 20, 413), ("/models/none/predict", 1 << 20, 404)]
)
def test_a_client_that_listens_only_when_all_is_sent_gets_its_refusal(
    fake: Fake, path: str, size: int, status: int
) -> None:
    limit = {"max_body_bytes": 2 << 20}
    with serving(fake_app(fake, **limit), **limit) as port, pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", b" " * size, JSON))
    with refusal.value as reply:
        assert reply.status == status
        assert json.load(reply)["status"] == status


def test_a_body_that_does_not_come_is_not_waited_for(port: int) -> None:
    with connect(port, b'{"token_ids"', "Content-Length: 100", "X-Request-Timeout-Ms: 50") as client:
        reply = client.recv(65536)
        assert reply.startswith(b"HTTP/1.1 408")
        assert b"connection: close" in reply.lower()
        assert client.recv(65536) == b""


def test_of_many_unknown_fields_one_is_named_and_all_are_counted(port: int) -> None:
    body = "{" + ",".join(f'"{number}":0' for number in range(400)) + ',"token_ids":[[1]]}'
    problem = refused(httpx.post(f"http://127.0.0.1:{port}/predict", content=body, headers=JSON), 422)
    assert problem.error_count == 1
    assert problem.errors is not None
    assert "400 unknown fields" in problem.errors[0].detail


def test_a_connection_serves_many_requests(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for n in range(1, 30):
            row = [n, n]
            reply = client.post("/predict", json={"token_ids": [row]})
            assert reply.json()["logits"] == [right(row)]
            assert client.post("/predict", content=b"{", headers=JSON).status_code == 400
