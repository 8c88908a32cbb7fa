"""The process: start, signals, exit status. Real processes and real signals."""

import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import pytest

from service.serve import main
from tests.server import Server
from tests.tiny import write_tiny

pytestmark = pytest.mark.usefixtures("root_logger")  # main() sets logging up for the process

LONG = {"token_ids": [[3] * 4096] * 64}
SLOW = ("--threads", "1", "--precision", "float32", "--timeout-ms", "120000")
"""With these `LONG` is seconds of work for the large model, on any engine."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    write_tiny(folder / "imdb" / "1")
    return folder


@pytest.fixture(scope="module")
def slow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slow")
    write_tiny(folder / "imdb" / "1", hidden_size=192, embedding_dim=64, max_length=4096)
    return folder


def unprivileged_pid_namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--fork", "--pid", "true"], capture_output=True).returncode == 0


PID_1 = pytest.param(
    ("unshare", "--fork", "--pid", "--kill-child"),
    id="as PID 1",
    marks=pytest.mark.skipif(not unprivileged_pid_namespaces(), reason="needs root and unshare for a PID namespace"),
)


def send(server: Server, number: signal.Signals) -> None:
    os.kill(service_pid(server), number)


def handles(server: Server, number: signal.Signals) -> bool:
    """Whether the service has a handler for the signal."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{service_pid(server)}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def service_pid(server: Server) -> int:
    """That of the service itself: where it is PID 1 of a namespace, unshare stands before it."""
    process = server.process.pid
    if not server.prefix:
        return process
    children = Path(f"/proc/{process}/task/{process}/children")
    until(lambda: children.read_text() != "")
    return int(children.read_text().split()[0])


def until(holds: Callable[[], bool]) -> None:
    """Waits until it holds. Raises AssertionError after a minute."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it never holds"
        time.sleep(0.005)


def has_logged(server: Server, message: str, times: int) -> bool:
    return [record["message"] for record in server.log].count(message) == times


def wait_for_requests(server: Server, number: int) -> None:
    """Until so many are in flight, the one that asks included."""
    sample = f"lstmserve_requests_in_flight {number}.0"
    until(lambda: sample in httpx.get(f"{server.url}/metrics").text)


@pytest.mark.parametrize("prefix", [pytest.param((), id="plain"), PID_1])
def test_sigterm_finishes_what_is_in_flight_and_exits_0(slow_store: Path, prefix: Sequence[str]) -> None:
    with Server(slow_store, "--drain-seconds", "2", *SLOW, prefix=prefix) as server:
        replies: list[httpx.Response] = []
        sender = threading.Thread(
            target=lambda: replies.append(httpx.post(f"{server.url}/predict", json=LONG, timeout=120))
        )
        sender.start()
        with httpx.Client(base_url=server.url) as client:
            wait_for_requests(server, 2)
            assert client.get("/readyz").status_code == 200
            send(server, signal.SIGTERM)
            until(lambda: client.get("/readyz").status_code == 503)
            assert not replies
            # it goes on answering until the delay is over
            assert client.post("/predict", json={"token_ids": [[3, 4]]}).status_code == 200
        sender.join()
        assert replies[0].status_code == 200
        assert len(replies[0].json()["logits"]) == 64
        assert server.wait() == 0
    assert [record["message"] for record in server.log][-1] == "stopped"


def test_sigint_exits_0_without_the_drain_delay(store: Path) -> None:
    with Server(store, "--drain-seconds", "60") as server:
        assert httpx.get(f"{server.url}/livez").status_code == 200
        send(server, signal.SIGINT)
        assert server.wait(20) == 0


def test_a_second_sigterm_does_not_wait_for_the_drain_delay(store: Path) -> None:
    with Server(store, "--drain-seconds", "60") as server:
        assert httpx.get(f"{server.url}/livez").status_code == 200
        send(server, signal.SIGTERM)
        until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
        send(server, signal.SIGTERM)
        assert server.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("prefix", [pytest.param((), id="plain"), PID_1])
def test_a_signal_while_models_are_loading_exits_0(
    tmp_path: Path, prefix: Sequence[str], number: signal.Signals
) -> None:
    write_tiny(tmp_path / "imdb" / "1")
    config = tmp_path / "imdb" / "1" / "config.json"
    config.unlink()
    os.mkfifo(config)  # nobody writes: reading it takes for ever
    server = Server(tmp_path, prefix=prefix)
    until(lambda: handles(server, signal.SIGTERM))
    send(server, number)
    with server:
        assert server.wait(30) == 0
    assert len(server.log) == len(server.lines)
    assert {record["level"] for record in server.log} <= {"INFO"}


def test_a_third_signal_waits_for_nothing(store: Path) -> None:
    with Server(store, "--drain-seconds", "60", "--shutdown-seconds", "60") as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as stalled:
            stalled.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            wait_for_requests(server, 2)
            for heard in range(1, 4):
                send(server, signal.SIGTERM)
                until(functools.partial(has_logged, server, "draining", heard))
                time.sleep(0.3)  # the server looks up every 0.1 s
            assert server.wait(20) == 0


def test_requests_still_running_at_the_shutdown_limit_are_cut_off(slow_store: Path) -> None:
    with Server(slow_store, "--drain-seconds", "0", "--shutdown-seconds", "1", *SLOW) as server:
        endings: list[object] = []

        def post() -> None:
            try:
                endings.append(httpx.post(f"{server.url}/predict", json={"token_ids": [[3] * 4096] * 256}, timeout=120))
            except httpx.HTTPError as error:
                endings.append(error)

        sender = threading.Thread(target=post)
        sender.start()
        wait_for_requests(server, 2)
        send(server, signal.SIGTERM)
        assert server.wait(30) == 0
        sender.join()
        assert isinstance(endings[0], httpx.Response)
        assert "LSTMSERVE_SHUTDOWN_SECONDS" in endings[0].json()["detail"]
    cut = [record for record in server.log if record.get("path") == "/predict"]
    assert [record["status"] for record in cut] == [503]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a start with these arguments ends with; what the log says before it is JSON."""
    assert main(arguments) == 2
    *logged, last = capsys.readouterr().err.splitlines()
    assert all(json.loads(line) for line in logged)
    return last


