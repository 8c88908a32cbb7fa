"""The batcher over each engine, under thousands of sequences that come, fail, expire and are left at random."""

import asyncio
import functools
import logging
import random
from collections import Counter
from collections.abc import Callable, Hashable
from collections.abc import Sequence as Many
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from models.network import SequenceClassifier
from service.engine import Engine
from service.engine.packed import PackedEngine
from service.errors import DeadlineExceeded, EngineFailed, Overloaded
from tests.batching import ask, batching, until_nothing_is_left
from tests.fake_engine import POISON, Fake, right
from tests.tiny import tiny_artifact, tiny_config

pytestmark = pytest.mark.anyio


class Network(SequenceClassifier):
    """For the packed engine: the logits of the fake engine, batch by batch."""

    def __init__(self) -> None:
        super().__init__(tiny_config())

    def predict(self, sequences: Many[Many[int]]) -> npt.NDArray[np.float32]:
        if any(POISON in sequence for sequence in sequences):
            raise ArithmeticError("poisoned")
        return np.array([right(list(sequence)) for sequence in sequences], np.float32)


Expected = Callable[[list[int]], list[float]]


class Case(NamedTuple):
    """An engine, how many it has room for, and weights with the logits that they give."""

    engine: Engine
    room: int
    models: list[tuple[Hashable, Expected]]


def alone(network: SequenceClassifier, row: list[int]) -> list[float]:
    logits: list[float] = network.predict([row])[0].tolist()
    return logits


def make_case(kind: str, lanes: int, draw: random.Random) -> Case:
    if kind == "fake":
        return Case(Fake(lanes, per_step=draw.choice([1, 4, 4096])), lanes, [("weights", right)])
    if kind == "packed":
        networks = [Network(), Network()]
        packed = PackedEngine("cpu", 3, lanes, draw.choice([1, 30]))
        return Case(packed, 6 * lanes, [(network, right) for network in networks])
    native = pytest.importorskip("service.engine.native", reason="the native engine is not built", exc_type=ImportError)
    engine = native.NativeEngine(threads=3, lanes=lanes, precision="float32", table_mb=1)
    models: list[tuple[Hashable, Expected]] = []
    for seed in range(2):
        artifact = tiny_artifact(seed, with_tokenizer=False, vocab_size=POISON)  # which it has not
        network = SequenceClassifier.from_weights(artifact.config, artifact.weights)
        models.append((engine.load(artifact, "float32"), functools.partial(alone, network)))
    return Case(engine, engine.room, models)


@pytest.mark.parametrize("kind", ["fake", "packed", "native"])
@pytest.mark.parametrize("seed", range(3))
async def test_random_interleavings(seed: int, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """One right ending each, nothing kept."""
    draw = random.Random(seed)
    engine, room, models = make_case(kind, draw.choice([1, 3, 16]), draw)
    caplog.set_level(logging.CRITICAL)
    endings: Counter[str] = Counter()
    async with batching(engine, queue_tokens=2000) as batcher:

        async def caller() -> None:
            await asyncio.sleep(draw.random() * 0.1)
            rows = [[draw.randrange(1, 39) for _ in range(draw.randrange(1, 12))] for _ in range(draw.randrange(1, 8))]
            poisoned = draw.random() < 0.15
            if poisoned:
                draw.choice(rows)[0] = POISON
            hurried = draw.random() < 0.2
            seconds = draw.random() * 0.003 if hurried else 30
            weights, expected = draw.choice(models)
            task = ask(batcher, *rows, weights=weights, seconds=seconds, urgent=draw.random() < 0.3)
            leaves = draw.random() < 0.2
            if leaves:
                asyncio.get_running_loop().call_later(draw.random() * 0.003, task.cancel)
            try:
                answer = await task
            except Overloaded:
                endings["refused"] += 1
            except EngineFailed:
                assert poisoned
                endings["failed"] += 1
            except DeadlineExceeded:
                assert hurried
                endings["late"] += 1
            except asyncio.CancelledError:
                assert leaves
                endings["left"] += 1
            else:
                assert not poisoned
                np.testing.assert_allclose(answer.logits, [expected(row) for row in rows], atol=1e-5)
                endings["answered"] += 1

        async with asyncio.timeout(30):
            await asyncio.gather(*(caller() for _ in range(500)))
        await until_nothing_is_left(batcher, engine, room)
        assert batcher.running
    assert endings.total() == 500
    assert min(endings[kind] for kind in ("answered", "failed", "left")) > 0
