"""A real service process for tests."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

START_SECONDS = 60


class Server:
    """``python -m service`` on a free loopback port; a context manager that never leaves it running."""

    def __init__(
        self,
        store: Path,
        *flags: str,
        prefix: Sequence[str] = (),
        program: Sequence[str] = ("-m", "service"),
        **environment: str,
    ) -> None:
        command = [*prefix, sys.executable, *program, "--store", str(store), "--port", "0", *flags]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LSTMSERVE_")}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**inherited, **environment})
        self.prefix = prefix
        self.log: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        self._listening.wait(START_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    @property
    def url(self) -> str:
        """Raises LookupError, with what it said instead, when it does not serve."""
        for record in self.log:
            if record["message"] == "serving":
                return str(record["address"])
        raise LookupError("".join(self.lines))

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 60) -> int:
        """Exit status; all that it logged has been read."""
        status = self.process.wait(seconds)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if line.startswith("{"):
                self.log.append(json.loads(line))
                if self.log[-1]["message"] == "serving":
                    self._listening.set()
        self._listening.set()
