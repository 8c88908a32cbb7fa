"""Blocks of texts -> token ids -> logits -> values of the added columns, each stage on a thread of its own."""

import math
import select
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

from models.config import ModelConfig
from service.engine import Engine
from service.errors import BackendError
from service.repository import Model
from service.schemas.shared import Truncate
from service.score.files import Block, Values
from service.sequence import Sequence
from service.texts import Encoded, TextError, keep
from service.verdict import verdicts
from service.watchdog import Watchdog

Item = TypeVar("Item")

MOST_OPEN = 16
"""Blocks with sequences in the engine: those behind one of long sequences wait for it to be written."""

WATCH_SECONDS = 4.0
"""Between two looks for engine threads that are stuck."""


class Work(NamedTuple):
    """A block and what the model reads of each of its texts."""

    block: Block
    tokens: list[int]
    """Of each whole text."""
    texts: list[Encoded | TextError]


class Done(NamedTuple):
    block: Block
    values: list[Values]
    errors: Counter[str]
    """How many rows have each error."""


class Ahead(Iterator[Item], Generic[Item]):
    """Items of an iterator that runs on a thread of its own, at most so many ahead; it raises what that raises."""

    def __init__(self, items: Iterator[Item], most: int) -> None:
        self._items, self._most = items, most
        # it guards what follows
        self._changed = threading.Condition()
        self._ready: deque[Item] = deque()
        self._error: BaseException | None = None
        self._ended = self._closed = False
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)
        self._thread.start()

    def __next__(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended or self._closed)
            if self._ready and not self._closed:
                self._changed.notify_all()
                return self._ready.popleft()
            if self._error is not None and not self._closed:
                raise self._error
            raise StopIteration

    def close(self) -> None:
        """Ends the thread after the item that it is at; there are no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            for item in self._items:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._ready) < self._most or self._closed)
                    if self._closed:
                        break
                    self._ready.append(item)
                    self._changed.notify_all()
        except BaseException as error:  # it is raised where the items are taken
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def encode(blocks: Iterator[Block], model: Model, most: int, truncate: Truncate | None) -> Iterator[Work]:
    """At most `most` tokens of each text."""
    assert model.tokenizer is not None
    for block in blocks:
        token_ids = model.tokenizer.encode(block.texts)
        texts = [keep(tokens, most, truncate, model.unknown_id) for tokens in token_ids]
        yield Work(block, list(map(len, token_ids)), texts)


class _Open:
    """A block in the engine."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.logits: dict[int, list[float]] = {}
        self.left = sum(isinstance(text, Encoded) for text in work.texts)


def compute(works: Iterator[Work], model: Model, engine: Engine) -> Iterator[Done]:
    """Keeps the engine full over the blocks' ends; they come out in order.

    Raises BackendError when the engine ends, or cannot compute a row.
    """
    blocks: deque[_Open] = deque()
    held: dict[Sequence, tuple[_Open, int]] = {}
    watchdog, look_at = Watchdog(), time.monotonic() + WATCH_SECONDS

    def collect() -> None:
        nonlocal look_at
        select.select([engine.fileno()], [], [], WATCH_SECONDS)
        if (now := time.monotonic()) >= look_at:  # by the clock: beside a stuck thread others may work on
            look_at = now + WATCH_SECONDS
            if watchdog.look(engine.pulses):
                raise BackendError("a thread of the engine is stuck in a step: go on with --resume")
        for sequence, result in engine.collect():
            block, index = held.pop(sequence)
            if isinstance(result, Exception):
                raise BackendError(f"row {block.work.block.numbers[index]} cannot be computed: {result}") from result
            block.logits[index] = result
            block.left -= 1

    def finished() -> Iterator[Done]:
        while blocks and not blocks[0].left:
            block = blocks.popleft()
            yield _done(block.work, block.logits, model.config)

    for work in works:
        blocks.append(block := _Open(work))
        for index, text in enumerate(work.texts):
            if isinstance(text, Encoded):
                while not engine.room or len(blocks) > MOST_OPEN:
                    collect()
                    yield from finished()
                sequence = Sequence(text.token_ids, model.weights, math.inf, 0.0)
                engine.start(sequence)
                held[sequence] = block, index
        yield from finished()
    while held:
        collect()
        yield from finished()


def _done(work: Work, logits: dict[int, list[float]], config: ModelConfig) -> Done:
    judged = dict(zip(logits, verdicts(list(logits.values()), config), strict=True))
    values: list[Values] = []
    errors: Counter[str] = Counter()
    for index, (tokens, text) in enumerate(zip(work.tokens, work.texts, strict=True)):
        if isinstance(text, TextError):
            values.append([None, *[None] * len(config.labels), tokens, 0, text.code])
            errors[text.code] += 1
        else:
            values.append([judged[index].label, *judged[index].scores.values(), tokens, text.dropped, None])
    return Done(work.block, values, errors)
