"""A request that computes, in any dialect: its deadline, its priority, its body, its time in the engine."""

import asyncio
import re
import time
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from service.batcher import Batcher
from service.body import read_body, read_json, while_connected
from service.errors import DeadlineExceeded, FieldError, Forbidden, InvalidContent
from service.judgements import Judgements
from service.keys import Key
from service.metrics import Metrics
from service.repository import Model, Repository
from service.scheduler import Reservation
from service.schemas.bulk import check_bulk
from service.schemas.shared import Truncate
from service.settings import Settings
from service.texts import Encoded, TextError, Token, encode, locate

T = TypeVar("T")


class Serving(NamedTuple):
    """What the routes of every dialect work with."""

    settings: Settings
    repository: Repository
    batcher: Batcher
    metrics: Metrics
    judgements: Judgements
    tokenising: asyncio.Lock
    """Held while long texts are tokenised: those of one request after those of another, or none would be in time."""
    explaining: asyncio.Lock
    """Held while variants of a text are in the engine."""
    share: int
    """Variants of a text that are in the engine at a time: half of its lanes."""


class Call:
    """One such request; its clock runs from when it began. Raises InvalidContent for a bad header."""

    def __init__(self, request: Request, serving: Serving) -> None:
        self._request, self._serving = request, serving
        self._deadline: float = request.scope["began"] + _timeout(request, serving.settings.timeout_ms)
        self._urgent = _urgent(request)
        self._queue = self._compute = 0.0
        self._by: dict[str, str] = {}
        self._phases: list[tuple[str, float]] | None = request.scope.get("phases")
        self._enter("validate")

    async def json(self) -> bytes:
        """The body of a request that says it is JSON, decompressed.

        Raises as `read_json` and `check_bulk` do, or Overloaded.
        """
        settings = self._serving.settings
        body = await read_json(self._request, settings.max_body_bytes, self._arrival)
        self.check_room(body)
        check_bulk(body, settings.max_sequences, settings.max_tokens)
        return body

    def check_room(self, body: bytes) -> None:
        """Raises Overloaded where so long a body has no room, before the time is spent that it takes to parse it."""
        self._serving.batcher.check_room(len(body), self._reservation)

    async def body(self) -> bytes:
        """The body of any media type, decompressed. Raises as `read_body` does."""
        return await read_body(self._request, self._serving.settings.max_body_bytes, self._arrival)

    async def encode(
        self, model: Model, texts: list[str], truncate: Truncate | None = None
    ) -> list[Encoded | TextError]:
        """Each text as the model reads it, or why it cannot; counted.

        The body must have been read. Raises as `service.texts.encode` does, or DeadlineExceeded.
        """
        settings = self._serving.settings

        async def work() -> list[Encoded | TextError]:
            async with self._serving.tokenising:
                return await encode(model, texts, settings.max_tokens, truncate, most_bytes=settings.max_text_bytes)

        encoded = await self._in_time(while_connected(self._request, work()))
        self._serving.judgements.read(model, encoded)
        return encoded

    async def answer(self, model: Model, token_ids: list[list[int]]) -> list[list[float]]:
        """Logits ``[sequences][num_logits]`` of what was asked, which is counted.

        The body must have been read. Raises as `Batcher.run` does.
        """
        self._by = {"X-Model": model.name, "X-Model-Version": str(model.version)}
        queue, compute = self._queue, self._compute
        logits = await self._run(model, token_ids, urgent=self._urgent)
        if token_ids:
            lengths = [len(tokens) for tokens in token_ids]
            self._serving.metrics.answered(self._queue - queue, self._compute - compute, lengths)
            self._serving.judgements.note(model, logits)
            self._serving.repository.note(model, token_ids)
        return logits

    async def compute(self, model: Model, token_ids: list[list[int]]) -> list[list[float]]:
        """Logits of what explains an answer, counted apart. Raises as `answer` does.

        They take a share of the lanes at a time, and take turns with those of other requests, so that who wants
        answers hardly notices.
        """
        logits: list[list[float]] = []
        share = self._serving.share
        for first in range(0, len(token_ids), share):
            few = token_ids[first : first + share]
            await self._in_time(self._serving.explaining.acquire())
            try:
                logits += await self._run(model, few, urgent=False)
            finally:
                self._serving.explaining.release()
            self._serving.metrics.explained([len(tokens) for tokens in few])
        return logits

    async def locate(self, model: Model, text: str, encoded: Encoded) -> list[Token]:
        """The kept tokens as they stand in the text. Raises DeadlineExceeded."""
        return await self._in_time(while_connected(self._request, locate(model, text, encoded)))

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(self._left):
                return await work
        except TimeoutError as error:
            raise DeadlineExceeded from error

    async def _run(self, model: Model, token_ids: list[list[int]], *, urgent: bool) -> list[list[float]]:
        if not token_ids:
            self._enter("encode")
            return []
        self._enter("engine")
        if reservation := self._reservation:
            reservation.release()
        work = self._serving.batcher.run(model.weights, token_ids, seconds=self._left, urgent=urgent)
        logits, queue, compute = await while_connected(self._request, work)
        self._queue += queue
        self._compute += compute
        if self._phases:  # now it is known which part was which
            _, began = self._phases.pop()
            self._phases += [("queue", began), ("compute", began + queue), ("encode", began + queue + compute)]
        return logits

    def reply(self, document: object) -> Response:
        """The answer as JSON; headers name the version that made it, and how long it waited and was computed."""
        return self.respond(to_json(document), "application/json")

    def respond(self, content: bytes, media: str, headers: Mapping[str, str] | None = None) -> Response:
        """The same with the content as it is."""
        timing = f"queue;dur={1000 * self._queue:.3f}, compute;dur={1000 * self._compute:.3f}"
        response = Response(content, media_type=media, headers={"Server-Timing": timing, **self._by, **(headers or {})})
        self._enter("")
        return response

    def _enter(self, phase: str) -> None:
        """Notes for the trace, if there is one, what the request spends its time on from now."""
        if self._phases is not None:
            self._phases.append((phase, time.monotonic()))

    @property
    def _reservation(self) -> Reservation | None:
        """The server around the app makes one when the body has come."""
        found: Reservation | None = getattr(self._request.state, "reservation", None)
        return found

    @property
    def _arrival(self) -> float | None:
        """Seconds that the body may take; a timer for one that is there would cost as much as reading it."""
        return None if self._reservation else self._left

    @property
    def _left(self) -> float:
        return self._deadline - time.monotonic()


