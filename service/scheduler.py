"""What runs next, what waits and what is refused. Pure: the time is an argument, nothing here waits or locks."""

import heapq
import itertools
import math
from collections.abc import Sequence as Many
from typing import NamedTuple

from service.errors import Overloaded
from service.sequence import Sequence, Waiting

HEAD_START = 1.0
"""Seconds by which an urgent sequence goes ahead of others; what has waited longer still goes first."""

HALF_LIFE = 1.0
"""Seconds of work after which the past counts half in the measured drain rate."""


class Taken(NamedTuple):
    """Sequences to start now, and those whose deadline passed while they waited."""

    ready: list[Sequence]
    overdue: list[Sequence]


class Ahead(NamedTuple):
    """Requests on their way to the queue, and about how many tokens they have."""

    requests: int
    tokens: int


class Reservation:
    """Room for a request that is on its way to the queue; nothing holds it but those who come later."""

    def __init__(self, scheduler: "Scheduler", tokens: int) -> None:
        self._coming = scheduler.coming
        self._coming[self] = tokens

    @property
    def ahead(self) -> Ahead:
        """Those that were on their way when it was made, and still are; they come in turn, so they are few."""
        before = list(itertools.takewhile(lambda other: other is not self, self._coming))
        return Ahead(len(before), sum(self._coming[other] for other in before))

    def release(self) -> None:
        """It has come, or never will."""
        self._coming.pop(self, None)


class Scheduler:
    """A queue bounded in tokens and in requests, shortest first among those that came together.

    A sequence ranks as if it had arrived when its own tokens and those before it in its request would have been done
    at the measured pace: a short one overtakes a long one or the rest of a large request, but nothing that has waited
    for longer than that takes.
    """

    def __init__(self, max_tokens: int, max_requests: int) -> None:
        self.max_tokens, self.max_requests = max_tokens, max_requests
        self.requests = 0
        """That have sequences which wait."""
        self.sequences = 0
        self.tokens = 0
        self.coming: dict[Reservation, int] = {}
        """About how many tokens each has that is on its way to the queue, in their order."""
        self._queue: list[tuple[float, int, Sequence]] = []
        self._order = itertools.count()
        self._drained_tokens = 0.0
        self._drained_seconds = 0.0
        self._pace = 0.0
        """Seconds a token at the measured drain rate; 0 while nothing is measured."""

    def admit(self, sequences: Many[Sequence], *, bounded: bool = True) -> None:
        """Queues a request's sequences, all or none. Raises Overloaded when it is `bounded` and they would not fit.

        Where nothing waits they always do: a request may be larger than the queue.
        """
        tokens = 0
        entries = []
        for sequence in sequences:
            tokens += len(sequence.token_ids)
            rank = sequence.arrived - HEAD_START * sequence.urgent + tokens * self._pace
            entries.append((rank, next(self._order), sequence))
        if bounded and self.requests:
            self.check_room(tokens)
        together = Waiting(len(entries))
        for entry in entries:
            entry[2].waiting = together
            heapq.heappush(self._queue, entry)
        self.requests += 1
        self.sequences += len(entries)
        self.tokens += tokens

    @property
    def ahead(self) -> Ahead:
        """All that is on its way: before whatever comes now."""
        return Ahead(len(self.coming), sum(self.coming.values()))

    def check_room(self, tokens: int, ahead: Ahead = Ahead(0, 0)) -> None:  # noqa: B008
        """Raises Overloaded where one more request of so many tokens does not fit beside what waits and comes first."""
        if self.tokens + ahead.tokens + tokens > self.max_tokens:
            reason = f"more than {self.max_tokens} tokens would be waiting (LSTMSERVE_QUEUE_TOKENS)"
        elif self.requests + ahead.requests >= self.max_requests:
            reason = f"{self.max_requests} requests are waiting (LSTMSERVE_QUEUE_REQUESTS)"
        else:
            return
        raise Overloaded(f"{reason}; come back after Retry-After seconds", self.retry_after())

    def take(self, room: int, now: float) -> Taken:
        """Up to `room` waiting sequences to start."""
        taken = Taken([], [])
        while self._queue and len(taken.ready) < room:
            sequence = heapq.heappop(self._queue)[2]
            if not sequence.waiting:
                continue
            self._leave(sequence)
            if sequence.deadline <= now:
                taken.overdue.append(sequence)
            else:
                taken.ready.append(sequence)
        return taken

    def abandon(self, sequence: Sequence) -> None:
        """The caller of a waiting sequence has left: its place is free at once."""
        self._leave(sequence)
        if len(self._queue) > 2 * self.sequences + 64:
            self._queue = [entry for entry in self._queue if entry[2].waiting]
            heapq.heapify(self._queue)

    def drained(self, tokens: int, seconds: float) -> None:
        """Notes that the engine, which held work for `seconds` more, finished `tokens`."""
        fade = 0.5 ** (seconds / HALF_LIFE)
        self._drained_tokens = fade * self._drained_tokens + tokens
        self._drained_seconds = fade * self._drained_seconds + seconds
        self._pace = self._drained_seconds / self._drained_tokens if self._drained_tokens else 0.0

    def retry_after(self) -> int:
        """Whole seconds, 1 to 60, until what waits now will have been drained at the measured rate."""
        return max(1, min(60, math.ceil(self.tokens * self._pace)))

    def _leave(self, sequence: Sequence) -> None:
        assert sequence.waiting
        sequence.waiting.sequences -= 1
        self.requests -= not sequence.waiting.sequences
        sequence.waiting = None
        self.sequences -= 1
        self.tokens -= len(sequence.token_ids)
