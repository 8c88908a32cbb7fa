"""The service's memory stays where it is, whatever the lengths and however many requests."""

import http.client
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.server import Server
from tests.tiny import write_tiny

MAX_TOKENS = 4096


def resident(process: int) -> int:
    """Bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise LookupError(f"process {process} has no VmRSS")


def send(url: str, first: int, last: int) -> None:
    """One sequence a request, over all lengths in turn, on four connections."""

    def work(offset: int) -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        for number in range(first + offset, last, 4):
            length = number * 1031 % MAX_TOKENS + 1
            body = '{"token_ids":[[' + "3," * (length - 1) + "7]]}"
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            reply.read()
            if reply.status != 200:
                failed.append(reply.status)
        connection.close()

    failed: list[int] = []
    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_is_flat_over_all_lengths(tmp_path: Path) -> None:
    write_tiny(
        tmp_path / "imdb" / "1", hidden_size=32, num_layers=2, max_length=MAX_TOKENS, pooling=("last", "max", "mean")
    )
    with Server(tmp_path, "--engine", "native") as server:
        send(server.url, 0, 2_000)
        before = resident(server.process.pid)
        send(server.url, 2_000, 20_000)
        after = resident(server.process.pid)
    assert after - before <= 5 << 20
