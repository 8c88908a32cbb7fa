"""An engine that needs no weights, and the service around it.

The logits of a sequence are the sum of its token ids and its length, exact in float32.
"""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI

from service.app import create_app
from service.engine import Backend
from service.repository import Model, Repository
from service.schemas import Problem
from service.sequence import Outcome, Sequence
from service.settings import Settings
from tests.tiny import tiny_config

POISON = 39
"""A sequence that holds this token id ends with an error of its own."""

LIMITS: dict[str, Any] = {"max_tokens": 32, "max_sequences": 8, "queue_tokens": 256, "max_body_bytes": 4096}
"""Small limits; the models of `repository` take shorter sequences still."""


def right(token_ids: list[int]) -> list[float]:
    """The logits of a sequence."""
    return [float(sum(token_ids)), float(len(token_ids))]


class Fake:
    """What the fake engines of one backend were given, and how they behave.

    `gate`: a step waits until it is set. `per_step`: tokens of each sequence that a step computes.
    `step_fails`, `start_fails`, `cancel_fails`, `make_fails`: raised once, by the next call.
    """

    def __init__(self, threads: int = 1, per_step: int = 4096) -> None:
        self.threads, self.per_step = threads, per_step
        self.gate = threading.Event()
        self.gate.set()
        self.stepping = threading.Semaphore(0)
        """Released as each step begins."""
        self.engines = 0
        self.started: list[list[int]] = []
        self.steps: list[list[list[int]]] = []
        """The sequences of each step that had any."""
        self.cancelled: list[list[int]] = []
        self.step_fails: Exception | None = None
        self.start_fails: Exception | None = None
        self.cancel_fails: Exception | None = None
        self.make_fails: Exception | None = None

    def backend(self) -> Backend:
        return Backend("fake", "cpu", self.threads, lambda artifact: "weights", lambda: FakeEngine(self))

    def fail(self, name: str) -> None:
        error = getattr(self, name)
        setattr(self, name, None)
        if error is not None:
            raise error


class FakeEngine:
    def __init__(self, fake: Fake) -> None:
        fake.fail("make_fails")
        fake.engines += 1
        self._fake = fake
        self._done: Counter[Sequence] = Counter()  # tokens computed of each started sequence

    def start(self, sequence: Sequence) -> None:
        self._fake.fail("start_fails")
        assert sequence not in self._done
        self._fake.started.append(sequence.token_ids)
        self._done[sequence] = 0

    def cancel(self, sequence: Sequence) -> None:
        del self._done[sequence]
        self._fake.fail("cancel_fails")
        self._fake.cancelled.append(sequence.token_ids)

    def step(self, budget: int) -> list[Outcome]:
        if self._done:
            self._fake.steps.append([sequence.token_ids for sequence in self._done])
        self._fake.stepping.release()
        self._fake.gate.wait(30)
        self._fake.fail("step_fails")
        self._done.update(dict.fromkeys(self._done, self._fake.per_step))
        return [self._end(sequence) for sequence, done in list(self._done.items()) if done >= len(sequence.token_ids)]

    def _end(self, sequence: Sequence) -> Outcome:
        del self._done[sequence]
        if POISON in sequence.token_ids:
            return Outcome(sequence, ArithmeticError("poisoned"))
        return Outcome(sequence, np.array(right(sequence.token_ids), np.float32))


def repository() -> Repository:
    """Models that are not on disk: `tiny`, the default, `odd` with another pad id, and `small`."""
    models = [
        Model("tiny", 1, tiny_config(max_length=16), "weights"),
        Model("odd", 7, tiny_config(max_length=16, pad_id=3), "weights"),
        Model("small", 1, tiny_config(max_length=6, vocab_size=10), "weights"),
    ]
    return Repository(models, "tiny")


def fake_app(fake: Fake, **settings: Any) -> FastAPI:
    return create_app(Settings(**{**LIMITS, **settings}), repository(), fake.backend())


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
