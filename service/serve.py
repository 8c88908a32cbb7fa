"""Settings -> verified models -> uvicorn; owns the signals."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence

import uvicorn

from models.artifact import ArtifactError
from service import logs
from service.app import create_app
from service.engine import choose
from service.errors import BackendError
from service.repository import Repository
from service.settings import PROG, Settings, SettingsError

log = logging.getLogger("service")


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: they close the listener at once and raise the signal again at the end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Serves until SIGTERM or SIGINT. Exit status: 0 after a clean shutdown, 2 when it cannot start."""
    try:
        settings = Settings.load(sys.argv[1:] if arguments is None else arguments, os.environ, prog)
        return _serve(settings)
    except (SettingsError, ArtifactError, BackendError, OSError) as error:
        print(f"lstm-serve: {error}", file=sys.stderr)
        return 2


def _serve(settings: Settings) -> int:
    logs.configure(settings.log_level)
    if path := settings.admin_key_file:
        try:
            path.read_bytes()
        except OSError as error:
            raise SettingsError(f"LSTMSERVE_ADMIN_KEY_FILE={path}: cannot be read: {error.strerror}") from error
    engine = choose(settings)
    repository = Repository(settings.model, keep=settings.keep_served)
    app = create_app(settings, repository, engine)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",  # it is entered here, so that what it raises is told in one line
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    server = Server(config)

    async def serve() -> None:
        loop = asyncio.get_running_loop()

        def leave() -> None:
            server.should_exit = True

        def drain(seconds: float) -> None:
            """Not ready at once; a second signal does not wait for the delay, a third one for nothing."""
            server.force_exit = server.should_exit
            loop.call_later(0 if app.state.draining else seconds, leave)
            app.state.draining = True
            log.info("draining", extra={"seconds": seconds})

        async with app.router.lifespan_context(app):
            listener = _listen(settings.host, settings.port)
            loop.add_signal_handler(signal.SIGTERM, drain, settings.drain_seconds)
            loop.add_signal_handler(signal.SIGINT, drain, 0)
            log.info(
                "serving",
                extra={
                    "address": _url(listener),
                    "models": {
                        model.name: {"version": model.version, "precision": model.precision} for model in repository
                    },
                    "engine": engine.name,
                    "precisions": engine.precisions,
                    "device": engine.device,
                    "threads": engine.threads,
                },
            )
            await server.serve(sockets=[listener])

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(serve())
    log.info("stopped")
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError, naming host and port."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        every = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address, family=family, dualstack_ipv6=every)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host name"
        raise OSError(f"cannot listen on {host} port {port}: {reason}") from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"
