"""HTTP/1.1 connections, bounded in number, bytes and time: uvicorn's protocol, and what that leaves open."""

import asyncio
import functools
import re
from typing import Any, cast
from urllib.parse import unquote

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.authorization import is_admin
from service.body import LENGTH_DIGITS
from service.connections import Connections
from service.dialects import refusal
from service.errors import Overloaded
from service.joining import Joining
from service.logs import request_id_of
from service.scheduler import Reservation

FRAMING = 8
"""Bytes of chunk sizes and their line ends for each byte of a body, at the most: a chunk of one byte has 5."""

PIPELINED = 16
"""Requests that may wait on a connection for the reply to the first; a client that sends more reads none."""

BLANK = "~"
"""Stands for a character of a request's id, none of which it can be."""


def _without_upgrade(data: bytes) -> bytes:
    """Requests that would rather speak HTTP/2 (as Java's client and curl --http2 do) speak HTTP/1.1.

    A server may ignore the wish (RFC 9110, section 7.8); the parser would lose the body.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return re.sub(rb"(?i)\r\nupgrade:[^\r\n]*", b"", head) + end + rest


def _message(reply: Response, identity: str, *, close: bool) -> bytes:
    """A whole reply as it is sent."""
    headers = [
        *reply.raw_headers,
        (b"x-request-id", identity.encode()),
        *([(b"connection", b"close")] if close else []),
    ]
    head = b"".join(b"%b: %b\r\n" % header for header in headers)
    return STATUS_LINE[reply.status_code] + head + b"\r\n" + bytes(reply.body)


@functools.lru_cache(maxsize=64)
def _overloaded(path: str, detail: str, retry_after: str, identity: str, close: bool) -> bytes:
    """Under overload the same is said thousands of times a second; making it takes as long as all else together."""
    reply = refusal(path, Overloaded.status, detail, identity, headers={"Retry-After": retry_after})
    return _message(reply, identity, close=close)


class Connection(HttpToolsProtocol):
    """One connection. What its client has to send or to take has its time and its bytes, or it is closed.

    Until a request's head is complete, and after its reply while it still sends, it has `header_seconds`; the app
    bounds the body's time itself.
    """

    def __init__(self, connections: Connections, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections, self._limits = connections, connections.limits
        self._overhead = 0
        """Bytes of the message that comes in which are not its body, and do not frame it."""
        self._in_head = True
        self._in_message = False
        self._refused = False
        """Nothing that still comes is heard."""
        self._body_bytes = self._arriving = 0
        self._reservation: Reservation | None = None
        """Of the request that is being answered, once its body has come."""
        self._reading: asyncio.TimerHandle | None = None
        """Runs while the client has to send something that is no body."""
        self._writing: asyncio.TimerHandle | None = None
        """Runs while the client has to take something."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self._joining = cast("asyncio.Transport", Joining(self.transport, self.loop))
        self._bound_rest()
        self._connections.enter(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.leave(self)
        self._arrive()
        self._release()
        self._unset_keepalive_if_required()
        self._unbound_reading()
        self._unbound_writing()
        super().connection_lost(error)
        self.pipeline.clear()  # they hold this connection, and it holds them

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if b"pgrade" in data and not self._in_message:
            data = _without_upgrade(data)
        self._overhead += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._overhead > self._limits.header_bytes:
            self._refuse_head()
        elif self._in_message and not self._answering:
            self._bound_reading()
        else:
            self._unbound_reading()
            if not self._answering:
                self._bound_rest()

    def on_message_begin(self) -> None:
        self._in_head = self._in_message = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._refused or self.transport.is_closing():
            return
        if self._overhead > self._limits.header_bytes:  # with what may have come of the body
            head = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if head > self._limits.header_bytes:
                self._refuse_head()
                return
        if len(self.pipeline) >= PIPELINED:
            self.refuse(400, f"more than {PIPELINED} requests wait for replies: read them", "not_reading")
            return
        if not self._answering and self.parser.get_method() == b"POST" and self._turn_away():
            return
        self._connections.resting.pop(self, None)
        self._connections.receiving[self] = None
        super().on_headers_complete()
        self.headers = []  # trailers say nothing here
        self.cycle.transport = self._joining
        if self._connections.draining() or self.expect_100_continue:  # its body may come after the reply, or never
            self.cycle.keep_alive = False

    def _turn_away(self) -> bool:
        """Where the queue is full, answers without a look at the body, and without a task: that costs a tenth."""
        path = unquote(self.url.partition(b"?")[0].decode("latin-1"))
        if is_admin(path) or self.flow.write_paused:
            return False
        headers = dict(self.headers)
        sent = headers.get(b"content-length", b"0")
        length = int(sent) if sent.isdigit() and len(sent) <= LENGTH_DIGITS else 0
        if length > self._limits.body_bytes:  # that it is too large is the better news
            return False
        try:
            self._connections.batcher.check_room(length)
        except Overloaded as error:
            goes_on = self.parser.should_keep_alive() and not self.expect_100_continue
            close = self._connections.draining() or not goes_on
            identity = request_id_of(headers.get(b"x-request-id", b"").decode("latin-1"))
            blank = BLANK * len(identity)
            message = _overloaded(path, error.detail, error.headers["Retry-After"], blank, close)
            self._write(message.replace(blank.encode(), identity.encode()), close=close)
            self._connections.turned_away()
            return True
        return False

    def on_body(self, body: bytes) -> None:
        self._overhead = max(0, self._overhead - (1 + FRAMING) * len(body))
        self._body_bytes += len(body)
        if self._answering:
            self._arriving += len(body)
            self._connections.arriving += len(body)
            super().on_body(body)
            if self._connections.arriving > self._limits.arriving_bytes:
                self.refuse(503, "more is arriving than is kept at a time: send it again later, at once", "busy")

    def on_message_complete(self) -> None:
        self._overhead, self._in_message = 0, False
        self._connections.receiving.pop(self, None)
        self._arrive()
        if self._answering:
            super().on_message_complete()
            if 0 < self._body_bytes <= self._limits.body_bytes and not self.pipeline and not self._reservation:
                self._reservation = self._connections.batcher.reserve(self._body_bytes)
                self.cycle.scope["state"]["reservation"] = self._reservation
        self._body_bytes = 0

    def on_response_complete(self) -> None:
        self._release()
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()  # until all that wait are answered
        if self.transport.is_closing():
            self._bound_flushing()
        elif not self._answering:
            self._arrive()
            self._connections.receiving.pop(self, None)
            self._connections.resting[self] = None
            if self._in_message:
                self._bound_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._bound_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unbound_writing()

    def timeout_keep_alive_handler(self) -> None:
        self.end("idle")

    def send_400_response(self, msg: str) -> None:
        self.refuse(400, "this is not HTTP/1.1 as RFC 9112 has it: send a well-formed request", "malformed")

    def refuse(self, status: int, detail: str, reason: str) -> None:
        """Ends the connection with a problem: the reply to what is coming in, after those to what came before it."""
        self._connections.metrics.closed(reason)
        self._refused = True
        if self._answering and (self._in_head or not self._in_message or self.pipeline):
            self.cycle.keep_alive = False  # those who were asked before it are answered, it is not
            return
        if not (self._answering and self.cycle.response_started):
            identity = request_id_of("")
            self._write(_message(refusal("/", status, detail, identity), identity, close=True), close=True)
        else:
            self.transport.close()

    def _write(self, message: bytes, *, close: bool) -> None:
        """A reply that is not the app's."""
        self.transport.write(message)
        if close:
            self.transport.close()
            self._bound_flushing()

    def end(self, reason: str) -> None:
        """Ends the connection at once, whatever its client has not taken."""
        self._connections.metrics.closed(reason)
        self._connections.leave(self)
        if self.scheme == "https" or self.transport.get_write_buffer_size():  # or it would wait for its client
            self.transport.abort()
        else:
            self.transport.close()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _bound_rest(self) -> None:
        if self.timeout_keep_alive_task is None:
            delay, handler = self.timeout_keep_alive, self.timeout_keep_alive_handler
            self.timeout_keep_alive_task = self.loop.call_later(delay, handler)

    def _bound_reading(self) -> None:
        if self._reading is None:
            self._reading = self.loop.call_later(self._limits.header_seconds, self._refuse_slow)

    def _arrive(self) -> None:
        """Its body has come, or never will."""
        self._connections.arriving -= self._arriving
        self._arriving = 0

    def _release(self) -> None:
        if self._reservation:
            self._reservation.release()
            self._reservation = None

    def _unbound_reading(self) -> None:
        if self._reading:
            self._reading.cancel()
            self._reading = None

    def _bound_writing(self) -> None:
        if self._writing is None:
            self._writing = self.loop.call_later(self._limits.write_seconds, self.end, "not_reading")

    def _bound_flushing(self) -> None:
        """It is closed as soon as its client has taken what was written."""
        if self.transport.get_write_buffer_size():
            self._bound_writing()

    def _unbound_writing(self) -> None:
        if self._writing:
            self._writing.cancel()
            self._writing = None

    def _refuse_slow(self) -> None:
        if not (self._in_head and self._in_message):  # it has asked nothing, or has its answer
            self.end("idle")
            return
        limit = f"{self._limits.header_seconds:g} s (LSTMSERVE_HEADER_SECONDS)"
        self.refuse(408, f"the request's head was not complete after {limit}: send it at once", "head_slow")

    def _refuse_head(self) -> None:
        limit = f"{self._limits.header_bytes} bytes (LSTMSERVE_MAX_HEADER_BYTES)"
        self.refuse(431, f"request line and headers are over the limit of {limit}: send fewer or shorter", "head_large")
