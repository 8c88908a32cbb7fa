"""An open loop that hardly takes part in what it measures: its sockets are looked at a tick at a time.

Whoever waits for a socket is woken by each reply, on a core that the server under load wants. Here nobody waits: what
came since the last look is taken together, as from a network card.
"""

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from benchmarks.client import Reply, get, reply_of

TICK = 0.002
"""Seconds between two looks."""
CHUNK = 1 << 20
PATIENCE = 60.0
"""Seconds without any reply, after which none will come."""


class Connection:
    """A kept-alive connection with at most one request under way."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fileno = self._socket.fileno
        self.close = self._socket.close
        self._received = b""
        self._pending = (0, 0.0, 0.0)

    def send(self, number: int, request: bytes, due: float) -> None:
        """Waits for a server that takes nothing: what is late for that counts from when it was due."""
        self._pending = number, due, time.perf_counter()
        self._socket.sendall(request)

    def receive(self, now: float) -> Reply | None:
        """The reply, if all of it is here. Raises ConnectionError where the server closed the connection."""
        data = self._socket.recv(CHUNK)
        if not data:
            raise ConnectionError("the server closed a connection")
        self._received += data
        if found := reply_of(self._received):
            self._received = b""
            return Reply(*self._pending, now, *found)
        return None


class Flood:
    """So many open connections, which the server has accepted; a context manager that closes them."""

    def __init__(self, url: str, connections: int) -> None:
        host, _, port = urlsplit(url).netloc.rpartition(":")
        self._free = [Connection(host, int(port)) for _ in range(connections)]
        self._all = {connection.fileno(): connection for connection in self._free}
        self._ready = select.epoll()
        for descriptor in self._all:
            self._ready.register(descriptor, select.EPOLLIN)
        self._free[-1].send(0, get("/livez"), 0.0)
        while not self._free[-1].receive(0.0):  # it is accepted after all others
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ready.close()
        for connection in self._all.values():
            connection.close()

    def run(self, requests: Sequence[bytes], arrivals: Sequence[float], sent: Callable[[], None]) -> list[Reply]:
        """Sends the next of `requests` at each of `arrivals`, ascending seconds from now, whatever was answered.

        The connection that was used last goes first, as in a client's pool; with none of them free a request waits for
        one, and its latency counts from when it was due. `sent` is called after the last. Raises ConnectionError, or
        TimeoutError.
        """
        replies: list[Reply] = []
        due, free = deque(arrivals), self._free
        began = heard = now = time.perf_counter()
        while len(replies) < len(arrivals):
            for descriptor, _ in self._ready.poll(0, len(self._all)):
                connection = self._all[descriptor]
                if reply := connection.receive(now):
                    replies.append(reply)
                    free.append(connection)
                    heard = now
            while due and free and began + due[0] <= now:
                number = (len(arrivals) - len(due)) % len(requests)
                free.pop().send(number, requests[number], began + due.popleft())
                if not due:
                    sent()
            if len(free) < len(self._all) and now > heard + PATIENCE:
                raise TimeoutError(f"no reply for {PATIENCE:g} s")
            time.sleep(TICK)
            now = time.perf_counter()
        return replies
