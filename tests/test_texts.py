"""Texts on their way to token ids: which tokens are kept, what is told of the rest, where each stands in its text."""

import asyncio
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import models, pre_tokenizers

from models.tokenizer import UNK_ID, Tokenizer
from service.errors import InvalidContent
from service.repository import Model
from service.schemas.shared import Truncate
from service.texts import LONG, Encoded, TextError, Token, encode, locate
from tests.tiny import TEXTS, tiny_config

pytestmark = pytest.mark.anyio

TOKENIZER = Tokenizer.train(TEXTS, 40, min_count=1)
PLENTY = settings(max_examples=150, deadline=None)
SOME_TEXTS = st.text(max_size=30) | st.lists(
    st.sampled_from(["good", "film", "unheard", ",", "<br />", "not", "bad", "\U0001f600", "\ufb01lm", " "]),
    max_size=20,
).map(" ".join)


def model(tokenizer: Tokenizer | None = TOKENIZER, max_length: int = 6, **fields: Any) -> Model:
    unknown_id = tokenizer.unknown_id if tokenizer else None
    config = tiny_config(max_length=max_length, **fields)
    return Model("tiny", 1, config, "weights", "float32", tokenizer, unknown_id=unknown_id)


def encoded(items: list[str], limit: int = 99, truncate: Truncate | None = None, **fields: Any) -> list[Any]:
    return asyncio.run(encode(model(**fields), items, limit, truncate))


@PLENTY
@given(st.lists(SOME_TEXTS, max_size=5), st.integers(1, 9), st.integers(1, 9), st.sampled_from([None, "head", "tail"]))
def test_each_text_has_its_own_ending(items: list[str], limit: int, longest: int, truncate: Truncate | None) -> None:
    most = min(limit, longest)
    found = encoded(items, limit, truncate, max_length=longest)
    assert found == [encoded([item], limit, truncate, max_length=longest)[0] for item in items]
    for item, each in zip(items, found, strict=True):
        (ids,) = TOKENIZER.encode([item])
        kept = ids[-most:] if truncate == "tail" else ids[:most]
        if not ids:
            assert each.code == "empty"
        elif len(ids) > most and truncate is None:
            assert each.code == "too_long"
            assert f"{len(ids)} tokens, at most {most} " in each.detail
        elif set(kept) == {UNK_ID}:
            assert each.code == "unknown_only"
        else:
            assert each.token_ids == kept
            assert ids[each.first : each.first + len(kept)] == kept
            assert len(kept) + each.dropped == each.tokens == len(ids)
            assert each.unknown == kept.count(UNK_ID)


def test_the_texts_that_have_no_label() -> None:
    empty, blank, unknown, cut, good = encoded(["", " <br />\n", "zyx wvu", "zyx good", "good"], 1, "head")
    assert empty == blank == TextError("empty", "the text has no token")
    assert unknown == cut == TextError("unknown_only", "no token of the text is in the model's vocabulary")
    assert isinstance(good, Encoded)
    assert encoded(["zyx good"], 1, "tail")[0].unknown == 0
    (long,) = encoded(["good " * 7])
    assert long.detail == (
        "the text has 7 tokens, at most 6 are read (LSTMSERVE_MAX_TOKENS, or the model's own limit): "
        "shorten it, or set truncate to have a part of it read"
    )


def test_a_model_without_a_tokenizer() -> None:
    with pytest.raises(InvalidContent, match="model 'tiny' has no tokenizer: send token ids to /models/tiny/predict"):
        encoded(["good"], tokenizer=None)


def unigram(unk_id: int | None) -> HFTokenizer:
    return HFTokenizer(models.Unigram([("[UNK]", 0.0), ("good", -1.0), ("film", -2.0)], unk_id=unk_id))


def bytes_level() -> HFTokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pipeline = HFTokenizer(models.BPE({mark: number for number, mark in enumerate(alphabet)}, []))
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pipeline


