"""An engine thread that never comes to the end of a step: all are told, and the process ends for its supervisor."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import httpx
import pytest

from tests.fake_engine import refused
from tests.faulty_core import BUILT
from tests.server import Server
from tests.tiny import write_tiny

HANGS = 1234
"""The token id in whose step a thread hangs."""

HELD = 100
"""Requests that wait for it, or are still sent when it is found; each is told before the process is gone."""

NATIVE = f"""
import importlib.util, pathlib, sys
import service.engine
[library] = pathlib.Path({str(BUILT)!r}).glob("_core.*.so")
spec = importlib.util.spec_from_file_location("service.engine._core", library)
core = sys.modules[spec.name] = service.engine._core = importlib.util.module_from_spec(spec)
spec.loader.exec_module(core)
core.inject("step", {HANGS}, "hang")
"""

PACKED = f"""
import sys, threading
from models.network import SequenceClassifier
predict = SequenceClassifier.predict
def hanging(self, sequences):
    if any({HANGS} in sequence for sequence in sequences):
        threading.Event().wait()
    return predict(self, sequences)
SequenceClassifier.predict = hanging
"""

SERVE = """
from service.serve import main
sys.exit(main())
"""


@pytest.mark.parametrize(("engine", "program"), [("native", NATIVE), ("packed", PACKED)])
def test_a_stuck_thread_ends_the_process(tmp_path: Path, engine: str, program: str) -> None:
    artifact = write_tiny(tmp_path / "imdb" / "1", vocab_size=2000)
    assert not any(HANGS in case.token_ids for case in artifact.golden)
    flags = ["--engine", engine, "--threads", "1", "--stuck-seconds", "2"]
    with Server(tmp_path, *flags, program=("-c", program + SERVE)) as server:
        probes: Counter[int | str] = Counter()

        def probe() -> None:
            with httpx.Client(base_url=server.url) as client:
                while True:
                    try:
                        probes[client.get("/readyz").status_code] += 1
                    except httpx.TransportError:
                        return

        with httpx.Client(base_url=server.url, timeout=30, limits=httpx.Limits(max_connections=None)) as client:
            assert client.post("/predict", json={"token_ids": [[5, 6]]}).status_code == 200
            probing = threading.Thread(target=probe)
            probing.start()

            def ask(rows: list[list[int]]) -> httpx.Response:
                return client.post("/predict", json={"token_ids": rows})

            def ask_late() -> httpx.Response:
                return client.post("/predict", content=body(), headers={"Content-Type": "application/json"})

            def body() -> Iterator[bytes]:
                yield b'{"token_ids": '
                wait(asked)
                yield b"[[5, 6]]}"

            with ThreadPoolExecutor(HELD) as callers:
                asked = [callers.submit(ask, [[HANGS]])]
                wait_for_requests(client, 1)
                asked += [callers.submit(ask, [[5, 6] * 20] * 5) for _ in range(HELD - 2)]
                late = callers.submit(ask_late)
                wait_for_requests(client, HELD)
            for each in asked:
                assert "send the request elsewhere" in refused(each.result(), 503).detail
            assert "send requests elsewhere" in refused(late.result(), 503).detail
        assert server.wait() == 70
        probing.join()
        assert probes[200] > 0
        assert probes[503] > 0
        told = [record for record in server.log if record["level"] == "CRITICAL"]
        assert "LSTMSERVE_STUCK_SECONDS" in told[0]["reason"]
        assert not any("Traceback" in line for line in server.lines)


def wait_for_requests(client: httpx.Client, number: int) -> None:
    """Until so many are in flight beside the one that asks."""
    while f"lstmserve_requests_in_flight {number + 1}.0" not in client.get("/metrics").text:
        pass


def test_a_thread_that_is_stuck_from_the_start_ends_the_process_too(tmp_path: Path) -> None:
    artifact = write_tiny(tmp_path / "imdb" / "1", vocab_size=2000)
    token = artifact.golden[0].token_ids[0]
    flags = ["--engine", "native", "--stuck-seconds", "1"]
    program = NATIVE.replace(f'"step", {HANGS}', f'"step", {token}') + SERVE
    with Server(tmp_path, *flags, program=("-c", program)) as server:
        assert server.wait() == 70
    assert not any("Traceback" in line for line in server.lines)
