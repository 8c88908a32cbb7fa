"""Token batches in, logits out."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BaseModel, Field, PrivateAttr, create_model
from pydantic.types import FailFast

from service.schemas.shared import MAX_ECHO, TOO_MANY, Body, Flaw


class Vocabulary(NamedTuple):
    """What a model accepts."""

    size: int
    pad_id: int
    max_length: int


class PredictRequest(Body):
    """A rectangular batch of token ids, right-padded with the model's pad id."""

    MESSAGES: ClassVar = {
        ("too_long", 1): TOO_MANY,
        ("too_long", 2): (
            "has {actual_length} token ids or more, at most {max_length} are taken (LSTMSERVE_MAX_TOKENS): "
            "shorten the sequence"
        ),
        ("too_short", 1): "is empty: send at least one entry",
        ("too_short", 2): "is empty: send at least one token id",
        ("list_type", 1): "must be a list, as token_ids in [[1, 2, 3], [4, 5, 0]] and lengths in [3, 2]",
        ("list_type", 2): "must be a row of token ids; token_ids is a list of rows also for one sequence: [[1, 2, 3]]",
        ("int_type", 2): "must be an integer; not a float, string, boolean or null",
        ("int_type", 3): "must be an integer; not a float, string, boolean or null",
        ("missing", 1): "is missing; the fields are token_ids and lengths",
    }

    token_ids: list[list[int]]
    lengths: list[int] | None = None
    _lengths: list[int] = PrivateAttr(default_factory=list)
    """Tokens of each row, as sent or counted without the trailing pads."""

    def sequences(self) -> list[list[int]]:
        """The rows without their padding."""
        return cut(self.token_ids, self._lengths)

    def flaws(self, context: Any) -> Iterator[Flaw]:
        assert isinstance(context, Vocabulary)
        yield from super().flaws(context)
        self._lengths = self.lengths or unpadded(self.token_ids, context)
        yield from batch_flaws(self.token_ids, self._lengths, self.lengths is not None, context)


class PredictReply(BaseModel):
    """Logits of every sequence, before temperature, and what made them."""

    model: str = Field(examples=["imdb"])
    version: int = Field(examples=[1])
    labels: list[str] = Field(examples=[["negative", "positive"]])
    logits: list[list[float]] = Field(description="one row a sequence, one logit a label (one alone: output binary)")


def predict_request(max_sequences: int, max_tokens: int) -> type[PredictRequest]:
    """The request with its limits, which are settings, as constraints of its fields."""
    token = Annotated[int, Field(ge=0)]
    row = Annotated[list[token], Field(min_length=1, max_length=max_tokens), FailFast()]
    length = Annotated[int, Field(ge=1, le=max_tokens)]
    batch: Any = Annotated[list[row], Field(min_length=1, max_length=max_sequences)]
    lengths: Any = Annotated[list[length], Field(min_length=1, max_length=max_sequences)] | None
    return create_model(
        "PredictRequest",
        __base__=PredictRequest,
        __doc__=PredictRequest.__doc__,
        token_ids=(
            batch,
            Field(
                description="one row a sequence, all rows of one width, right-padded with the model's pad id",
                examples=[[[12, 7, 431, 9], [5, 88, 0, 0]]],
            ),
        ),
        lengths=(
            lengths,
            Field(
                None,
                description="tokens of each row; may be left out where no sequence holds the pad id inside",
                examples=[[4, 2]],
            ),
        ),
    )


def unpadded(rows: Sequence[Sequence[int]], vocabulary: Vocabulary) -> list[int]:
    """Tokens of each row without its trailing pads."""
    lengths = []
    for row in rows:
        length = len(row)
        while length and row[length - 1] == vocabulary.pad_id:
            length -= 1
        lengths.append(length)
    return lengths


def cut(rows: Sequence[list[int]], lengths: Sequence[int]) -> list[list[int]]:
    """The rows without their padding."""
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def batch_flaws(
    rows: Sequence[Sequence[int]], lengths: Sequence[int], sent: bool, vocabulary: Vocabulary
) -> Iterator[Flaw]:
    """What is wrong with a padded batch of at least one row of non-negative ids; `sent`: the lengths were sent too."""
    width = len(rows[0])
    for number, row in enumerate(rows):
        if len(row) != width:
            yield Flaw(
                ("token_ids", number),
                f"has {len(row)} token ids, row 0 has {width}: pad all rows to one width with {vocabulary.pad_id}",
            )
        if max(row) >= vocabulary.size:
            column = next(column for column, token in enumerate(row) if token >= vocabulary.size)
            yield Flaw(
                ("token_ids", number, column),
                f"token id {str(row[column])[:MAX_ECHO]} is outside the model's vocabulary of {vocabulary.size}",
            )
    if len(lengths) != len(rows):
        yield Flaw(("lengths",), f"has {len(lengths)} entries for {len(rows)} rows of token_ids")
        return
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        yield from _row_flaws(number, row, length, sent, vocabulary)


def _row_flaws(number: int, row: Sequence[int], length: int, sent: bool, vocabulary: Vocabulary) -> Iterator[Flaw]:
    pad = vocabulary.pad_id
    if length == 0:
        yield Flaw(("token_ids", number), f"holds only the pad id {pad}: send at least one token")
    elif length > len(row):
        yield Flaw(("lengths", number), f"{length} is over the row's width of {len(row)}")
    elif length > vocabulary.max_length:
        yield Flaw(
            ("token_ids", number),
            f"has {length} tokens, the model takes at most {vocabulary.max_length}: shorten it",
        )
    elif not sent and pad in row[:length]:
        column = row.index(pad)
        yield Flaw(
            ("token_ids", number, column),
            f"is the pad id {pad} inside a sequence: send lengths if that is meant",
        )
    elif any(token != pad for token in row[length:]):
        column = next(column for column in range(length, len(row)) if row[column] != pad)
        yield Flaw(
            ("token_ids", number, column),
            f"is beyond the row's length of {length}: only the pad id {pad} may stand there",
        )
