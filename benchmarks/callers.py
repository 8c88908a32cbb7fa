"""All who ask at once in a soak: each knows what it must get, and notes what is not so."""

import asyncio
import contextlib
import json
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import numpy as np

from benchmarks.agreement import LIMITS
from benchmarks.server import Server
from models.artifact import Artifact
from models.golden import SENTENCES
from models.network import SequenceClassifier
from service import keys
from service.keys import Key
from service.settings import Settings

NAME = "imdb"
STEADY, READERS, LEAVING, SLOW = 8, 2, 2, 20
"""Callers of each kind; `SLOW` are connections whose heads never end."""
BURST, BURST_ROWS = 96, 64
"""Requests that come at once, and the most sequences of each: more than the queue takes."""
RELOAD_SECONDS, BURST_SECONDS, KEY_SECONDS = 2.0, 15.0, 5.0
FULL_SECONDS = 3.0
"""After a burst's last answer a request may still be refused."""
CUT_SECONDS = Settings().header_seconds + 5
"""A head that has not ended by then must have been cut off."""

BAD: list[tuple[str, bytes, dict[str, str], int]] = [
    ("/predict", b"{", {}, 400),
    ("/predict", b'{"token_ids": [[NaN]]}', {}, 422),
    ("/predict", b'{"token_ids": [[-1]]}', {}, 422),
    ("/predict", b'{"token_ids": [[1, 2], [3]]}', {}, 422),
    ("/predict", b'{"token_ids": [[1]], "extra": 1}', {}, 422),
    ("/predict", b'{"token_ids": [[1]]}', {"X-Request-Timeout-Ms": "soon"}, 422),
    ("/predict", b'{"token_ids": [[1]]}', {"Content-Type": "text/plain"}, 415),
    ("/predict", b'{"token_ids": [[1]]}', {"Content-Encoding": "gzip"}, 400),
    ("/predict", b" " * (5 << 20), {}, 413),
    ("/classify", b'{"texts": "one"}', {}, 422),
    ("/models/none/predict", b'{"token_ids": [[1]]}', {}, 404),
    ("/v2/models/imdb/infer", b'{"inputs": []}', {}, 400),
    ("/nowhere", b"", {}, 404),
]
MALFORMED = [
    b"GARBAGE\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\nx: " + b"y" * 20_000,
]


class Case(NamedTuple):
    """Inputs of one request, by their numbers, and how it is asked."""

    path: str
    document: dict[str, Any]
    inputs: list[int]


class Answers:
    """What every input must give: torch's logits nearly, and the first answer of a version exactly."""

    def __init__(self, artifacts: Mapping[int, Artifact], sequences: list[list[int]], precision: str) -> None:
        self._reference = {
            version: np.vstack(
                [SequenceClassifier.from_weights(one.config, one.weights).predict([each]) for each in sequences]
            )
            for version, one in artifacts.items()
        }
        self._limit = LIMITS[precision][0]
        self._first: dict[tuple[int, int], list[float]] = {}

    def wrong(self, version: int, inputs: Sequence[int], logits: Sequence[list[float]]) -> str:
        """What is wrong with an answer; empty where it is right."""
        if len(logits) != len(inputs):
            return f"{len(logits)} answers to {len(inputs)} inputs"
        for number, row in zip(inputs, logits, strict=True):
            if self._first.setdefault((version, number), row) != row:
                return f"input {number} got other bits from version {version} than before"
            expected = self._reference[version][number]
            if (np.abs(np.array(row) - expected) > self._limit * np.maximum(1, np.abs(expected))).any():
                return f"input {number} is off by {np.abs(np.array(row) - expected).max():.1e} from torch"
        return ""


