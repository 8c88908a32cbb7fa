"""What the dialects have in common: how a body is validated, and what is said of one that is refused."""

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar
from urllib.parse import quote

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from service.errors import MAX_LISTED, FieldError, InvalidContent, NotJSON

MAX_ECHO = 64
"""Characters of a field's name or of a number that an error repeats."""


TOO_MANY = (
    "has {actual_length} entries or more, at most {max_length} are taken (LSTMSERVE_MAX_SEQUENCES): "
    "send several requests"
)
"""Of a list that is longer than a request's sequences may be."""

Truncate = Literal["head", "tail"]
"""The end of a text over the limit that is read."""


class Flaw(NamedTuple):
    """One thing that is wrong in a body."""

    place: tuple[str | int, ...]
    message: str


class Body(BaseModel):
    """A request's body."""

    # unknown fields are collected and refused below: pydantic would make an error of each of a million
    model_config = ConfigDict(
        frozen=True, extra="allow", strict=True, json_schema_extra={"additionalProperties": False}
    )

    MESSAGES: ClassVar[Mapping[tuple[str, int], str]] = {}
    """What to say, by pydantic's error type and the depth of its place; its other messages say enough."""

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        flaws: list[InitErrorDetails] = [
            {"type": PydanticCustomError("flaw", "{message}", {"message": message}), "loc": place, "input": None}
            for place, message in self.flaws(info.context)
        ]
        if flaws:
            raise ValidationError.from_exception_data(type(self).__name__, flaws)
        return self

    def flaws(self, context: Any) -> Iterator[Flaw]:
        """What its field constraints cannot say; `context` is what `parse` was given."""
        if self.model_extra:
            fields = ", ".join(type(self).model_fields)
            name = next(iter(self.model_extra))
            yield Flaw((name,), f"is one of {len(self.model_extra)} unknown fields; known: {fields}")


class HealthReply(BaseModel):
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


B = TypeVar("B", bound=Body)


def parse(schema: type[B], body: bytes, context: Any = None) -> B:
    """The validated body. Raises NotJSON, or InvalidContent with the first field errors and their count."""
    try:
        return schema.model_validate_json(body, context=context)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
    if details[0]["type"] == "json_invalid":
        raise NotJSON(f"the body is not JSON that can be read: {details[0]['ctx']['error']}")
    listed = []
    for detail in details[:MAX_LISTED]:
        template = schema.MESSAGES.get((detail["type"], len(detail["loc"])))
        message = template.format_map(detail.get("ctx", {})) if template else detail["msg"]
        listed.append(FieldError(_pointer(detail["loc"]), message))
    raise InvalidContent(f"{listed[0].pointer}: {listed[0].detail}", errors=listed, count=len(details))


def _pointer(place: tuple[int | str, ...]) -> str:
    """A JSON pointer in the form of a URI fragment (RFC 6901, section 6); the name of an unknown field is cut short."""
    names = (str(part)[:MAX_ECHO].replace("~", "~0").replace("/", "~1") for part in place)
    return "#" + "".join(f"/{quote(name)}" for name in names)
