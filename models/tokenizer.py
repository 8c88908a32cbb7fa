"""Word-level tokenizer over Hugging Face ``tokenizers``: text in, token ids out. No torch."""

import json
from collections.abc import Iterable, Sequence
from typing import Self

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HFTokenizer
from tokenizers.models import WordLevel
from tokenizers.trainers import WordLevelTrainer

PAD, UNK = "<pad>", "<unk>"
PAD_ID, UNK_ID = 0, 1


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

    @classmethod
    def from_json(cls, document: str) -> Self:
        """Raises ValueError when the document is not a tokenizer."""
        try:
            return cls(HFTokenizer.from_str(document))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"not a Hugging Face tokenizer: {error}") from error

    def to_json(self) -> str:
        return self._tokenizer.to_str()

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id."""
        return 1 + max(self._tokenizer.get_vocab().values(), default=-1)

    @property
    def unknown_id(self) -> int | None:
        """What a word outside the vocabulary becomes; None where there is no such id (bytes)."""
        model = json.loads(self.to_json())["model"]
        token = model.get("unk_token")
        return self._tokenizer.token_to_id(token) if token is not None else model.get("unk_id")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text; a text without any token gives an empty list."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token of a text stands in it, as offsets of code points ``[start, end)``."""
        (encoding,) = self._tokenizer.encode_batch([text], add_special_tokens=False)  # encode alone keeps the GIL
        return encoding.offsets
