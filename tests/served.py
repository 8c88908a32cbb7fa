"""The service over small real models on disk, without a socket."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from service.app import create_app
from service.engine import choose
from service.repository import Repository
from service.settings import Settings
from tests.fake_engine import running


@contextlib.asynccontextmanager
async def served(store: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the models of a store, `imdb` the default; one engine thread, float32."""
    options = Settings(
        **{"store": store, "device": "cpu", "threads": 1, "lanes": 8, "precision": "float32", **settings}
    )
    async with running(create_app(options, Repository(options.model), choose(options))) as client:
        yield client
