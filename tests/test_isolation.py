"""Faults at every stage of a request, on real engines and through HTTP: who has one hears of it, and nobody else."""

import asyncio
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from models.network import SequenceClassifier
from models.tokenizer import Tokenizer
from service.app import create_app
from service.engine import Engine
from service.engine import native as native_engine
from service.engine.packed import PackedEngine
from service.repository import Repository
from service.routes.call import Call
from service.schemas import shared
from service.sequence import Sequence as Served
from service.settings import Settings
from tests.fake_engine import running, until
from tests.faulty_core import faulty_core
from tests.tiny import TEXTS, write_tiny

pytestmark = pytest.mark.anyio

FAULTS = 1000
TOGETHER = 48
WORDS = 40
"""Token ids below have no fault."""

LONG = 4000
"""Tokens of a row that is still in its thread when one that came later makes the thread fail."""

POISONS = range(10_000, 16_000)
"""Each of these has at most one; other tests of the same core have theirs below."""

FAULTY_TEXT, FAULTY_BODY = "very EXPLODING film", b" \n"
"""A text on which the tokenizer fails; the end of a body on which validation does."""

ALONE = [("place", "no_memory"), ("step", "not_finite"), ("head", "not_finite")]
THREAD = [("place", "error"), ("step", "error"), ("step", "no_memory"), ("head", "error")]
"""Faults of the native engine that end a sequence, and those that end a thread with all that it holds."""

STATUSES = {"": 200, "invalid": 422, "validation": 500, "tokenizer": 500, "start": 500, "step": 500, "encoding": 500}
STATUSES |= {"thread": 503}
"""By the stage of the fault."""
QUIET = STATUSES.keys() - {"thread"}
"""Stages whose faults leave everybody else alone."""


class Injected(Exception):
    """A fault that a test has put in a request's way."""


