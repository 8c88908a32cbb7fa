"""What goes over the wire; every fixed limit is a field constraint, every rule a validator of its field.

A body is validated once, straight from its bytes: what JSON Schema cannot say (equal rows, the pad id, the model's
vocabulary) is checked by the same pass, with the model's `Vocabulary` as its context.
"""

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Annotated, Any, NamedTuple, Self
from urllib.parse import quote

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    create_model,
    model_validator,
)
from pydantic.types import FailFast
from pydantic_core import InitErrorDetails, PydanticCustomError

from service.errors import MAX_LISTED, FieldError, InvalidContent, NotJSON

MESSAGES: dict[tuple[str, int], str] = {
    ("too_long", 1): (
        "has {actual_length} entries or more, at most {max_length} are taken (LSTMSERVE_MAX_SEQUENCES): "
        "send several requests"
    ),
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
"""What to say, by pydantic's error type and the depth of its place; its other messages say enough."""

MAX_ECHO = 64
"""Characters of a field's name or of a number that an error repeats."""


class Vocabulary(NamedTuple):
    """What a model accepts."""

    size: int
    pad_id: int
    max_length: int


class PredictRequest(BaseModel):
    """A rectangular batch of token ids, right-padded with the model's pad id."""

    # unknown fields are collected and refused below: pydantic would make an error of each of a million
    model_config = ConfigDict(
        frozen=True, extra="allow", strict=True, json_schema_extra={"additionalProperties": False}
    )

    token_ids: list[list[int]]
    lengths: list[int] | None = None
    _lengths: list[int] = PrivateAttr(default_factory=list)
    """Tokens of each row, as sent or counted without the trailing pads."""

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        assert isinstance(info.context, Vocabulary)
        self._lengths = self.lengths or [_unpadded(row, info.context.pad_id) for row in self.token_ids]
        if problems := list(self._problems(info.context)):
            raise ValidationError.from_exception_data("PredictRequest", problems)
        return self

    def sequences(self) -> list[list[int]]:
        """The rows without their padding."""
        return [row[:length] for row, length in zip(self.token_ids, self._lengths, strict=True)]

    def _problems(self, vocabulary: Vocabulary) -> Iterator[InitErrorDetails]:
        if self.model_extra:
            fields = ", ".join(type(self).model_fields)
            name = next(iter(self.model_extra))
            yield _wrong((name,), "unknown_field", f"is one of {len(self.model_extra)} unknown fields; known: {fields}")
        width = len(self.token_ids[0])
        for number, row in enumerate(self.token_ids):
            if len(row) != width:
                yield _wrong(
                    ("token_ids", number),
                    "ragged",
                    f"has {len(row)} token ids, row 0 has {width}: pad all rows to one width with {vocabulary.pad_id}",
                )
            if max(row) >= vocabulary.size:
                column = next(column for column, token in enumerate(row) if token >= vocabulary.size)
                yield _wrong(
                    ("token_ids", number, column),
                    "vocabulary",
                    f"token id {str(row[column])[:MAX_ECHO]} is outside the model's vocabulary of {vocabulary.size}",
                )
        if len(self._lengths) != len(self.token_ids):
            yield _wrong(
                ("lengths",), "lengths", f"has {len(self._lengths)} entries for {len(self.token_ids)} rows of token_ids"
            )
            return
        for number, (row, length) in enumerate(zip(self.token_ids, self._lengths, strict=True)):
            yield from self._row_problems(number, row, length, vocabulary)

    def _row_problems(
        self, number: int, row: list[int], length: int, vocabulary: Vocabulary
    ) -> Iterator[InitErrorDetails]:
        pad = vocabulary.pad_id
        if length == 0:
            yield _wrong(("token_ids", number), "empty", f"holds only the pad id {pad}: send at least one token")
        elif length > len(row):
            yield _wrong(("lengths", number), "length", f"{length} is over the row's width of {len(row)}")
        elif length > vocabulary.max_length:
            yield _wrong(
                ("token_ids", number),
                "over_model_length",
                f"has {length} tokens, the model takes at most {vocabulary.max_length}: shorten it",
            )
        elif self.lengths is None and pad in row[:length]:
            column = row.index(pad)
            yield _wrong(
                ("token_ids", number, column),
                "pad_inside",
                f"is the pad id {pad} inside a sequence: send lengths if that is meant",
            )
        elif any(token != pad for token in row[length:]):
            column = next(column for column in range(length, len(row)) if row[column] != pad)
            yield _wrong(
                ("token_ids", number, column),
                "beyond_length",
                f"is beyond the row's length of {length}: only the pad id {pad} may stand there",
            )


class PredictReply(BaseModel):
    """Logits of every sequence, before temperature, and what made them."""

    model: str = Field(examples=["imdb"])
    version: int = Field(examples=[1])
    labels: list[str] = Field(examples=[["negative", "positive"]])
    logits: list[list[float]] = Field(description="one row a sequence, one logit a label (one alone: output binary)")


class Health(BaseModel):
    status: str = Field(examples=["ok"])


class FieldProblem(BaseModel):
    pointer: str = Field(
        description="JSON pointer to what is wrong, or the name of a header", examples=["#/token_ids/0/3"]
    )
    detail: str


class Problem(BaseModel):
    """An error, as in RFC 9457."""

    type: str = Field(examples=["about:blank"])
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldProblem] | None = Field(None, max_length=MAX_LISTED)
    error_count: int | None = Field(None, description="how many field errors there are; a row counts its first one")


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


def problems(reasons: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a route that may fail so: status -> why."""
    return {
        status: {
            "description": reason,
            "content": {
                "application/problem+json": {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "example": {
                        "type": "about:blank",
                        "title": HTTPStatus(status).phrase,
                        "status": status,
                        "detail": reason,
                        "request_id": "5f3a1c0e",
                    },
                }
            },
        }
        for status, reason in sorted(reasons.items())
    }


def parse(schema: type[PredictRequest], body: bytes, vocabulary: Vocabulary) -> PredictRequest:
    """The validated body. Raises NotJSON, or InvalidContent with the first field errors and their count."""
    try:
        return schema.model_validate_json(body, context=vocabulary)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
    if details[0]["type"] == "json_invalid":
        raise NotJSON(f"the body is not JSON that can be read: {details[0]['ctx']['error']}")
    listed = []
    for detail in details[:MAX_LISTED]:
        template = MESSAGES.get((detail["type"], len(detail["loc"])))
        message = template.format_map(detail.get("ctx", {})) if template else detail["msg"]
        listed.append(FieldError(_pointer(detail["loc"]), message))
    raise InvalidContent(f"{listed[0].pointer}: {listed[0].detail}", errors=listed, count=len(details))


def _pointer(loc: tuple[int | str, ...]) -> str:
    """A JSON pointer in the form of a URI fragment (RFC 6901, section 6); the name of an unknown field is cut short."""
    names = (str(part)[:MAX_ECHO].replace("~", "~0").replace("/", "~1") for part in loc)
    return "#" + "".join(f"/{quote(name)}" for name in names)


def _unpadded(row: list[int], pad_id: int) -> int:
    """Tokens of a row without its trailing pads."""
    length = len(row)
    while length and row[length - 1] == pad_id:
        length -= 1
    return length


def _wrong(loc: tuple[str | int, ...], kind: str, message: str) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError(kind, message), loc=loc, input=None)