def test_a_missing_store_model_or_version_is_named(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing"
    assert str(missing) in refused(capsys, "--store", str(missing))
    assert str(store / "nope") in refused(capsys, "--store", str(store), "--model", "nope")
    (tmp_path / "imdb" / "1").mkdir(parents=True)
    assert f"{tmp_path / 'imdb'}: has no complete version" in refused(capsys, "--store", str(tmp_path))


def test_a_broken_version_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny(tmp_path / "imdb" / "1")
    weights = tmp_path / "imdb" / "1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert f"{weights}: differs from its digest" in refused(capsys, "--store", str(tmp_path))


def test_a_taken_port_is_named(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = refused(capsys, "--store", str(store), "--port", str(port), "--threads", "1", "--log-level", "error")
    assert f"cannot listen on 127.0.0.1 port {port}" in message


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "no.such.host.invalid"])
def test_a_host_that_is_none_is_named(store: Path, capsys: pytest.CaptureFixture[str], host: str) -> None:
    message = refused(capsys, "--store", str(store), "--host", host, "--allow-anonymous", "true", "--threads", "1")
    assert f"cannot listen on {host} port 8000: " in message


def test_an_ipv6_address_is_a_url_in_the_log(store: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"needs IPv6 on loopback: {error}")
    with Server(store, "--host", "::1") as server:
        assert server.url.startswith("http://[::1]:")
        assert httpx.get(f"{server.url}/readyz").json() == {"status": "ready"}


def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LSTMSERVE_PROT", "1")
    assert "LSTMSERVE_PROT: unknown setting; did you mean LSTMSERVE_PORT?" in refused(capsys)


def test_the_command_exits_2_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "--store", str(tmp_path / "none")], capture_output=True, text=True
    )
    assert done.returncode == 2
    *logged, last = done.stderr.splitlines()
    assert last == f"lstm-serve: {tmp_path / 'none'}: no such folder of models (LSTMSERVE_STORE), or it cannot be read"
    assert all(json.loads(line) for line in logged)


def test_the_log_says_what_serves(store: Path) -> None:
    with Server(store, "--engine", "packed", "--device", "cpu", "--threads", "2") as server:
        assert server.url
    serving = next(record for record in server.log if record["message"] == "serving")
    assert (serving["engine"], serving["device"], serving["threads"]) == ("packed", "cpu", 2)
    assert serving["models"] == {"imdb": {"version": 1, "precision": "float32"}}


def test_cycles_are_collected_when_nothing_is_asked(store: Path) -> None:
    program = """
import gc, logging, sys
from service import garbage, serve
garbage.LOOK_SECONDS, garbage.COLLECT_SECONDS = 0.01, 0.0
def tell(phase, info):
    if phase == "stop" and info["generation"] == 2 and gc.get_freeze_count():
        logging.getLogger("service").info("collected")
gc.callbacks.append(tell)
sys.exit(serve.main())
"""
    with Server(store, program=("-c", program)) as server:
        until(lambda: any(record["message"] == "collected" for record in server.log))


def test_on_the_native_engine_torch_is_not_loaded(store: Path) -> None:
    pytest.importorskip("service.engine.native", reason="the native engine is not built", exc_type=ImportError)
    with Server(store, "--engine", "native") as server:
        reply = httpx.post(f"{server.url}/predict", json={"token_ids": [[3, 4]]})
        assert reply.status_code == 200
        libraries = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "_core" in libraries
    assert "libtorch" not in libraries


def test_an_engine_that_cannot_run_is_named(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "--store", str(store), "--engine", "native", "--device", "cuda")
    assert message.startswith("lstm-serve: LSTMSERVE_ENGINE=native computes on the CPU: set LSTMSERVE_DEVICE=cpu")


def test_a_start_that_fails_leaves_no_engine_thread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, "--store", str(tmp_path), "--engine", "packed", "--device", "cpu")
    assert not [thread for thread in threading.enumerate() if thread.name == "engine"]


def test_every_log_line_is_json_and_requests_carry_their_id(store: Path) -> None:
    with Server(store) as server:
        httpx.get(f"{server.url}/docs", headers={"X-Request-ID": "from-the-client"})
        send(server, signal.SIGINT)
        server.wait()
    assert len(server.log) == len(server.lines)
    requests = [record for record in server.log if record["message"] == "request"]
    assert [record["request_id"] for record in requests] == ["from-the-client"]
    assert requests[0]["status"] == 200
