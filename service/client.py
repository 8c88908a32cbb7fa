"""Client of lstm-serve, sync and async, in one file that needs httpx alone: copy it where you want it.

    with Client("http://127.0.0.1:8000") as client:
        print(client.predict([[6, 753, 4], [763, 4, 5, 247]]).logits)

Sent again, up to `retries` times, where the wait would end before the deadline:

- what found no connection: every call, since nothing was sent.
- what got 429 or 503, or lost its connection before the reply's head was in: all but load and unload, which may have
  begun. What the others ask for changes nothing.

All else is final: 408 and 504, since the deadline has passed; 500 and 502, since the request itself may be what breaks
the service; other statuses; a reply that broke off or cannot be read. `Retry-After` is waited in full, with a random
part of a doubling back-off on top, so that those refused together do not return together.
"""

import asyncio
import contextlib
import functools
import json
import operator
import random
import re
import time
import uuid
from collections import UserDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import NoneType, UnionType
from typing import Any, Generic, Literal, NamedTuple, Self, TypeVar, cast, get_args, get_origin, get_type_hints
from urllib.parse import quote

import httpx

T = TypeVar("T")
Transport = TypeVar("Transport", httpx.BaseTransport, httpx.AsyncBaseTransport)
Sequences = Sequence[Sequence[int]]
Truncate = Literal["head", "tail"] | None
_Call = Coroutine[Any, Any, T]

BACKOFF_SECONDS, BACKOFF_MOST = 0.1, 5.0
"""The longest random wait before the first repetition, which doubles with each, and its bound."""

LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20)
UNREADABLE = (ValueError, TypeError, KeyError, OverflowError, RecursionError)
"""What reading a document that is not as expected raises."""


@dataclass(frozen=True)
class Prediction:
    """logits[i][j]: sequence i, labels[j], before temperature; one a sequence where the model's output is binary."""

    model: str
    version: int
    labels: list[str]
    logits: list[list[float]]


@dataclass(frozen=True)
class Contribution:
    """A kept token, text[start:end]; by how much the label's logit is lower without it; whether it is not known."""

    token: str
    start: int
    end: int
    contribution: float
    unknown: bool = False


@dataclass(frozen=True)
class Label:
    """A text's label, of the highest score; contributions is None where not asked for, or for the reason given."""

    label: str
    scores: dict[str, float]
    logits: list[float]
    tokens: int
    unknown_tokens: int
    kept_tokens: int
    dropped_tokens: int
    contributions: list[Contribution] | None = None
    not_explained: str | None = None


@dataclass(frozen=True)
class TextError:
    """Why a text has no label; code is empty, too_long or unknown_only."""

    code: str
    detail: str


@dataclass(frozen=True)
class Classification:
    """One result a text, in their order."""

    model: str
    version: int
    results: list[Label | TextError]


@dataclass(frozen=True)
class Model:
    """A model and the version that serves; versions: those on disk; max_tokens: the most of one sequence."""

    name: str
    version: int
    versions: list[int]
    default: bool
    labels: list[str]
    precision: str
    output: str
    max_tokens: int
    pad_id: int
    vocab_size: int
    tokenizer: bool
    card: str | None = None


@dataclass(frozen=True)
class Flip:
    """A golden text that has another label now."""

    text: str
    before: str
    after: str


@dataclass(frozen=True)
class Golden:
    """Of how many golden texts the two versions' labels were compared, and those that differ."""

    texts: int
    flips: list[Flip]


@dataclass(frozen=True)
class Served:
    """The same of the sequences answered last, in numbers."""

    sequences: int
    flips: int


@dataclass(frozen=True)
class Comparison:
    golden: Golden
    served: Served


@dataclass(frozen=True)
class Load:
    """What serves after a load; replaced, comparison: what served until then, None where nothing or the same did."""

    model: str
    version: int
    precision: str
    pinned: bool
    seconds: float
    replaced: int | None = None
    comparison: Comparison | None = None


@dataclass(frozen=True)
class FieldError:
    """One thing wrong in a request: a JSON pointer into its body, or the name of a header."""

    pointer: str
    detail: str


