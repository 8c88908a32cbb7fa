"""An engine that needs no weights, and the service around it.

The logits of a sequence are the sum of its token ids and its length, exact in float32.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any

import httpx
from fastapi import FastAPI

from models.artifact import Artifact
from service.app import create_app
from service.engine import Pulse, Work
from service.engine.bell import Bell
from service.repository import Model, Repository
from service.schemas.shared import Problem
from service.sequence import Outcome, Sequence
from service.settings import Settings
from tests.tiny import tiny_config

POISON = 39
"""A sequence that holds this token id ends with an error of its own."""

LIMITS: dict[str, Any] = {
    "max_tokens": 32,
    "max_sequences": 8,
    "queue_tokens": 256,
    "max_body_bytes": 4096,
    "explain_tokens": 256,
}
"""Small limits; the models of `repository` take shorter sequences still."""


def right(token_ids: list[int]) -> list[float]:
    """The logits of a sequence."""
    return [float(sum(token_ids)), float(len(token_ids))]


class Gate:
    """Behind it an engine stands still; open at first. `set` may be called from any thread."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self.open = True

    def set(self) -> None:
        self.open = True
        self._bell.ring()

    def clear(self) -> None:
        self.open = False


class Fake:
    """An engine without a thread: while the gate is open, `collect` takes a step with all that it holds.

    `lanes`: sequences that it holds at most. `per_step`: tokens of each that a step computes.
    `start_fails`, `collect_fails`: raised once, by the next call.
    """

    name, device, threads = "fake", "cpu", 1
    precisions: Mapping[str, str] = MappingProxyType({"float32": "fake"})

    def __init__(self, lanes: int = 32, per_step: int = 4096) -> None:
        self.lanes, self.per_step = lanes, per_step
        self._bell = Bell()
        self.gate = Gate(self._bell)
        self.stepping = threading.Semaphore(0)
        """Released as each sequence is started."""
        self.failures = 0
        self.pulses = [Pulse(0, busy=False)]
        """A thread that is stuck, if a test says so."""
        self.closes = True
        """What `close` will give."""
        self.closed = False
        self.started: list[list[int]] = []
        self.steps: list[list[list[int]]] = []
        """The sequences of each step that had any."""
        self.cancelled: list[list[int]] = []
        self.start_fails: Exception | None = None
        self.collect_fails: Exception | None = None
        self._taken = 0
        self._done: dict[Sequence, int] = {}  # tokens computed of each started sequence

    @property
    def work(self) -> Work:
        return Work(len(self.steps), sum(map(len, self.steps)))

    def load(self, artifact: Artifact, precision: str, replaces: Hashable | None = None) -> Hashable:
        return precision

    @property
    def room(self) -> int:
        return self.lanes - self._taken

    def start(self, sequence: Sequence) -> None:
        assert self.room > 0
        assert sequence not in self._done
        self._fail("start_fails")
        self._taken += 1
        self.started.append(sequence.token_ids)
        self._done[sequence] = 0
        self.stepping.release()
        self._bell.ring()

    def cancel(self, sequence: Sequence) -> None:
        del self._done[sequence]
        self.cancelled.append(sequence.token_ids)
        self._bell.ring()

    def fileno(self) -> int:
        return self._bell.fileno()

    def collect(self) -> list[Outcome]:
        self._bell.silence()
        if not self.gate.open:
            return []
        self._fail("collect_fails")
        if self._done:
            self.steps.append([sequence.token_ids for sequence in self._done])
        outcomes = []
        for sequence, done in list(self._done.items()):
            sequence.started = sequence.started or time.monotonic()
            self._done[sequence] = done + self.per_step
            if self._done[sequence] >= len(sequence.token_ids):
                del self._done[sequence]
                outcomes.append(Outcome(sequence, self.result(sequence)))
        self._taken = len(self._done)
        if self._done:
            self._bell.ring()
        return outcomes

    def result(self, sequence: Sequence) -> list[float] | Exception:
        if POISON in sequence.token_ids:
            return ArithmeticError("poisoned")
        return right(sequence.token_ids)

    def close(self) -> bool:
        self.closed = True
        self._bell.close()
        return self.closes

    def _fail(self, name: str) -> None:
        error = getattr(self, name)
        setattr(self, name, None)
        if error is not None:
            raise error


def repository() -> Repository:
    """Models that are not on disk: `tiny`, the default, `odd` with another pad id, and `small`."""
    found = Repository("tiny")
    found.put(Model("tiny", 1, tiny_config(max_length=16), "weights", "float32"))
    found.put(Model("odd", 7, tiny_config(max_length=16, pad_id=3), "weights", "float32"))
    found.put(Model("small", 1, tiny_config(max_length=6, vocab_size=10), "weights", "float32"))
    return found


def fake_app(fake: Fake, **settings: Any) -> FastAPI:
    chosen = Settings(**{**LIMITS, **settings})
    fake.lanes = chosen.lanes
    return create_app(chosen, repository(), fake)


@contextlib.asynccontextmanager
async def running(app: FastAPI, *, catch: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app, which runs without a socket. `catch`: what the app raises does not reach the caller."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=not catch)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    """Waits until it holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.001)


def refused(reply: httpx.Response, status: int) -> Problem:
    """The reply as a problem of that status, in its one shape."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(reply.content, strict=True)
    assert problem.status == status
    assert problem.detail
    assert problem.request_id == reply.headers["x-request-id"]
    return problem
