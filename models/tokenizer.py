"""Word-level tokenizer over Hugging Face ``tokenizers``: text in, token ids out. No torch."""

import base64
import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from pydantic_core import from_json
from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HFTokenizer
from tokenizers.models import WordLevel
from tokenizers.trainers import WordLevelTrainer

PAD, UNK = "<pad>", "<unk>"
PAD_ID, UNK_ID = 0, 1

MOST_PARTS = 64
"""Normalizers and pre-tokenizers of one tokenizer, at most."""
MOST_GROWTH = 128
"""Bytes that its normalizers may make of one, at most; those of models in use make up to a hundred."""
MOST_PIECE, MOST_PIECES = 1 << 10, 1 << 22
"""Bytes of one piece, and of all pieces of a unigram model, at most: each takes up to 350 in memory."""


class Tokenizer:
    """Splits a text into tokens and looks their ids up; what it was made from is one JSON document."""

    def __init__(self, tokenizer: HFTokenizer) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, min_count: int = 2) -> Self:
        """Learns the `vocab_size` (pad and unknown included) most frequent tokens that occur `min_count` times or more.

        Lower case; ``<br />`` and ``<BR>`` are white space; a word keeps its inner apostrophes (don't); every other
        mark is a token.
        """
        pipeline = HFTokenizer(WordLevel({}, unk_token=UNK))
        pipeline.normalizer = normalizers.Sequence(
            [
                normalizers.Replace(Regex(r"(?i)<br\s*/?>"), " "),
                normalizers.NFKC(),
                normalizers.Replace("\u2019", "'"),
                normalizers.Lowercase(),
            ]
        )
        pipeline.pre_tokenizer = pre_tokenizers.Split(
            Regex(r"[^\W_]+(?:'[^\W_]+)*|[^\w\s]|_"), behavior="removed", invert=True
        )
        trainer = WordLevelTrainer(
            vocab_size=vocab_size, min_frequency=min_count, special_tokens=[PAD, UNK], show_progress=False
        )
        pipeline.train_from_iterator(texts, trainer)
        # A fresh pipeline: the trainer registers pad and unknown as marks to be found in text, so that a text which
        # spells "<pad>" would yield the pad id.
        fresh = HFTokenizer(WordLevel(pipeline.get_vocab(), unk_token=UNK))
        fresh.normalizer, fresh.pre_tokenizer = pipeline.normalizer, pipeline.pre_tokenizer
        return cls(fresh)

    def trimmed(self, texts: Sequence[str], vocab_size: int, pad_id: int) -> Self:
        """With `vocab_size` of its tokens: pad, unknown, what `texts` have most often, and then those of lowest id.

        They keep their order. Raises ValueError where it cannot do with fewer; its message is about the vocabulary.
        """
        document = json.loads(self.to_json())
        model = document["model"]
        if model["type"] != "WordLevel":
            raise ValueError(f"is of type {model['type']} and has parts of others: leave the option out")
        tokens = self.tokens()
        if self.unknown_id is None or pad_id >= len(tokens):
            raise ValueError("has no unknown token, or none for the pad: leave the option out")
        counts = np.zeros(len(tokens), int)
        for ids in self.encode(texts):
            np.add.at(counts, ids, 1)
        counts[[pad_id, self.unknown_id]] = np.iinfo(int).max
        there = np.flatnonzero([bool(token) for token in tokens])
        kept = np.sort(there[np.argsort(-counts[there], kind="stable")][:vocab_size])
        model["vocab"] = {tokens[old]: new for new, old in enumerate(kept.tolist())}
        return self.from_json(json.dumps(document, ensure_ascii=False))

    @classmethod
    def from_json(cls, document: str) -> Self:
        """Raises ValueError when the document is not a tokenizer, or not one that is safe to use."""
        try:
            parsed = from_json(document)
            _check(parsed)
            with _no_panic():
                return cls(HFTokenizer.from_str(json.dumps(parsed, ensure_ascii=False)))  # each key once
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"not a Hugging Face tokenizer: {error}") from error

    def to_json(self) -> str:
        return self._tokenizer.to_str()

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id."""
        return 1 + max(self._tokenizer.get_vocab().values(), default=-1)

    def tokens(self) -> list[str]:
        """By their ids; an id of which there is no token has an empty one."""
        return [self._tokenizer.id_to_token(number) or "" for number in range(self.vocab_size)]

    @property
    def unknown_id(self) -> int | None:
        """What a word outside the vocabulary becomes; None where there is no such id (bytes)."""
        model = json.loads(self.to_json())["model"]
        token = model.get("unk_token")
        return self._tokenizer.token_to_id(token) if token is not None else model.get("unk_id")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text; a text without any token gives an empty list.

        Raises RuntimeError where the tokenizer cannot: no token stands for what is unknown, or its regular expression
        gives up.
        """
        with _no_panic():
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token of a text stands in it, as offsets of code points ``[start, end)``; raises as `encode`."""
        with _no_panic():
            (encoding,) = self._tokenizer.encode_batch([text], add_special_tokens=False)  # encode alone keeps the GIL
        return encoding.offsets


@contextlib.contextmanager
def _no_panic() -> Iterator[None]:
    """Raises RuntimeError for what goes wrong in the library: it raises bare Exception, or panics, which is none."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(str(error)) from error