@dataclass(eq=False)  # an exception is hashed
class Error(Exception):
    """A call without an answer. status: the reply's; None where there was no whole one: not reached, lost, out of time.

    request_id: the service's log has the request under it. retry_after: seconds that the service asks for.
    """

    detail: str
    status: int | None = None
    errors: tuple[FieldError, ...] = ()
    request_id: str | None = None
    retry_after: float | None = None

    def __post_init__(self) -> None:
        super().__init__(self.detail)  # pickle calls with what stands here

    def __str__(self) -> str:
        return f"{self.status or 'no reply'}: {self.detail} (request {self.request_id})"


def pad(sequences: Sequences, pad_id: int = 0) -> tuple[list[list[int]], list[int]]:
    """token_ids and lengths: the sequences as rows of one width, right-padded. Raises TypeError for other than ints."""
    rows, padding = list(map(_ints, sequences)), _ints([pad_id])
    width = max(map(len, rows), default=0)
    return [row + padding * (width - len(row)) for row in rows], [len(row) for row in rows]


def _ints(values: Sequence[int]) -> list[int]:
    if bool in map(type, values):
        raise TypeError("token ids and lengths are ints, not bools")
    return list(map(operator.index, values))  # numpy's integers too


class _Outcome(NamedTuple):
    """What came of an attempt: a reply, or an error; a status and an error where the reply broke off."""

    status: int | None = None
    headers: httpx.Headers = httpx.Headers()
    body: bytes = b""
    error: Exception | None = None


class _Left(UserDict[str, float]):
    """httpx's timeouts, kept as deadlines: each phase has what is left when it begins."""

    def __getitem__(self, phase: str) -> float:
        return max(super().__getitem__(phase) - time.monotonic(), 0.001)


class _Calls(Generic[Transport]):
    """What is asked, and whether again; the two clients send and wait.

    base_url: http or https, with or without a path. model: of the named routes, else the service's default. timeout:
    seconds for a whole call, repetitions included; the service is told, and refuses more than its LSTMSERVE_TIMEOUT_MS.
    limits: of the pool of connections, where no httpx transport is given. Raises ValueError.
    """

    _open: Callable[..., Any]
    _sleep: Any
    _send: Any

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float = 30.0,
        retries: int = 2,
        transport: Transport | None = None,
        limits: httpx.Limits = LIMITS,
    ) -> None:
        if not (isinstance(timeout, int | float) and 0 < timeout < float("inf")):
            raise ValueError(f"timeout must be a number of seconds above 0, not {timeout!r}")
        if not (isinstance(retries, int) and retries >= 0):
            raise ValueError(f"retries must be 0 or more, not {retries!r}")
        if not _is_address(base_url):
            raise ValueError("base_url must be as http://127.0.0.1:8000 or https://host/path, without a query")
        if api_key is not None and not re.fullmatch("[!-~]+", api_key):  # a later error would show it
            raise ValueError("api_key must be ASCII without blanks: strip the line end of one read from a file")
        self._timeout, self._retries, self._prefix = timeout, retries, "" if model is None else _path(model)
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._http = self._open(base_url=base_url, headers=headers, transport=transport, limits=limits)

    def _predict(self, token_ids: Sequences, lengths: Sequence[int] | None, pad_id: int) -> _Call[Prediction]:
        document: dict[str, object] = {"token_ids": pad(token_ids, pad_id)[0]}
        if lengths is not None:
            document["lengths"] = _ints(lengths)
        return self._ask(f"{self._prefix}/predict", Prediction, document)

    def _classify(self, texts: Sequence[str], truncate: Truncate, explain: bool) -> _Call[Classification]:
        if isinstance(texts, str):
            raise TypeError("texts is a list of str, also for one text")
        document = {"texts": list(texts), "truncate": truncate, "explain": explain}
        return self._ask(f"{self._prefix}/classify", Classification, document)

    async def _ready(self) -> bool:
        try:
            await self._ask("/readyz", NoneType, retries=0)
        except Error as error:
            if error.status not in (None, 503):
                raise
            return False
        return True

    def _change(self, action: str, name: str, kind: type[T], version: int | None = None) -> _Call[T]:
        document = {"parameters": {} if version is None else {"version": version}}
        return self._ask(f"/v2/repository{_path(name)}/{action}", kind, document, admin=True)

    async def _ask(
        self, path: str, kind: type[T], document: object = None, *, retries: int | None = None, admin: bool = False
    ) -> T:
        """Asks until there is an answer of that kind (NoneType: any body will do), or no reason to ask again."""
        retries, deadline = self._retries if retries is None else retries, time.monotonic() + self._timeout
        headers = {"X-Request-ID": uuid.uuid4().hex}  # one for all attempts
        left = _Left(dict.fromkeys(("connect", "read", "write", "pool"), deadline))
        request: dict[str, Any] = {"method": "GET", "url": path, "headers": headers, "extensions": {"timeout": left}}
        if document is not None:
            headers["Content-Type"] = "application/json"
            request |= {"method": "POST", "content": json.dumps(document).encode()}
        wait, backoff = 0.0, BACKOFF_SECONDS
        while True:
            await self._sleep(wait)
            if not admin:  # a load may take longer than the service gives a request
                headers["X-Request-Timeout-Ms"] = str(max(1, int(1000 * (deadline - time.monotonic()))))
            outcome = await self._send(request, deadline)
            try:
                return _read(outcome, kind, headers["X-Request-ID"])
            except Error as error:
                wait = (error.retry_after or 0) + _random.uniform(0, backoff)
                again = retries > 0 and _may_repeat(outcome, admin)
                if not again or time.monotonic() + wait >= deadline:
                    raise
            retries, backoff = retries - 1, min(2 * backoff, BACKOFF_MOST)


