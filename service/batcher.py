"""The asyncio side of the engine threads: requests in, futures out."""

import asyncio
import logging
import threading
import time
from collections.abc import Hashable
from typing import NamedTuple

from service.engine import Backend
from service.errors import DeadlineExceeded, EngineFailed, NotReady, ServiceError
from service.metrics import Metrics
from service.scheduler import Scheduler
from service.sequence import Outcome, Sequence
from service.worker import Worker

log = logging.getLogger(__name__)

STEP_SECONDS = 10.0
"""More than any step takes."""


class Answer(NamedTuple):
    """Logits ``[sequences][num_logits]`` and where the time went, in seconds."""

    logits: list[list[float]]
    queue: float
    compute: float


class _Request:
    """The sequences of one caller, and the future that ends when the last of them does or the first fails."""

    def __init__(self, sequences: list[Sequence]) -> None:
        self.sequences = sequences
        self.pending = len(sequences)
        self.logits: dict[Sequence, list[float]] = {}
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Batcher:
    """Runs the sequences of all requests together on the engine threads; one event loop uses it."""

    def __init__(self, backend: Backend, metrics: Metrics, *, lanes: int, budget: int, queue_tokens: int) -> None:
        self._metrics = metrics
        self._scheduler = Scheduler(queue_tokens, backend.threads)
        self._changed = threading.Condition()
        self._requests: dict[Sequence, _Request] = {}
        self._workers = [
            Worker(backend.engine, self._scheduler, self._changed, self._deliver, lanes=lanes, budget=budget)
            for _ in range(backend.threads)
        ]
        metrics.watch_queue(lambda: self._scheduler.sequences, lambda: self._scheduler.tokens)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        for worker in self._workers:
            worker.start()

    async def close(self) -> None:
        """Ends the engine threads after the step that each is in; does not wait for ever for a step that hangs."""
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            await asyncio.to_thread(worker.join, STEP_SECONDS)
        if stuck := sum(worker.is_alive() for worker in self._workers):
            log.error("engine threads are left in a step that does not end", extra={"threads": stuck})

    @property
    def healthy(self) -> bool:
        """Whether every engine thread is alive."""
        return all(worker.is_alive() for worker in self._workers)

    async def run(
        self, weights: Hashable, token_ids: list[list[int]], *, seconds: float, urgent: bool = False
    ) -> Answer:
        """Logits of all sequences of one request.

        Raises NotReady or Overloaded before anything is queued, DeadlineExceeded after `seconds`, or the first error
        of any of the sequences. A caller that is cancelled frees what it holds.
        """
        if not any(worker.is_alive() for worker in self._workers):
            raise NotReady("no engine thread is running: send requests elsewhere")
        arrived = time.monotonic()
        deadline = arrived + seconds
        request = _Request([Sequence(tokens, weights, deadline, arrived, urgent) for tokens in token_ids])
        with self._changed:
            self._scheduler.admit(request.sequences)
            self._changed.notify_all()
        self._requests.update(dict.fromkeys(request.sequences, request))
        try:
            async with asyncio.timeout(seconds):
                await request.future
        except TimeoutError as error:
            raise DeadlineExceeded from error
        except EngineFailed:
            log.exception("a sequence could not be computed")  # here, where the request's id is known
            raise
        finally:
            self._forget(request)
        done = time.monotonic()
        started = max(sequence.started for sequence in request.sequences)
        answer = Answer([request.logits[sequence] for sequence in request.sequences], started - arrived, done - started)
        self._metrics.answered(answer.queue, answer.compute, [len(tokens) for tokens in token_ids])
        return answer

    def _forget(self, request: _Request) -> None:
        with self._changed:
            for sequence in request.sequences:
                if self._requests.pop(sequence, None):
                    self._scheduler.abandon(sequence)

    def _deliver(self, outcomes: list[Outcome]) -> None:
        """Called on an engine thread."""
        if outcomes:
            self._loop.call_soon_threadsafe(self._settle, outcomes)

    def _settle(self, outcomes: list[Outcome]) -> None:
        for sequence, result in outcomes:
            request = self._requests.pop(sequence, None)
            if request is None or request.future.done():
                continue
            if isinstance(result, Exception):
                request.future.set_exception(_translate(result))
                continue
            request.logits[sequence] = result.tolist()
            request.pending -= 1
            if not request.pending:
                request.future.set_result(None)


def _translate(error: Exception) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    failed = EngineFailed("the engine could not compute a sequence of this request; the log has the cause")
    failed.__cause__ = error
    return failed