def _timeout(request: Request, limit: int) -> float:
    """Seconds that the client gives, or the setting does."""
    text = request.headers.get("x-request-timeout-ms", str(limit))
    if not (re.fullmatch("[0-9]{1,18}", text) and 1 <= int(text) <= limit):
        raise _bad_header("X-Request-Timeout-Ms", f"must be an integer from 1 to {limit}")
    return int(text) / 1000


def _urgent(request: Request) -> bool:
    """Whether it goes ahead: as its key does, unless it asks otherwise."""
    text = request.headers.get("x-request-priority")
    if text is None:
        key: Key | None = request.scope.get("key")
        return key is not None and key.urgent
    if text not in ("high", "normal"):
        raise _bad_header("X-Request-Priority", "must be high or normal")
    return urgent(request, text == "high", "header X-Request-Priority")


def urgent(request: Request, high: bool, where: str) -> bool:
    """What is asked for there. Raises Forbidden where the request's key may not go ahead."""
    key: Key | None = request.scope.get("key")
    if high and key and not key.urgent:
        raise Forbidden(f"{where}: the key {key.name!r} may not go ahead: leave it out, or use a key of high priority")
    return high


def _bad_header(name: str, rule: str) -> InvalidContent:
    return InvalidContent(f"header {name} {rule}", errors=[FieldError(name, rule)], count=1)