WORDS = {"[PAD]": 0, "good": 1, "film": 2, "[UNK]": 3}
FOREIGN: dict[str, tuple[HFTokenizer, int | None]] = {
    "words": (HFTokenizer(models.WordLevel(WORDS, unk_token="[UNK]")), 3),
    "words, unknown missing": (HFTokenizer(models.WordLevel({"good": 0}, unk_token="[UNK]")), None),
    "word pieces": (HFTokenizer(models.WordPiece(WORDS, unk_token="[UNK]")), 3),
    "merges": (HFTokenizer(models.BPE({"[UNK]": 0, "a": 1}, [], unk_token="[UNK]")), 0),
    "merges without unknown": (HFTokenizer(models.BPE({"a": 0, "b": 1}, [])), None),
    "bytes": (bytes_level(), None),
    "unigram": (unigram(0), 0),
    "unigram without unknown": (unigram(None), None),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_the_unknown_id_of_foreign_tokenizers(kind: str) -> None:
    pipeline, unknown_id = FOREIGN[kind]
    assert Tokenizer.from_json(pipeline.to_str()).unknown_id == unknown_id


def test_a_foreign_unknown_id_is_counted() -> None:
    pipeline, _ = FOREIGN["words"]
    pipeline.pre_tokenizer = pre_tokenizers.Whitespace()
    foreign = Tokenizer.from_json(pipeline.to_str())
    found = encoded(["good zyx film wvu", "zyx"], tokenizer=foreign)
    assert (found[0].token_ids, found[0].unknown) == ([1, 3, 2, 3], 2)
    assert found[1].code == "unknown_only"


def test_where_nothing_is_unknown_no_text_is_only_unknown() -> None:
    (found,) = encoded(["\U0001f600"], tokenizer=Tokenizer.from_json(bytes_level().to_str()), vocab_size=256)
    assert (len(found.token_ids), found.unknown) == (4, 0), "bytes"


def located(text: str, truncate: Truncate = "head", limit: int = 99) -> list[Token]:
    chosen = model(max_length=99)

    async def run() -> list[Token]:
        (found,) = await encode(chosen, [text], limit, truncate)
        assert isinstance(found, Encoded)
        return await locate(chosen, text, found)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("good film", [("good", 0, 4), ("film", 5, 9)]),
        (
            "\U0001f600 good\U0001f600film",
            [("\U0001f600", 0, 1), ("good", 2, 6), ("\U0001f600", 6, 7), ("film", 7, 11)],
        ),
        ("  GOOD<br />Film", [("GOOD", 2, 6), ("Film", 12, 16)]),
        ("\ufb01lm good", [("\ufb01lm", 0, 3), ("good", 4, 8)]),  # a ligature is one code point
        ("\uff47\uff4f\uff4f\uff44 film", [("\uff47\uff4f\uff4f\uff44", 0, 4), ("film", 5, 9)]),
        ("\u00bd good", [("\u00bd", 0, 1)] * 3 + [("good", 2, 6)]),  # three tokens of one code point
    ],
)
def test_offsets_are_code_points_of_the_text_as_sent(text: str, expected: list[tuple[str, int, int]]) -> None:
    assert located(text) == expected


def test_offsets_of_the_part_that_is_read() -> None:
    text = "good film , very \U0001f600 good bad"
    whole = located(text)
    assert located(text, "head", 3) == whole[:3]
    assert located(text, "tail", 3) == whole[-3:]
    assert located(text, "tail", 99) == whole


@PLENTY
@given(SOME_TEXTS)
@example("good \u0130stanbul")
def test_every_token_stands_in_its_text(text: str) -> None:
    spans = TOKENIZER.spans(text)
    (ids,) = TOKENIZER.encode([text])
    assert len(spans) == len(ids)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert spans == sorted(spans)
    for (start, end), token_id in zip(spans, ids, strict=True):
        if token_id != UNK_ID and not any(map(unicodedata.combining, text)):
            assert token_id in TOKENIZER.encode([text[start:end]])[0]


async def test_short_texts_stay_on_the_loop_and_long_ones_leave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[object] = []

    class Thread(ThreadPoolExecutor):
        def submit(self, work: Any, /, *arguments: Any, **more: Any) -> Any:
            moved.extend(arguments)
            return super().submit(work, *arguments, **more)

    monkeypatch.setattr("service.texts._THREAD", Thread(1))
    short, long = "good".ljust(LONG), "good".ljust(LONG + 1)
    (found,) = await encode(model(), [short], 99)
    assert isinstance(found, Encoded)
    await locate(model(), short, found)
    assert moved == []
    await encode(model(), [long], 99)
    await encode(model(), [short, "x"], 99)
    await locate(model(), long, found)
    assert moved == [[long], [short, "x"], long]


@pytest.mark.parametrize("part", ["encode", "locate"])
async def test_the_loop_runs_while_a_megabyte_is_read(part: str) -> None:
    chosen, text = model(max_length=8), "good film " * 100_000
    (found,) = await encode(chosen, [text], 99, "tail", most_bytes=len(text))
    assert isinstance(found, Encoded)
    work = asyncio.ensure_future(
        encode(chosen, [text], 99, "tail", most_bytes=len(text)) if part == "encode" else locate(chosen, text, found)
    )
    turns = 0
    while not work.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert turns > 10, "held up"


async def test_what_is_too_large_is_not_tokenised_and_the_rest_a_part_at_a_time() -> None:
    seen: list[list[str]] = []

    class Noting(Tokenizer):
        def encode(self, texts: Sequence[str]) -> list[list[int]]:
            seen.append(list(texts))
            return super().encode(texts)

    chosen = model()
    assert chosen.tokenizer is not None
    noting = chosen._replace(tokenizer=Noting.from_json(chosen.tokenizer.to_json()))
    texts = ["good", "bad film", "x" * 11, "good bad", "\u00e9" * 6, "good"]
    found = await encode(noting, texts, 99, "head", most_bytes=10)
    assert [text for part in seen for text in part] == ["good", "bad film", "good bad", "good"]
    assert all(sum(map(len, part)) <= 10 for part in seen)
    codes = [item.code if isinstance(item, TextError) else None for item in found]
    assert codes == [None, None, "too_long", None, "too_long", None]
    assert found[4] == TextError(
        "too_long", "the text has 12 bytes, at most 10 are read (LSTMSERVE_MAX_TEXT_BYTES): shorten it"
    )
    alone = await encode(chosen, [text for text in texts if len(text.encode()) <= 10], 99)
    assert [item for item in found if isinstance(item, Encoded)] == alone
