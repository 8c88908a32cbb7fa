"""A batcher in a test: opened, asked, and looked into when nothing should be left."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Hashable

from service.batcher import Answer, Batcher
from service.engine import Engine
from service.metrics import Metrics
from tests.fake_engine import until


@contextlib.asynccontextmanager
async def batching(engine: Engine, *, queue_tokens: int = 1000, queue_requests: int = 1000) -> AsyncIterator[Batcher]:
    batcher = Batcher(engine, Metrics(), queue_tokens=queue_tokens, queue_requests=queue_requests)
    batcher.start()
    yield batcher
    await batcher.close()


def ask(
    batcher: Batcher, *token_ids: list[int], weights: Hashable = "weights", seconds: float = 30, urgent: bool = False
) -> asyncio.Task[Answer]:
    return asyncio.create_task(batcher.run(weights, list(token_ids), seconds=seconds, urgent=urgent))


async def until_nothing_is_left(batcher: Batcher, engine: Engine, room: int) -> None:
    """Lanes are freed after the step in which their callers left."""

    async def nothing_is_left() -> bool:
        return not batcher._requests and not batcher._scheduler.sequences and engine.room == room

    await until(nothing_is_left)
    assert (batcher._scheduler.tokens, batcher._scheduler.requests) == (0, 0)
