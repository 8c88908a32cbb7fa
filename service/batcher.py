"""The asyncio side of the engine: requests in, futures out. All of it runs on one event loop, without a lock."""

import asyncio
import logging
import time
from collections.abc import Hashable, Iterable
from typing import NamedTuple

from service.engine import Engine
from service.errors import DeadlineExceeded, EngineFailed, NotReady, ServiceError
from service.metrics import Metrics
from service.scheduler import Reservation, Scheduler
from service.sequence import Outcome, Sequence

log = logging.getLogger(__name__)

BYTES_A_TOKEN = 8
"""Of a body, about: a token id takes 8 in binary, some 6 in JSON, a text some 5 for each of its tokens."""


class Answer(NamedTuple):
    """Logits ``[sequences][num_logits]`` and where the time went, in seconds."""

    logits: list[list[float]]
    queue: float
    compute: float


class _Request:
    """The sequences of one caller, and the future that ends when the last of them does or the first fails."""

    __slots__ = ("future", "logits", "sequences")

    def __init__(self, sequences: list[Sequence], future: asyncio.Future[None]) -> None:
        self.sequences, self.future = sequences, future
        self.logits: dict[Sequence, list[float]] = {}

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(_translate(error))

    def expire(self) -> None:
        self.fail(DeadlineExceeded())


