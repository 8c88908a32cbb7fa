"""All open connections of a server: how many there may be, who gives way, and what they take together."""

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

from service.batcher import Batcher
from service.errors import Overloaded
from service.metrics import Metrics

log = logging.getLogger(__name__)

BUSY = "every connection is busy (LSTMSERVE_MAX_CONNECTIONS)"


class Limits(NamedTuple):
    """Of all connections of a server; each has its setting of the same name."""

    connections: int
    header_bytes: int
    header_seconds: float
    write_seconds: float
    """For a client to take what was sent to it."""
    body_bytes: int
    arriving_bytes: int
    """Of all bodies that have not come to their end."""


class Member(Protocol):
    """A connection, as far as they all are concerned."""

    def end(self, reason: str) -> None:
        """At once, whatever its client has not taken."""

    def refuse(self, status: int, detail: str, reason: str) -> None:
        """With a problem as the reply to what is coming in."""


class Connections:
    """The open connections of one server."""

    def __init__(self, limits: Limits, metrics: Metrics, draining: Callable[[], bool], batcher: Batcher) -> None:
        self.limits, self.metrics, self.draining, self.batcher = limits, metrics, draining, batcher
        self._turned_away = 0
        self._note_unread = metrics.unread(Overloaded.__name__, Overloaded.status.value)
        self.all: set[Member] = set()
        self.resting: dict[Member, None] = {}
        """Those on which no request is being answered, since the longest time first."""
        self.receiving: dict[Member, None] = {}
        """Those on which a body is on its way, likewise."""
        self.arriving = 0
        """Bytes of those bodies that are here."""
        metrics.watch_connections(lambda: len(self.all))

    def enter(self, connection: Member) -> None:
        """A new one; beyond the limit another gives way: who rests longest, or else whose body has been coming longest.

        So a probe gets in, however many are idle or slow.
        """
        self.all.add(connection)
        self.resting[connection] = None
        if len(self.all) <= self.limits.connections:
            return
        if (oldest := next(iter(self.resting))) is not connection:
            oldest.end("crowded_out")
        elif slowest := next(iter(self.receiving), None):
            slowest.refuse(503, f"{BUSY}, and this one was slow: send its body at once", "crowded_out")
        else:
            connection.refuse(503, f"{BUSY}: come back later", "busy")

    def leave(self, connection: Member) -> None:
        self.all.discard(connection)
        self.resting.pop(connection, None)
        self.receiving.pop(connection, None)

    def turned_away(self) -> None:
        """Notes a request that was refused unread; the log has their number, a line a second."""
        self._note_unread()
        if not self._turned_away:
            asyncio.get_running_loop().call_later(1.0, self._tell)
        self._turned_away += 1

    def _tell(self) -> None:
        log.warning("requests refused unread: the queue is full", extra={"requests": self._turned_away})
        self._turned_away = 0