def _check(document: Any) -> None:
    """Raises ValueError for what the library would take without end of memory for, so that the process ends.

    What is of another form than it expects is left to it.
    """
    for processor in _parts(document.get("post_processor")):
        if processor["type"] == "TemplateProcessing" and sum("Sequence" in each for each in processor["single"]) != 1:
            raise ValueError("its template does not hold the text once")
    normalizers, splitters = _parts(document.get("normalizer")), _parts(document.get("pre_tokenizer"))
    if len(normalizers) + len(splitters) > MOST_PARTS:
        raise ValueError(f"has more than {MOST_PARTS} normalizers and pre-tokenizers")
    if (growth := math.prod(map(_growth, normalizers))) > MOST_GROWTH:
        raise ValueError(f"its normalizers may make {growth} bytes of one, at most {MOST_GROWTH} are taken")
    if document["model"].get("dropout"):
        raise ValueError("its model has a dropout: the same text would give other tokens each time")
    if isinstance(pieces := document["model"]["vocab"], list):
        sizes = [len(piece.encode()) for piece, _ in pieces]
        if max(sizes, default=0) > MOST_PIECE or sum(sizes) > MOST_PIECES:
            raise ValueError(f"has pieces of more than {MOST_PIECE} bytes, or of {MOST_PIECES} together")


def _parts(part: Any) -> list[Any]:
    """A normalizer, a pre-tokenizer or a post-processor, or those of a sequence."""
    if not part:
        return []
    if part["type"] != "Sequence":
        return [part]
    (inner,) = (value for name, value in part.items() if name in ("normalizers", "pretokenizers", "processors"))
    return [each for one in inner for each in _parts(one)]


def _growth(normalizer: Any) -> int:
    """How many bytes it makes of one, at most."""
    match normalizer["type"]:
        case "Replace":
            pattern = normalizer["pattern"].get("String")
            content = len(normalizer["content"].encode())
            return max(1, math.ceil(content / len(pattern.encode()))) if pattern else 1 + content
        case "Prepend":
            return 1 + len(normalizer["prepend"].encode())
        case "Precompiled":
            return _longest_replacement(base64.b64decode(normalizer["precompiled_charsmap"], validate=True))
        case "NFKC" | "NFKD":
            return 11  # U+FDFA
        case "BertNormalizer":
            return 8
        case "NFC" | "NFD" | "Lowercase" | "ByteLevel":
            return 3
        case _:
            return 1


def _longest_replacement(charsmap: bytes) -> int:
    """Of a map by SentencePiece: in four bytes the size of a trie, the trie, then replacements that end with a NUL."""
    trie = int.from_bytes(charsmap[:4], "little")
    if trie % 4 or not 4 <= trie <= len(charsmap) - 4:
        raise ValueError("its precompiled_charsmap is damaged")
    return max(1, *map(len, charsmap[4 + trie :].split(b"\0")))
