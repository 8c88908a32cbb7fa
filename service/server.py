"""The HTTP server around the app: uvicorn with this service's bounds, its TLS, and its listener."""

import asyncio
import contextlib
import functools
import logging
import resource
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from service import tls
from service.connections import Connections, Limits
from service.protocol import Connection
from service.settings import Settings, SettingsError

log = logging.getLogger(__name__)

SPARE_FILES = 256
"""Descriptors for all that is not a connection."""

BODIES = 64
"""Of the largest size that may be on their way together."""

FEWEST = 8
"""Connections without which no service is one."""

FAREWELL_SECONDS = 1.0
"""For a client to say that it has heard the end of a TLS connection; most never do."""


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: they close the listener at once and raise the signal again at the end."""

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self._connections = connections

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but for the time that TLS may take at a connection's beginning and end."""
        config, loop = self.config, asyncio.get_running_loop()
        make = functools.partial(
            Connection, self._connections, config=config, server_state=self.server_state, app_state=self.lifespan.state
        )
        self.servers = [
            await loop.create_server(
                make,
                sock=one,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=self._connections.limits.header_seconds if config.ssl else None,
                ssl_shutdown_timeout=FAREWELL_SECONDS if config.ssl else None,
            )
            for one in sockets or []
        ]
        self.started = True


def make_server(app: FastAPI, settings: Settings) -> Server:
    """The server of an app whose lifespan is entered elsewhere. Raises SettingsError."""
    health = app.state.health
    limits = Limits(
        open_files(settings.max_connections),
        settings.max_header_bytes,
        settings.header_seconds,
        settings.timeout_ms / 1000,
        settings.max_body_bytes,
        BODIES * settings.max_body_bytes,
    )
    connections = Connections(limits, app.state.metrics, lambda: health.draining, app.state.batcher)
    config = uvicorn.Config(
        app,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",  # it is entered elsewhere, so that what it raises is told in one line
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    config.load()
    if settings.tls_cert_file and settings.tls_key_file:
        config.ssl = tls.context(settings.tls_cert_file, settings.tls_key_file)
    return Server(config, connections)


def open_files(connections: int) -> int:
    """Sees to it that so many connections can be open, as far as the system lets it; how many. Raises SettingsError."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = connections + SPARE_FILES
    if most != resource.RLIM_INFINITY and most < FEWEST + SPARE_FILES:
        raise SettingsError(f"{most} open files are too few: at least {FEWEST + SPARE_FILES} are needed (ulimit -n)")
    if most != resource.RLIM_INFINITY and wanted > most:
        log.warning(
            "fewer connections than LSTMSERVE_MAX_CONNECTIONS: raise the limit of open files",
            extra={"limit": most, "connections": most - SPARE_FILES},
        )
        wanted = most
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    return wanted - SPARE_FILES


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError, naming host and port."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        every = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address, family=family, dualstack_ipv6=every)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host name"
        raise OSError(f"cannot listen on {host} port {port}: {reason}") from error


def url(listener: socket.socket, server: Server) -> str:
    """Where the server can be reached that serves on that socket."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if server.config.ssl else "http"
    return f"{scheme}://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"{scheme}://{host}:{port}"
