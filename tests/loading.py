"""A loader without the service around it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from service.batcher import Batcher
from service.engine import Engine
from service.loader import Loader
from service.metrics import Metrics
from service.repository import Repository
from service.store import Store
from service.verification import Verifier


class Loading:
    """A store's loader, what it loads into, and what it counts."""

    def __init__(self, store: Path, engine: Engine, *, keep: int = 0, pins: Mapping[str, int] | None = None) -> None:
        self.metrics = Metrics()
        self.repository = Repository("imdb", keep=keep)
        self.batcher = Batcher(engine, self.metrics, queue_tokens=256, queue_requests=256)
        self.loader = Loader(Store(store), self.repository, Verifier(engine, self.batcher), self.metrics, pins or {})

    def count(self, name: str, **labels: str) -> float | None:
        """A sample; None where there is none."""
        return self.metrics.registry.get_sample_value(name, labels)


@contextlib.asynccontextmanager
async def loading(
    store: Path, engine: Engine, *, keep: int = 0, pins: Mapping[str, int] | None = None
) -> AsyncIterator[Loading]:
    """The engine stays open."""
    made = Loading(store, engine, keep=keep, pins=pins)
    made.batcher.start()
    try:
        yield made
    finally:
        asyncio.get_running_loop().remove_reader(engine.fileno())


def opened(store: Path, engine: Engine) -> Repository:
    """What serves of a store whose default model is `imdb`. Raises ArtifactError."""

    async def run() -> Repository:
        async with loading(store, engine) as made:
            await made.loader.open()
            return made.repository

    return asyncio.run(run())