class Network(SequenceClassifier):
    """Of the torch engine: it fails for token ids, alone or with the thread."""

    faults: dict[int, bool]

    def predict(self, sequences: Sequence[Sequence[int]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        for token in {token for sequence in sequences for token in sequence} & self.faults.keys():
            if self.faults[token]:
                del self.faults[token]
                raise SystemExit
            raise Injected
        return super().predict(sequences)


class Kind(NamedTuple):
    """An engine, how far its answers may be off, and how a token id gets a fault: alone, or with the whole thread."""

    engine: Engine
    error: float
    inject: Callable[[int, bool], None]


def native(monkeypatch: pytest.MonkeyPatch) -> Kind:
    core = faulty_core()
    monkeypatch.setattr(native_engine, "_core", core)
    engine = native_engine.NativeEngine(threads=2, lanes=8, precision="float32", table_mb=4)
    return Kind(
        engine,
        0.0,
        lambda token, thread: core.inject(*_with(token, random.Random(token).choice([ALONE, THREAD][thread]))),
    )


def _with(token: int, fault: tuple[str, str]) -> tuple[str, int, str]:
    return fault[0], token, fault[1]


def packed(monkeypatch: pytest.MonkeyPatch) -> Kind:
    Network.faults = {}
    monkeypatch.setattr("service.engine.packed.SequenceClassifier", Network)
    monkeypatch.setattr("service.engine.packed.PAUSE_SECONDS", 0.001)
    return Kind(PackedEngine("cpu", 2, 8, 256), 1e-5, Network.faults.__setitem__)


class Case(NamedTuple):
    """What one caller sends, the logits of its answer where it has no fault, and the status that it then gets."""

    path: str
    body: bytes
    headers: dict[str, str]
    right: list[list[float]] | None
    status: int
    token: int | None = None
    """The token id that has the fault of the step; the native engine's is met once."""


class Callers:
    """Draws what callers send, with the faults in their way."""

    def __init__(self, kind: Kind, golden: Iterable[int]) -> None:
        """`golden`: token ids of the golden cases, which are run after each failure of a thread."""
        self._kind, self._draw = kind, random.Random(0)
        self._unused = iter(sorted(set(POISONS).difference(golden)))
        self.unstartable: set[int] = set()
        """Token ids with which a sequence cannot be started."""
        lengths = [*(self._draw.randint(1, 30) for _ in range(15)), *[LONG] * 5]
        self.rows = [[self._draw.randrange(1, WORDS) for _ in range(length)] for length in lengths]
        self.right: dict[str, list[float]] = {}
        """The logits of each row and text."""

    async def learn(self, client: httpx.AsyncClient) -> None:
        for row in self.rows:
            self.right[str(row)] = (await _post(client, _predict([row]))).json()["logits"][0]
        for text in TEXTS:
            self.right[text] = (await _post(client, _classify([text]))).json()["results"][0]["logits"]

    def next(self, stages: Collection[str]) -> Case:
        draw = self._draw
        fault = draw.choice(["", "", "", *sorted(stages)])
        if fault == "tokenizer":
            return _classify([draw.choice(TEXTS), FAULTY_TEXT])
        if not fault and draw.random() < 0.4:
            texts = draw.choices(TEXTS, k=draw.randint(1, 4))
            return _classify(texts)._replace(right=[self.right[text] for text in texts], status=200)
        rows = draw.choices(self.rows, k=draw.randint(1, 4))
        right = None if fault else [self.right[str(row)] for row in rows]
        if fault in ("start", "step", "thread"):
            token = next(self._unused)
            rows = [[*rows[0][:-1], token], *rows[1:]]
            if fault == "start":
                self.unstartable.add(token)
            else:
                self._kind.inject(token, fault == "thread")
        case = _predict(rows)._replace(right=right, status=STATUSES[fault])
        if fault == "step":
            return case._replace(token=token)
        if fault == "invalid":
            return case._replace(body=case.body.replace(b"[[", b"[[-1, ", 1))
        if fault == "validation":
            return case._replace(body=case.body + FAULTY_BODY)
        return case._replace(headers={"X-Fault": fault}) if fault == "encoding" else case

    def renew(self, case: Case) -> None:
        """Its fault may have been met before a thread failed with it: it has one again."""
        if case.token is not None:
            self._kind.inject(case.token, False)


def _predict(rows: list[list[int]]) -> Case:
    longest = max(map(len, rows))
    body = {"token_ids": [[*row, *[0] * (longest - len(row))] for row in rows], "lengths": list(map(len, rows))}
    return Case("/predict", json.dumps(body).encode(), {}, None, 500)


def _classify(texts: list[str]) -> Case:
    return Case("/classify", json.dumps({"texts": texts}).encode(), {}, None, 500)


async def _post(client: httpx.AsyncClient, case: Case) -> httpx.Response:
    headers = {"Content-Type": "application/json", **case.headers}
    return await client.post(case.path, content=case.body, headers=headers)


def _logits(reply: httpx.Response) -> list[list[float]]:
    found = reply.json()
    logits: list[list[float]] = found["logits"] if "logits" in found else [each["logits"] for each in found["results"]]
    return logits


def break_stages(kind: Kind, callers: Callers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes all stages before and after the engine's own fail for those who ask for it."""
    start, parse, reply, encode = kind.engine.start, shared.parse, Call.reply, Tokenizer.encode

    def faulty_start(sequence: Served) -> None:
        if callers.unstartable.intersection(sequence.token_ids):
            raise MemoryError
        start(sequence)

    def faulty_parse(schema: Any, body: bytes, context: Any) -> Any:
        if body.endswith(FAULTY_BODY):
            raise Injected
        return parse(schema, body, context)

    def faulty_encode(self: Tokenizer, texts: list[str]) -> list[list[int]]:
        if FAULTY_TEXT in texts:
            raise Injected
        return encode(self, texts)

    def faulty_reply(self: Call, document: object) -> Any:
        if self._request.headers.get("X-Fault") == "encoding":
            raise Injected
        return reply(self, document)

    monkeypatch.setattr(kind.engine, "start", faulty_start)
    monkeypatch.setattr("service.routes.predict.parse", faulty_parse)
    monkeypatch.setattr(Tokenizer, "encode", faulty_encode)
    monkeypatch.setattr(Call, "reply", faulty_reply)


async def faults(
    client: httpx.AsyncClient, callers: Callers, stages: Collection[str], count: int, error: float
) -> tuple[Counter[int], int]:
    """Sends until so many faults were met: how requests ended, and how many had to be sent again.

    Whoever a failed thread held is told to come again, and then gets what is his: the answer, or his own fault's
    status.
    """
    endings: Counter[int] = Counter()
    again = 0

    async def caller() -> None:
        nonlocal again
        while endings.total() - endings[200] < count:
            case = callers.next(stages)
            while (reply := await _post(client, case)).status_code == 503 != case.status:
                assert reply.headers["retry-after"] == "1"
                again += 1
                callers.renew(case)
            endings[reply.status_code] += 1
            assert reply.status_code == case.status, (case, reply.text)
            if case.right is not None:
                np.testing.assert_allclose(_logits(reply), case.right, rtol=0, atol=error)

    await asyncio.gather(*(caller() for _ in range(TOGETHER)))
    return endings, again


@pytest.mark.parametrize("make", [native, packed], ids=["native", "packed"])
async def test_a_thousand_faults_at_all_stages(
    make: Callable[[pytest.MonkeyPatch], Kind],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    root_logger: logging.Logger,
) -> None:
    root_logger.setLevel(logging.CRITICAL + 1)
    artifact = write_tiny(tmp_path / "tiny" / "1", vocab_size=POISONS.stop, max_length=LONG)
    kind = make(monkeypatch)
    callers = Callers(kind, {token for case in artifact.golden for token in case.token_ids})
    break_stages(kind, callers, monkeypatch)
    app = create_app(Settings(store=tmp_path, model="tiny"), Repository("tiny"), kind.engine)
    async with running(app) as client:
        await callers.learn(client)
        endings, again = await faults(client, callers, STATUSES, FAULTS, kind.error)
        assert min(endings[status] for status in (200, 422, 500, 503)) > 50, endings
        assert again > 0
        failures = kind.engine.failures
        assert failures > 50

        async def ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await until(ready, 60)
        endings, again = await faults(client, callers, QUIET, FAULTS // 5, kind.error)
        assert endings.keys() == {200, 422, 500}
        assert again == 0
        assert kind.engine.failures == failures
        assert app.state.batcher._requests == {}
        assert (app.state.batcher._scheduler.requests, app.state.batcher._scheduler.tokens) == (0, 0)
        for row in callers.rows:
            reply = await _post(client, _predict([row]))
            np.testing.assert_allclose(_logits(reply), [callers.right[str(row)]], rtol=0, atol=kind.error)
