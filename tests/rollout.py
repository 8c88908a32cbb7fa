"""What a rollout has to do with: supervised instances, the nginx before them, and callers that check every reply."""

import http.client
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.server import Server
from tests.test_main import until

CONFIGURATION = Path(__file__).parent.parent / "deploy" / "nginx" / "lstm-serve.conf"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
NOBODY = 65534

Right = Sequence[tuple[list[int], list[float]]]
"""Sequences, token ids, and the logits of each."""

MAIN = """\
daemon off;
pid nginx.pid;
error_log error.log warn;
events {{}}
http {{
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include {included};
}}
"""
"""What a distribution has around a file in conf.d, with all that nginx writes in its own folder."""


def port_of_its_own() -> int:
    """A free port that stays free between two instances: no connection is given it as its source."""
    while True:
        port = random.randrange(20_000, 32_000)  # below Linux's ip_local_port_range
        try:
            socket.create_server(("127.0.0.1", port)).close()
            return port
        except OSError:
            continue


class Instance:
    """An instance on a port of its own, and its supervisor, which starts it again whenever it has ended."""

    def __init__(self, store: Path, *flags: str) -> None:
        self.port = port_of_its_own()
        self.url = f"http://127.0.0.1:{self.port}"
        self._store, self._flags = store, ("--port", str(self.port), *flags)
        self.runs: list[Server] = []
        self.statuses: list[int] = []
        self._leave = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise)

    def __enter__(self) -> Self:
        self._supervisor.start()
        self.until_serving(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave.set()
        while self._supervisor.is_alive():  # it may just be starting another
            if self.runs:
                self.runs[-1].send(signal.SIGKILL)
            self._supervisor.join(1)

    def leave(self) -> None:
        """Ends the process without a successor; returns when it has ended."""
        self._leave.set()
        self.runs[-1].send(signal.SIGTERM)
        self._supervisor.join()

    def end(self, number: signal.Signals) -> None:
        """Sends the signal; returns when the process has ended and its successor serves."""
        runs = len(self.runs)
        self.runs[-1].send(number)
        self.until_serving(runs + 1)

    def until_serving(self, runs: int) -> None:
        until(lambda: len(self.runs) >= runs and (has_logged(self.runs[-1], "serving") or not self._alive()))
        assert len(self.runs) == runs
        assert has_logged(self.runs[-1], "serving"), "".join(self.runs[-1].lines)

    def _alive(self) -> bool:
        return self.runs[-1].process.poll() is None

    def _supervise(self) -> None:
        while not self._leave.is_set():
            with Server(self._store, *self._flags) as server:
                self.runs.append(server)
                self.statuses.append(server.wait(3600))
            if self.statuses[-1] == 2:  # it cannot start
                return


def has_logged(server: Server, message: str) -> bool:
    return any(record["message"] == message for record in server.log)


def answered(server: Server) -> list[str]:
    """The ids of the predictions that it has answered with 200, by its log."""
    return [
        record["request_id"]
        for record in server.log.copy()
        if record["message"] == "request" and (record["path"], record["status"]) == ("/predict", 200)
    ]


class Nginx:
    """The documented configuration with other ports and paths, as a user without rights."""

    def __init__(self, *instances: Instance) -> None:
        self.instances = instances
        self.port = port_of_its_own()
        self.url = f"http://127.0.0.1:{self.port}"
        self._temporary = tempfile.TemporaryDirectory()
        self._folder = Path(self._temporary.name)
        given = {
            "listen 80;": f"listen 127.0.0.1:{self.port};",
            "/var/log/nginx/lstm-serve.log": "access.log",
            **{f"127.0.0.1:{8001 + number}": f"127.0.0.1:{one.port}" for number, one in enumerate(instances)},
        }
        text = CONFIGURATION.read_text()
        assert {name: text.count(name) for name in given} == dict.fromkeys(given, 1)
        for name, own in given.items():
            text = text.replace(name, own)
        (self._folder / "lstm-serve.conf").write_text(text)
        (self._folder / "nginx.conf").write_text(MAIN.format(included="lstm-serve.conf"))

    def __enter__(self) -> Self:
        assert NGINX is not None
        identity = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        if identity:
            os.chown(self._folder, NOBODY, NOBODY)
        command = [NGINX, "-e", "error.log", "-p", str(self._folder), "-c", "nginx.conf"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **identity)  # type: ignore[call-overload]
        until(lambda: self._listens() or self._process.poll() is not None)
        if self._process.poll() is not None:
            raise RuntimeError(self._process.communicate()[1])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()
        self._temporary.cleanup()

    def log(self) -> list[str]:
        return (self._folder / "access.log").read_text().splitlines()

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True


class Callers:
    """Each asks without a pause on a connection that it keeps, never repeats, and notes what every request came to."""

    def __init__(self, url: str, right: Right, number: int = 12) -> None:
        self._address, self._right = urlsplit(url).netloc, right
        self._stop = threading.Event()
        self.answered: list[str] = []
        self.wrong: list[object] = []
        self.lost: list[tuple[str, object]] = []
        self._threads = [threading.Thread(target=self._ask, args=(caller,)) for caller in range(number)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def until_answered(self, times: int = 1) -> None:
        """Until each caller has had so many more replies."""
        before = self._counts()
        callers = range(len(self._threads))
        until(lambda: all(self._counts()[caller] >= before[caller] + times for caller in callers))

    def _counts(self) -> Counter[int]:
        return Counter(int(identity.split("-")[1]) for identity in self.answered.copy())

    def _ask(self, caller: int) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        for count in itertools.count():
            if self._stop.is_set():
                break
            identity = f"caller-{caller}-{count}"
            tokens, logits = self._right[(7 * caller + count) % len(self._right)]
            headers = {"Content-Type": "application/json", "X-Request-ID": identity}
            try:
                connection.request("POST", "/predict", json.dumps({"token_ids": [tokens]}), headers)
                reply = connection.getresponse()
                body = reply.read()
            except (OSError, http.client.HTTPException) as error:
                self.lost.append((identity, error))
                connection.close()
                continue
            if reply.status != 200 or reply.headers["X-Request-ID"] != identity or not close(body, logits):
                self.wrong.append((identity, reply.status, dict(reply.headers), body))
            else:
                self.answered.append(identity)
        connection.close()


def close(body: bytes, logits: list[float]) -> bool:
    """Whether the reply has these logits, within what the service holds its golden cases to."""
    (row,) = json.loads(body)["logits"]
    pairs = zip(row, logits, strict=True)
    return all(abs(got - expected) <= 1e-4 * max(1, abs(expected)) for got, expected in pairs)


def value(directive: str) -> str:
    """The one value of a directive of the documented configuration."""
    (found,) = re.findall(rf"^\s*{directive} (\S+);", CONFIGURATION.read_text(), re.MULTILINE)
    return str(found)