class Client(_Calls[httpx.BaseTransport]):
    __doc__ = _Calls.__doc__
    _open = httpx.Client

    def predict(self, token_ids: Sequences, lengths: Sequence[int] | None = None, pad_id: int = 0) -> Prediction:
        """Logits of ragged sequences, which are padded; with lengths, pad ids within those count as tokens."""
        return _now(self._predict(token_ids, lengths, pad_id))

    def classify(self, texts: Sequence[str], truncate: Truncate = None, explain: bool = False) -> Classification:
        """Labels of texts; truncate keeps the head or tail of those too long, explain asks for contributions."""
        return _now(self._classify(texts, truncate, explain))

    def models(self) -> list[Model]:
        return _now(self._ask("/models", list[Model]))

    def model(self, name: str) -> Model:
        return _now(self._ask(_path(name), Model))

    def ready(self) -> bool:
        """Whether requests should be sent here; False too where it cannot be reached. Asked once."""
        return _now(self._ready())

    def load(self, name: str, version: int | None = None) -> Load:
        """Serves the highest version in the store, or this one from now on; needs the admin key, as unload does."""
        return _now(self._change("load", name, Load, version))

    def unload(self, name: str) -> None:
        _now(self._change("unload", name, NoneType))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251

    async def _send(self, request: dict[str, Any], deadline: float) -> _Outcome:
        begun = None
        try:
            with self._http.stream(**request) as reply:
                begun, chunks = reply.status_code, []
                for chunk in reply.iter_bytes():
                    chunks.append(chunk)
                    if time.monotonic() > deadline:
                        raise httpx.ReadTimeout("the reply came too slowly")
                return _Outcome(reply.status_code, reply.headers, b"".join(chunks))
        except httpx.RequestError as error:
            return _Outcome(begun, error=error)


class AsyncClient(_Calls[httpx.AsyncBaseTransport]):
    """The same for asyncio: see Client."""

    _open, _sleep = httpx.AsyncClient, staticmethod(asyncio.sleep)

    async def predict(self, token_ids: Sequences, lengths: Sequence[int] | None = None, pad_id: int = 0) -> Prediction:
        return await self._predict(token_ids, lengths, pad_id)

    async def classify(self, texts: Sequence[str], truncate: Truncate = None, explain: bool = False) -> Classification:
        return await self._classify(texts, truncate, explain)

    async def models(self) -> list[Model]:
        return await self._ask("/models", list[Model])

    async def model(self, name: str) -> Model:
        return await self._ask(_path(name), Model)

    async def ready(self) -> bool:
        return await self._ready()

    async def load(self, name: str, version: int | None = None) -> Load:
        return await self._change("load", name, Load, version)

    async def unload(self, name: str) -> None:
        await self._change("unload", name, NoneType)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _send(self, request: dict[str, Any], deadline: float) -> _Outcome:
        begun = None
        try:
            async with asyncio.timeout(deadline - time.monotonic()), self._http.stream(**request) as reply:
                begun = reply.status_code
                return _Outcome(reply.status_code, reply.headers, await reply.aread())
        except (httpx.RequestError, TimeoutError) as error:
            return _Outcome(begun, error=error)


