"""Settings -> verified models -> uvicorn; owns the signals."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

from models.artifact import ArtifactError
from service import garbage, logs
from service.app import create_app
from service.engine import choose
from service.errors import BackendError, NotReady
from service.repository import Repository
from service.server import listen, make_server, url
from service.settings import PROG, Settings, SettingsError

log = logging.getLogger("service")

BROKEN = 70
"""Exit status of a process whose engine cannot go on (EX_SOFTWARE of sysexits.h): start it again."""

LAST_SECONDS = 2.0
"""For the replies of those who waited for such an engine."""


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Serves until SIGTERM or SIGINT.

    Exit status: 0 after a clean shutdown, 2 when it cannot start, `BROKEN` when its engine cannot go on.
    """
    try:
        settings = Settings.load(sys.argv[1:] if arguments is None else arguments, os.environ, prog)
        return _serve(settings)
    except (SettingsError, ArtifactError, BackendError, OSError) as error:
        print(f"lstm-serve: {error}", file=sys.stderr)
        return 2
    except NotReady:  # the log has the cause
        return BROKEN


def _serve(settings: Settings) -> int:
    logs.configure(settings.log_level)
    engine = choose(settings)
    repository = Repository(settings.model, keep=settings.keep_served)
    app = create_app(settings, repository, engine)
    health = app.state.health
    server = make_server(app, settings)

    async def serve() -> None:
        loop = asyncio.get_running_loop()

        def leave() -> None:
            server.should_exit = True

        def drain(seconds: float) -> None:
            """Not ready at once; a second signal does not wait for the delay, a third one for nothing."""
            server.force_exit = server.should_exit
            loop.call_later(0 if health.draining else seconds, leave)
            health.draining = True
            log.info("draining", extra={"seconds": seconds})

        async with app.router.lifespan_context(app):
            garbage.settle()
            collecting = asyncio.ensure_future(garbage.collect(lambda: app.state.batcher.idle))
            listener = listen(settings.host, settings.port)
            loop.add_signal_handler(signal.SIGTERM, drain, settings.drain_seconds)
            loop.add_signal_handler(signal.SIGINT, drain, 0)
            log.info(
                "serving",
                extra={
                    "address": url(listener, server),
                    "models": {
                        model.name: {"version": model.version, "precision": model.precision} for model in repository
                    },
                    "engine": engine.name,
                    "precisions": engine.precisions,
                    "device": engine.device,
                    "threads": engine.threads,
                },
            )
            serving = asyncio.ensure_future(server.serve(sockets=[listener]))
            broken = asyncio.ensure_future(app.state.batcher.broken.wait())
            await asyncio.wait({serving, broken}, return_when=asyncio.FIRST_COMPLETED)
            if app.state.batcher.broken.is_set():
                leave()
                await asyncio.wait({serving}, timeout=LAST_SECONDS)
                os._exit(BROKEN)  # a thread that is stuck would hold up any other way out
            broken.cancel()
            await serving
            collecting.cancel()

    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(serve())
    log.info("stopped")
    return BROKEN if app.state.batcher.broken.is_set() else 0
