"""What a good engineer would put around torch: FastAPI, packed batches of what arrived while the last one ran.

``uvicorn benchmarks.baseline:app --workers 2``, a process for each core: torch runs on one thread in each, as torch's
own threads are several times slower outside of the main thread. VERSION names the folder of the model version.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Self

import torch
from fastapi import FastAPI
from pydantic import BaseModel, Field, model_validator

from models.artifact import read_artifact
from models.network import SequenceClassifier

MAX_BATCH = 64

artifact = read_artifact(Path(os.environ["VERSION"]))
config = artifact.config
network = SequenceClassifier.from_weights(config, artifact.weights)
torch.set_num_threads(1)

Token = Annotated[int, Field(ge=0, lt=config.vocab_size)]
Row = Annotated[list[Token], Field(min_length=1, max_length=config.max_length)]


class Request(BaseModel):
    """Rows of one width, each with its number of tokens before the padding."""

    token_ids: list[Row] = Field(min_length=1, max_length=256)
    lengths: list[Annotated[int, Field(ge=1)]]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.lengths) != len(self.token_ids):
            raise ValueError("lengths must have an entry for each row")
        if len({len(row) for row in self.token_ids}) > 1 or max(self.lengths) > len(self.token_ids[0]):
            raise ValueError("rows must be as wide as the longest sequence")
        return self


class Reply(BaseModel):
    """Logits ``[sequences, num_logits]``."""

    labels: list[str]
    logits: list[list[float]]


class Batcher:
    """One batch at a time, on a thread, so that requests are read meanwhile; what has arrived makes the next one."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[list[int], asyncio.Future[list[float]]]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))

    async def predict(self, sequences: list[list[int]]) -> list[list[float]]:
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in sequences]
        self._waiting.extend(zip(sequences, futures, strict=True))
        self._arrived.set()
        return [await future for future in futures]

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            await asyncio.sleep(0)  # what has arrived is read first
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))]
            if not self._waiting:
                self._arrived.clear()
            try:
                logits = await loop.run_in_executor(self._thread, network.predict, [row for row, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), row in zip(batch, logits.tolist(), strict=True):
                if not future.done():  # its caller may have left
                    future.set_result(row)


batcher = Batcher()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    running = asyncio.create_task(batcher.run())
    yield
    running.cancel()


app = FastAPI(lifespan=lifespan)


@app.get("/livez")
async def live() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/predict")
async def predict(request: Request) -> Reply:
    rows = [row[:length] for row, length in zip(request.token_ids, request.lengths, strict=True)]
    return Reply(labels=list(config.labels), logits=await batcher.predict(rows))