class Callers:
    """All callers of one run."""

    def __init__(
        self,
        server: Server,
        keys: "KeysFile",
        operators: "KeysFile",
        answers: Answers,
        sequences: list[list[int]],
        minutes: float,
    ) -> None:
        self._server, self._keys, self._operators = server, keys, operators
        self._answers, self._sequences = answers, sequences
        self._end = time.monotonic() + 60 * minutes
        self._draw = random.Random(0)
        self._full_until = 0.0
        """Until then the queue may be full: it is infinite while a burst runs."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """By the kind of caller, and the status or ending."""
        self.problems: list[str] = []
        self.latencies: list[float] = []
        """Of the steady callers, in seconds."""
        self.samples: list[tuple[float, float, int]] = []
        """Time in minutes, resident MB, descriptors."""

    async def run(self) -> None:
        url = self._server.url
        unlimited = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=unlimited) as self._client:
            await self._each_once()
            actors = (
                [self._steady] * STEADY + [self._reader] * READERS + [self._leaving] * LEAVING + [self._slow] * SLOW
            )
            actors += [self._tensors, self._hurried, self._bad, self._malformed, self._stranger]
            actors += [self._probe, self._burst, self._reload, self._rotate, self._sample]
            await asyncio.gather(*map(self._until_the_end, actors))

    async def _until_the_end(self, actor: Callable[[], Awaitable[None]]) -> None:
        while time.monotonic() < self._end:
            try:
                await actor()
            except Exception as error:  # a caller without its ending is a finding, not the end of the run
                self.problems.append(f"{actor.__name__.strip('_')}: {type(error).__name__}: {error}")

    async def _each_once(self) -> None:
        """So that reference and first answers are there before anything is in the way."""
        for number in range(len(self._sequences)):
            await self._ask("alone", self._rows([number]), {200})

    async def _steady(self) -> None:
        began = time.monotonic()
        status = await self._ask("steady", self._rows(self._some(8)), {200})
        if status == 200:
            self.latencies.append(time.monotonic() - began)
        else:
            await asyncio.sleep(1)

    async def _reader(self) -> None:
        numbers = self._draw.sample(range(len(SENTENCES)), 3)
        document = {"texts": [SENTENCES[number] for number in numbers]}
        await self._ask("reader", Case("/classify", document, numbers), {200})
        await asyncio.sleep(0.05)

    async def _tensors(self) -> None:
        [number] = self._some(1)
        row = self._sequences[number]
        tensor = {"name": "token_ids", "datatype": "INT64", "shape": [1, len(row)], "data": row}
        document = {"inputs": [tensor], "outputs": [{"name": "logits"}]}
        await self._ask("tensors", Case(f"/v2/models/{NAME}/infer", document, [number]), {200})
        await asyncio.sleep(0.05)

    async def _hurried(self) -> None:
        headers = {"X-Request-Timeout-Ms": str(self._draw.randint(1, 20))}
        await self._ask("hurried", self._rows(self._some(32)), {200, 408, 504}, headers)
        await asyncio.sleep(0.05)

    async def _bad(self) -> None:
        path, body, headers, status = self._draw.choice(BAD)
        asked = time.monotonic()
        reply = await self._client.post(
            path, content=body, headers={"Content-Type": "application/json", **self._keys.headers, **headers}
        )
        self._note("bad", reply, {status}, asked)
        await asyncio.sleep(0.05)

    async def _stranger(self) -> None:
        asked = time.monotonic()
        reply = await self._client.post(
            "/predict", json={"token_ids": [[1]]}, headers={"Authorization": "Bearer lsk_no"}
        )
        self._note("stranger", reply, {401}, asked)
        await asyncio.sleep(0.1)

    async def _probe(self) -> None:
        for path in ("/livez", "/readyz", "/metrics"):
            headers = self._keys.headers if path == "/metrics" else {}
            self._note("probe", await self._client.get(path, headers=headers), {200})
        await asyncio.sleep(0.5)

    async def _leaving(self) -> None:
        """Sends a request and is gone before its answer, mostly."""
        async with self._connection() as (_, writer):
            writer.write(self._raw(self._rows(self._some(BURST_ROWS))))
            await asyncio.sleep(self._draw.random() / 50)
        self.counts["leaving", "left"] += 1
        await asyncio.sleep(0.05)

    async def _malformed(self) -> None:
        async with self._connection() as (reader, writer):
            writer.write(self._draw.choice(MALFORMED))
            reply = await reader.read()
        self.counts["malformed", reply[9:12].decode() or "closed"] += 1
        if reply[9:12] not in (b"400", b"431", b""):
            self.problems.append(f"malformed: {reply[:80]!r}")
        await asyncio.sleep(0.1)

    async def _slow(self) -> None:
        """A head that never ends, until it is cut off."""
        async with self._connection() as (reader, writer):
            reading = asyncio.ensure_future(reader.read())
            writer.write(b"POST /predict HTTP/1.1\r\nHost: slow\r\n")
            late = time.monotonic() + CUT_SECONDS
            while not reading.done() and time.monotonic() < min(self._end, late):
                writer.write(b"x: y\r\n")
                await asyncio.wait([reading], timeout=1)
            self.counts["slow", "cut off" if reading.done() else "still there"] += 1
            if not reading.done() and time.monotonic() >= late:
                self.problems.append(f"slow: a head is still there after {CUT_SECONDS:g} s")
            reading.cancel()

    async def _burst(self) -> None:
        """Far more than the queue takes, all at once."""
        await asyncio.sleep(BURST_SECONDS)
        self._full_until = math.inf
        try:
            await asyncio.gather(*(self._ask("burst", self._rows(self._some(BURST_ROWS)), {200}) for _ in range(BURST)))
        finally:
            self._full_until = time.monotonic() + FULL_SECONDS

    async def _reload(self) -> None:
        for version in (2, 1):
            path = f"/v2/repository/models/{NAME}/load"
            reply = await self._client.post(
                path, json={"parameters": {"version": version}}, headers=self._operators.headers
            )
            self._note("reload", reply, {200})
            await asyncio.sleep(RELOAD_SECONDS)

    async def _rotate(self) -> None:
        """A second key, then the first one goes."""
        await asyncio.sleep(KEY_SECONDS)
        old = self._keys.headers
        self._keys.add()
        await asyncio.sleep(2 * keys.LOOK_SECONDS)
        self._keys.change()
        await asyncio.sleep(1)
        self._keys.remove_others()
        await asyncio.sleep(2 * keys.LOOK_SECONDS)
        self._note("old key", await self._client.get("/models", headers=old), {401})

    async def _sample(self) -> None:
        self.samples.append((time.monotonic() / 60, self._server.resident(), self._server.descriptors()))
        await asyncio.sleep(1)

    def _some(self, most: int) -> list[int]:
        return self._draw.choices(range(len(self._sequences)), k=self._draw.randint(1, most))

    def _rows(self, numbers: list[int]) -> Case:
        lengths = [len(self._sequences[number]) for number in numbers]
        rows = [self._sequences[number] + [0] * (max(lengths) - len(self._sequences[number])) for number in numbers]
        return Case("/predict", {"token_ids": rows, "lengths": lengths}, numbers)

    async def _ask(self, kind: str, case: Case, allowed: set[int], headers: Mapping[str, str] | None = None) -> int:
        asked = time.monotonic()
        reply = await self._client.post(
            case.path, json=case.document, headers={**self._keys.headers, **(headers or {})}
        )
        self._note(kind, reply, allowed, asked)
        if reply.status_code == 200 and (wrong := self._answers.wrong(*_answer(reply, case))):
            self.problems.append(f"{kind}: {wrong}")
        return reply.status_code

    def _note(self, kind: str, reply: httpx.Response, allowed: set[int], asked: float = math.inf) -> None:
        """`asked`: when it was; a refusal of what was asked while the queue may have been full is as it should be."""
        self.counts[kind, str(reply.status_code)] += 1
        if reply.status_code not in allowed and not (reply.status_code == 429 and asked < self._full_until):
            self.problems.append(f"{kind}: {reply.status_code} {reply.text[:120]}")

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A bare one; who breaks it off does not matter."""
        host, port = urlsplit(self._server.url).netloc.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(ConnectionError):
            yield reader, writer
        writer.close()

    def _raw(self, case: Case) -> bytes:
        body = json.dumps(case.document).encode()
        head = f"POST {case.path} HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\n"
        lines = "".join(f"{name}: {value}\r\n" for name, value in self._keys.headers.items())
        return f"{head}{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _answer(reply: httpx.Response, case: Case) -> tuple[int, list[int], list[list[float]]]:
    """Version, inputs and logits of an answer in any dialect."""
    found = reply.json()
    if "results" in found:
        logits = [each["logits"] for each in found["results"]]
    elif "outputs" in found:
        values = found["outputs"][0]["data"]
        logits = [values[start : start + 2] for start in range(0, len(values), 2)]
    else:
        logits = found["logits"]
    return int(reply.headers["X-Model-Version"]), case.inputs, logits


class KeysFile:
    """A file of API keys that changes while the service reads it, and the headers with the key in use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: list[str] = []
        self.add()
        self.change()

    def add(self) -> None:
        self._keys.append(keys.make())
        self._write()

    def change(self) -> None:
        """To the newest."""
        self.headers = {"Authorization": f"Bearer {self._keys[-1]}"}

    def remove_others(self) -> None:
        del self._keys[:-1]
        self._write()

    def _write(self) -> None:
        lines = [
            keys.line(Key(f"soak-{number}", urgent=False), keys.digest(key.encode()))
            for number, key in enumerate(self._keys)
        ]
        partial = self._path.with_suffix(".partial")
        partial.write_text("\n".join(lines) + "\n")
        partial.replace(self._path)
