"""The servers under measurement, as processes on this machine."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

ROOT = Path(__file__).parents[1]
START_SECONDS = 60


class Command(NamedTuple):
    """How a server is started; the port follows."""

    arguments: Sequence[str]
    environment: Mapping[str, str]


def service(store: Path, model: str, log_level: str = "warning") -> Command:
    """The service with its default settings."""
    flags = ["--store", str(store), "--model", model, "--log-level", log_level]
    return Command([sys.executable, "-m", "service", *flags], {})


def baseline(version: Path, processes: int) -> Command:
    flags = ["--workers", str(processes), "--no-access-log", "--log-level", "warning", "--timeout-keep-alive", "75"]
    return Command([sys.executable, "-m", "uvicorn", "benchmarks.baseline:app", *flags], {"VERSION": str(version)})


class Server:
    """A running server on a free port of the loopback interface; a context manager that ends it."""

    def __init__(self, command: Command) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LSTMSERVE_")}
        self._name = command.arguments[2]
        self._began = time.perf_counter()
        self._process = subprocess.Popen(
            [*command.arguments, "--port", str(port)], cwd=ROOT, env={**inherited, **command.environment}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def descriptors(self) -> int:
        """Open ones, of all its processes."""
        return sum(1 for pid in self._pids() for _ in Path(f"/proc/{pid}/fd").iterdir())

    def ready(self) -> None:
        """Waits until it is. Raises RuntimeError."""
        while self._process.poll() is None and time.perf_counter() < self._began + START_SECONDS:
            with (
                contextlib.suppress(urllib.error.URLError, ConnectionError),
                urllib.request.urlopen(f"{self.url}/readyz"),
            ):
                return
            time.sleep(0.005)
        raise RuntimeError(f"{self._name} is not ready within {START_SECONDS} seconds of its start")

    def precision(self) -> str:
        """What it computes in, as its metrics say; float32 where they do not."""
        try:
            with urllib.request.urlopen(f"{self.url}/metrics") as reply:
                found = re.search(r'^lstmserve_model{.*precision="(\w+)"', reply.read().decode(), re.MULTILINE)
        except urllib.error.HTTPError:
            return "float32"
        return found[1] if found else "float32"

    def first_reply(self, body: bytes) -> tuple[float, bytes]:
        """Seconds from the process's start to its reply to /predict, and the reply.

        Raises RuntimeError without one, HTTPError when it refuses.
        """
        request = urllib.request.Request(f"{self.url}/predict", body, {"Content-Type": "application/json"})
        while self._process.poll() is None and time.perf_counter() < self._began + START_SECONDS:
            try:
                with urllib.request.urlopen(request) as reply:
                    content: bytes = reply.read()
                return time.perf_counter() - self._began, content
            except urllib.error.HTTPError:
                raise
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.005)
        raise RuntimeError(f"{self._name} gave no answer within {START_SECONDS} seconds of its start")

    def resident(self) -> float:
        """Resident memory of its processes together, in MB; what they share counts for each."""
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._pids()]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_seconds(self) -> float:
        """User and system time of its processes together."""
        seconds = 0.0
        for pid in self._pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return seconds

    def _pids(self) -> Iterator[int]:
        """Its process, and those that it started."""
        todo = [self._process.pid]
        while todo:
            yield (pid := todo.pop())
            todo += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