class Batcher:
    """Runs the sequences of all requests together on the engine."""

    def __init__(self, engine: Engine, metrics: Metrics, *, queue_tokens: int, queue_requests: int) -> None:
        self._engine, self._metrics = engine, metrics
        self._scheduler = Scheduler(queue_tokens, queue_requests)
        self._requests: dict[Sequence, _Request] = {}
        """Of every sequence that waits in the scheduler or is held by the engine."""
        self.running = False
        """The engine can be used."""
        self.broken = asyncio.Event()
        """It was, and never can be again."""
        self._noted = 0.0
        """Until when the engine's work is noted in the drain rate."""
        queue = self._scheduler
        metrics.watch_queue(lambda: queue.requests, lambda: queue.sequences, lambda: queue.tokens, self._oldest)
        metrics.watch_engine(lambda: engine.work, lambda: engine.failures)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._engine.fileno(), self._collect)
        self.running = True

    async def close(self) -> None:
        """Closes the engine; whoever still waits gets NotReady."""
        self._stop("the service stops: send the request elsewhere")
        if not await asyncio.to_thread(self._engine.close):
            log.critical("an engine thread is left in a step that does not end")
            self.broken.set()

    @property
    def idle(self) -> bool:
        """Nothing waits or is computed."""
        return not self._requests

    def break_off(self, reason: str) -> None:
        """The engine cannot be used any more: whoever waits gets NotReady, and the process should end."""
        if self.running:
            log.critical("the engine is broken: the service is neither ready nor live", extra={"reason": reason})
            self._stop("the engine is broken, the log has the cause: send the request elsewhere")
            self.broken.set()

    def check_room(self, body_bytes: int, reservation: Reservation | None = None) -> None:
        """Raises Overloaded where a request of so long a body would hardly fit beside what waits and comes before it.

        What comes before are those whose bodies have come and that have not been admitted yet; with a `reservation`,
        those that had one before. Where there is nothing of either it is let through, whatever it has.
        """
        ahead = (reservation or self._scheduler).ahead
        if self._scheduler.requests or ahead.requests:
            self._scheduler.check_room(body_bytes // BYTES_A_TOKEN, ahead)

    def reserve(self, body_bytes: int) -> Reservation:
        """For a request whose body has come, until it asks to `run`."""
        return Reservation(self._scheduler, body_bytes // BYTES_A_TOKEN)

    async def run(
        self,
        weights: Hashable,
        token_ids: list[list[int]],
        *,
        seconds: float,
        urgent: bool = False,
        bounded: bool = True,
    ) -> Answer:
        """Logits of all sequences of one request.

        Raises NotReady or Overloaded before anything is queued, DeadlineExceeded after `seconds`, or the first error
        of any of the sequences. A caller that is cancelled frees what it holds. What is not `bounded`, the service's
        own work, is queued even where the queue is full.
        """
        if not self.running:
            raise NotReady("the engine does not run: send requests elsewhere")
        if seconds <= 0:
            self._metrics.dropped("deadline", len(token_ids))
            raise DeadlineExceeded
        arrived = time.monotonic()
        deadline = arrived + seconds
        sequences = [Sequence(tokens, weights, deadline, arrived, urgent) for tokens in token_ids]
        self._scheduler.admit(sequences, bounded=bounded)
        request = _Request(sequences, self._loop.create_future())
        for sequence in sequences:
            self._requests[sequence] = request
        timer = self._loop.call_later(seconds, request.expire)
        try:
            self._pump()
            await request.future
        except EngineFailed:
            log.exception("a sequence could not be computed")  # here, where the request's id is known
            raise
        except (DeadlineExceeded, asyncio.CancelledError) as error:
            reason = "deadline" if isinstance(error, DeadlineExceeded) else "left"
            self._metrics.dropped(reason, len(sequences) - len(request.logits))
            raise
        finally:
            timer.cancel()
            if len(request.logits) < len(sequences):
                self._forget(sequences)
        done = time.monotonic()
        started = max(sequence.started for sequence in sequences)
        return Answer([request.logits[sequence] for sequence in sequences], started - arrived, done - started)

    def _oldest(self) -> float:
        """Seconds that the oldest of the waiting sequences has waited; they were added in the order they came."""
        first = next((sequence for sequence in self._requests if sequence.waiting), None)
        return time.monotonic() - first.arrived if first else 0.0

    def _pump(self) -> None:
        """Starts what waits while the engine has room."""
        while self._scheduler.sequences and (room := self._engine.room):
            now = time.monotonic()
            if not self._held:
                self._noted = now
            ready, overdue = self._scheduler.take(room, now)
            self._settle(Outcome(sequence, DeadlineExceeded()) for sequence in overdue)
            for sequence in ready:
                try:
                    self._engine.start(sequence)
                except Exception as error:
                    self._settle([Outcome(sequence, error)])

    def _collect(self) -> None:
        """The engine has rung."""
        try:
            outcomes = self._engine.collect()
        except Exception as error:
            log.exception("the engine has failed")
            self.break_off(type(error).__name__)
            return
        if self._held:
            now = time.monotonic()
            self._scheduler.drained(sum(len(sequence.token_ids) for sequence, _ in outcomes), now - self._noted)
            self._noted = now
        self._settle(outcomes)
        self._pump()

    @property
    def _held(self) -> int:
        """Sequences that the engine works on."""
        return len(self._requests) - self._scheduler.sequences

    def _settle(self, outcomes: Iterable[Outcome]) -> None:
        for sequence, result in outcomes:
            request = self._requests.pop(sequence)
            if isinstance(result, Exception):
                request.fail(result)
                continue
            request.logits[sequence] = result
            if len(request.logits) == len(request.sequences) and not request.future.done():
                request.future.set_result(None)

    def _forget(self, sequences: list[Sequence]) -> None:
        """Their caller has its ending, or has left."""
        for sequence in sequences:
            if self._requests.pop(sequence, None) is None:
                continue
            if sequence.waiting:
                self._scheduler.abandon(sequence)
            elif self.running:
                self._engine.cancel(sequence)

    def _stop(self, detail: str) -> None:
        """Everyone who waits gets NotReady; the engine is not used any more."""
        if self.running:
            self._loop.remove_reader(self._engine.fileno())
        self.running = False
        for request in set(self._requests.values()):
            request.fail(NotReady(detail))


def _translate(error: Exception) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    failed = EngineFailed("the engine could not compute a sequence of this request; the log has the cause")
    failed.__cause__ = error
    return failed
