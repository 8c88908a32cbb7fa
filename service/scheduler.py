"""What runs next, what waits and what is refused. Pure: the time is an argument, nothing here waits or locks."""

import heapq
import itertools
import math
from collections.abc import Sequence as Many
from dataclasses import dataclass

from service.errors import Overloaded
from service.sequence import Sequence

HEAD_START = 1.0
"""Seconds by which an urgent sequence goes ahead of others; what has waited longer still goes first."""

DECAY = 0.95
"""Weight of the past in the measured drain rate, a step."""


@dataclass(frozen=True)
class Taken:
    """Sequences to start now, and those whose deadline passed while they waited."""

    ready: list[Sequence]
    overdue: list[Sequence]


class Scheduler:
    """A queue bounded in tokens, in order of arrival but for the head start of urgent sequences.

    A sequence ranks as if it had arrived when those before it in its own request would have been done: one large
    request does not stand before all small ones that come while it is worked on.
    """

    def __init__(self, max_tokens: int, workers: int) -> None:
        self.max_tokens = max_tokens
        self.workers = workers
        self.sequences = 0
        self.tokens = 0
        self._queue: list[tuple[float, int, Sequence]] = []
        self._order = itertools.count()
        self._drained_tokens = 0.0
        self._drained_seconds = 0.0

    def admit(self, sequences: Many[Sequence]) -> None:
        """Queues a request's sequences, all or none. Raises Overloaded when their tokens would not fit."""
        tokens = sum(len(sequence.token_ids) for sequence in sequences)
        if self.tokens + tokens > self.max_tokens:
            raise Overloaded(
                f"{self.tokens} tokens are waiting and {tokens} more would pass the limit of {self.max_tokens} "
                "(LSTMSERVE_QUEUE_TOKENS); come back after Retry-After seconds",
                self.retry_after(),
            )
        pace, before = self._pace(), 0
        for sequence in sequences:
            rank = sequence.arrived - HEAD_START * sequence.urgent + before * pace
            before += len(sequence.token_ids)
            heapq.heappush(self._queue, (rank, next(self._order), sequence))
            sequence.waiting = True
        self.sequences += len(sequences)
        self.tokens += tokens

    def take(self, room: int, now: float) -> Taken:
        """Up to `room` waiting sequences for one worker, never more than its share of the queue."""
        taken = Taken([], [])
        room = min(room, math.ceil(self.sequences / self.workers))
        while self._queue and len(taken.ready) < room:
            sequence = heapq.heappop(self._queue)[2]
            if not sequence.waiting:
                continue
            self._leave(sequence)
            if sequence.deadline <= now:
                taken.overdue.append(sequence)
            else:
                sequence.started = now
                taken.ready.append(sequence)
        return taken

    def abandon(self, sequence: Sequence) -> None:
        """The caller has left: a waiting sequence gives its place free at once, a running one is marked."""
        sequence.gone = True
        if sequence.waiting:
            self._leave(sequence)
        if len(self._queue) > 2 * self.sequences + 64:
            self._queue = [entry for entry in self._queue if entry[2].waiting]
            heapq.heapify(self._queue)

    def drained(self, tokens: int, seconds: float) -> None:
        """Notes that one worker finished `tokens` in `seconds` of work."""
        self._drained_tokens = DECAY * self._drained_tokens + tokens
        self._drained_seconds = DECAY * self._drained_seconds + seconds

    def retry_after(self) -> int:
        """Whole seconds, 1 to 60, until what waits now will have been drained at the measured rate."""
        return max(1, min(60, math.ceil(self.tokens * self._pace())))

    def _pace(self) -> float:
        """Seconds a token at the measured drain rate of all workers; 0 while nothing is measured."""
        if not self._drained_tokens:
            return 0.0
        return self._drained_seconds / (self._drained_tokens * self.workers)

    def _leave(self, sequence: Sequence) -> None:
        sequence.waiting = False
        self.sequences -= 1
        self.tokens -= len(sequence.token_ids)
