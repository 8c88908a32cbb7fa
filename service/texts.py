"""Texts on their way to token ids, each with an ending of its own."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, TypeVar

from service.errors import InvalidContent
from service.repository import Model
from service.schemas.shared import Truncate

A = TypeVar("A")
R = TypeVar("R")

LONG = 4_000
"""Bytes that are tokenised at once on the event loop: about a millisecond. More go to a thread."""

_THREAD = ThreadPoolExecutor(1, "tokenizer")
"""One for all: a token takes a hundred times the memory of its characters while it is made."""


class Encoded(NamedTuple):
    """A text as a model reads it: the kept token ids, and where the first of them stands among all."""

    token_ids: list[int]
    first: int
    tokens: int
    """Of the whole text."""
    unknown: int
    """Of the kept ones."""

    @property
    def dropped(self) -> int:
        return self.tokens - len(self.token_ids)


class TextError(NamedTuple):
    """Why a text cannot be classified."""

    code: Literal["empty", "too_long", "unknown_only"]
    detail: str


class Token(NamedTuple):
    """A token as it stands in its text; offsets are code points, the end exclusive."""

    token: str
    start: int
    end: int


async def encode(
    model: Model, texts: Sequence[str], limit: int, truncate: Truncate | None = None, *, most_bytes: int = 1 << 17
) -> list[Encoded | TextError]:
    """Each text as the model reads it, at most `limit` tokens of it: the head or the tail of a longer one, or none.

    A text of more than `most_bytes` in UTF-8 is not tokenised; others are, so many bytes at a time. Raises
    InvalidContent for a model without a tokenizer.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InvalidContent(f"model {model.name!r} has no tokenizer: send token ids to /models/{model.name}/predict")
    most = min(limit, model.config.max_length)
    results: list[Encoded | TextError] = []
    few, total = list[str](), 0

    async def tokenise() -> None:
        ids = await _off_loop(total, tokenizer.encode, few)
        results.extend(keep(tokens, most, truncate, model.unknown_id) for tokens in ids)

    for text in texts:
        size = len(text.encode())
        if total + size > most_bytes:
            await tokenise()
            few, total = [], 0
        if size > most_bytes:
            detail = f"the text has {size} bytes, at most {most_bytes} are read (LSTMSERVE_MAX_TEXT_BYTES): shorten it"
            results.append(TextError("too_long", detail))
        else:
            few.append(text)
            total += size
    await tokenise()
    return results


def keep(tokens: list[int], most: int, truncate: Truncate | None, unknown_id: int | None) -> Encoded | TextError:
    """As much of a text's tokens as is read: at most `most`."""
    if not tokens:
        return TextError("empty", "the text has no token")
    if len(tokens) > most and truncate is None:
        return TextError(
            "too_long",
            f"the text has {len(tokens)} tokens, at most {most} are read (LSTMSERVE_MAX_TOKENS, or the model's own "
            "limit): shorten it, or set truncate to have a part of it read",
        )
    first = max(0, len(tokens) - most) if truncate == "tail" else 0
    kept = tokens[first : first + most]
    unknown = kept.count(unknown_id) if unknown_id is not None else 0
    if unknown == len(kept):
        return TextError("unknown_only", "no token of the text is in the model's vocabulary")
    return Encoded(kept, first, len(tokens), unknown)


def all_readable(encoded: Iterable[Encoded | TextError], place: Callable[[int], str]) -> list[Encoded]:
    """For protocols that have no place for the error of one text: it is the error of all. Raises InvalidContent.

    `place`: how an error calls the text of that number.
    """
    readable = []
    for number, each in enumerate(encoded):
        if isinstance(each, TextError):
            raise InvalidContent(f"{place(number)}: {each.detail}")
        readable.append(each)
    return readable


async def locate(model: Model, text: str, encoded: Encoded) -> list[Token]:
    """The kept tokens as they stand in the text."""
    assert model.tokenizer is not None
    spans = await _off_loop(len(text.encode()), model.tokenizer.spans, text)
    return [Token(text[start:end], start, end) for start, end in spans[encoded.first :][: len(encoded.token_ids)]]


async def _off_loop(size: int, work: Callable[[A], R], argument: A) -> R:
    """What `work` makes of its argument of so many bytes, in a thread where it would hold up everybody else."""
    if size <= LONG:
        return work(argument)
    return await asyncio.get_running_loop().run_in_executor(_THREAD, work, argument)
