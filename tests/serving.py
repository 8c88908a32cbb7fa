"""An app on a real socket, behind the service's own server, in a thread of the test's process."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine, Iterator

from fastapi import FastAPI

from service.server import make_server
from service.settings import Settings
from tests.fake_engine import LIMITS


def run(runner: asyncio.Runner, serve: Coroutine[None, None, None]) -> None:
    with runner:
        runner.run(serve)


@contextlib.contextmanager
def serving(app: FastAPI, **settings: object) -> Iterator[int]:
    """The port on which the app is served; `settings`: of the server."""
    server = make_server(app, Settings.model_validate({**LIMITS, "shutdown_seconds": 5, **settings}))

    async def serve(listener: socket.socket) -> None:
        async with app.router.lifespan_context(app):
            await server.serve(sockets=[listener])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        runner = asyncio.Runner(loop_factory=server.config.get_loop_factory())
        thread = threading.Thread(target=lambda: run(runner, serve(listener)))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