def _now(call: _Call[T]) -> T:
    """The result of a call that blocks where an asynchronous one would suspend."""
    try:
        call.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    raise RuntimeError("a call of the blocking client suspended")


def _is_address(base_url: str) -> bool:
    with contextlib.suppress(httpx.InvalidURL):
        url = httpx.URL(base_url)
        return (
            bool(url.host) and url.scheme in ("http", "https") and (url.port or 0) < 2**16 and b"?" not in url.raw_path
        )
    return False


def _path(model: str) -> str:
    if model in ("", ".", ".."):  # which httpx would take for steps in the path
        raise ValueError(f"model must be a name, not {model!r}")
    return f"/models/{quote(model, safe='')}"


def _may_repeat(outcome: _Outcome, admin: bool) -> bool:
    """As the head of this file says."""
    error = outcome.error
    if admin or isinstance(error, httpx.ConnectError):
        return isinstance(error, httpx.ConnectError)
    if outcome.status is not None:
        return error is None and outcome.status in (429, 503)
    disconnected = isinstance(error, httpx.RemoteProtocolError) and str(error).startswith("Server disconnected")
    return disconnected or isinstance(error, httpx.ReadError | httpx.WriteError)


def _read(outcome: _Outcome, kind: type[T], sent_id: str) -> T:
    """The answer. Raises Error for every other outcome, whatever httpx or the reply makes of it."""
    status, headers, body, cause = outcome
    request_id = headers.get("x-request-id", sent_id)
    if cause is not None:
        late = isinstance(cause, httpx.TimeoutException | TimeoutError)
        detail = "no reply within the client's timeout" if late else f"{type(cause).__name__}: {cause}"
        raise Error(detail, None, (), request_id) from cause
    if status is not None and 200 <= status < 300:
        try:
            return cast("T", None if kind is NoneType else _decode(kind, json.loads(body)))
        except UNREADABLE as reason:
            detail = f"the reply cannot be read: {type(reason).__name__}: {reason}"
            raise Error(detail, status, (), request_id) from reason
    detail, errors = f"no explanation but {body[:200]!r}" if body else "an empty reply", ()
    with contextlib.suppress(*UNREADABLE):
        problem = json.loads(body)
        detail = _decode(str, problem["detail" if "detail" in problem else "error"])  # under /v2 "error"
        errors = tuple(_decode(list[FieldError], problem.get("errors", [])))
    if status in range(300, 400) and "location" in headers:
        detail = f"redirected to {headers['location']!r:.200}: use that as base_url, without the route's path"
    raise Error(detail, status, errors, request_id, _retry_after(headers))


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds; a date counts from the reply's own, as the two clocks need not agree."""
    text = headers.get("retry-after", "")
    if re.fullmatch("[0-9]{1,9}", text):
        return float(text)
    with contextlib.suppress(*UNREADABLE):
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    return None


_hints: Callable[[Any], dict[str, Any]] = functools.cache(get_type_hints)
_random = random.SystemRandom()


def _decode(kind: Any, value: Any) -> Any:
    """A JSON value as this type, list, dict, union or dataclass, whose further members are left out."""
    if type(value) is kind or (kind is float and type(value) is int):
        return kind(value) if kind is float else value
    if is_dataclass(kind):
        members = value["error"] if kind is TextError else value
        found = {name: _decode(hint, members[name]) for name, hint in _hints(kind).items() if name in members}
        return cast("Any", kind)(**found)
    origin, kinds = get_origin(kind), get_args(kind)
    if origin is UnionType:
        for one in kinds:
            with contextlib.suppress(*UNREADABLE):
                return _decode(one, value)
    elif origin is list and isinstance(value, list):
        return [_decode(kinds[0], item) for item in value]
    elif origin is dict and isinstance(value, dict):
        return {key: _decode(kinds[1], item) for key, item in value.items()}
    raise ValueError(f"{value!r:.60} where {kind} belongs")
