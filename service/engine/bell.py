"""How an engine's threads wake the one thread that uses the engine."""

import contextlib
import socket


class Bell:
    """A pair of sockets: what is rung at the far end makes the near end readable, for asyncio or select."""

    def __init__(self) -> None:
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)

    def ring(self) -> None:
        """From any thread; never blocks."""
        with contextlib.suppress(BlockingIOError):  # full: it is readable already
            self._far.send(b"\0")

    def silence(self) -> None:
        """Not readable until the next ring. Look for what was rung for afterwards, or it may be missed."""
        with contextlib.suppress(BlockingIOError):
            while len(self._near.recv(4096)) == 4096:
                pass

    def fileno(self) -> int:
        """The near end's descriptor, readable from a ring on."""
        return self._near.fileno()

    @property
    def far(self) -> int:
        """The far end's descriptor, for native code that rings by sending a byte to it."""
        return self._far.fileno()

    def close(self) -> None:
        self._near.close()
        self._far.close()
