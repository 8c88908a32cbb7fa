"""An open loop that hardly takes part in what it measures: its sockets are looked at a tick at a time.

Whoever waits for a socket is woken by each reply, on a core that the server under load wants. Here nobody waits: what
came since the last look is taken together, as from a network card.
"""

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
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


def flood(
    url: str, requests: Sequence[bytes], arrivals: Sequence[float], connections: int, sent: Callable[[], None]
) -> list[Reply]:
    """Sends the next of `requests` at each of `arrivals`, ascending seconds from the start, whatever was answered.

    The connection that was used last goes first, as in a client's pool; with none of them free a request waits for
    one, and its latency counts from when it was due. `sent` is called after the last. Raises ConnectionError, or
    TimeoutError.
    """
    host, _, port = urlsplit(url).netloc.rpartition(":")
    free = [Connection(host, int(port)) for _ in range(connections)]
    every = {connection.fileno(): connection for connection in free}
    ready = select.epoll()
    for descriptor in every:
        ready.register(descriptor, select.EPOLLIN)
    try:
        free[-1].send(0, get("/livez"), 0.0)
        while not free[-1].receive(0.0):  # that the server has accepted all of them is no part of the load
            pass
        return _exchange(ready, every, free, requests, deque(arrivals), sent)
    finally:
        ready.close()
        for connection in every.values():
            connection.close()


def _exchange(
    ready: select.epoll,
    every: dict[int, Connection],
    free: list[Connection],
    requests: Sequence[bytes],
    arrivals: deque[float],
    sent: Callable[[], None],
) -> list[Reply]:
    replies: list[Reply] = []
    count = len(arrivals)
    began = heard = now = time.perf_counter()
    while len(replies) < count:
        for descriptor, _ in ready.poll(0, len(every)):
            connection = every[descriptor]
            if reply := connection.receive(now):
                replies.append(reply)
                free.append(connection)
                heard = now
        while arrivals and free and began + arrivals[0] <= now:
            number = (count - len(arrivals)) % len(requests)
            free.pop().send(number, requests[number], began + arrivals.popleft())
            if not arrivals:
                sent()
        if len(free) < len(every) and now > heard + PATIENCE:
            raise TimeoutError(f"no reply for {PATIENCE:g} s")
        time.sleep(TICK)
        now = time.perf_counter()
    return replies
