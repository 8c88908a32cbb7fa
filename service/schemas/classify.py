"""Texts in, labels out."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, create_model

from service.schemas.shared import TOO_MANY, Body, Truncate


class ClassifyRequest(Body):
    """Texts to be classified."""

    MESSAGES: ClassVar = {
        ("too_long", 1): TOO_MANY,
        ("too_short", 1): "is empty: send at least one text",
        ("list_type", 1): 'must be a list of texts, also for one: ["A fine film."]',
        ("string_type", 2): "must be a string",
        ("missing", 1): "is missing; the fields are texts, truncate and explain",
    }

    texts: list[str]
    truncate: Truncate | None = Field(
        None, description="the part of a text over the limit that is read; without it such a text is refused"
    )
    explain: bool = Field(False, description="adds what each token contributes to the label's logit")


class Contribution(BaseModel):
    """What a token contributes: the change of the winning label's logit when it is left out."""

    token: str = Field(examples=["moving"])
    start: int = Field(description="where it begins in the text, in code points", examples=[2])
    end: int = Field(description="where it ends, exclusive", examples=[8])
    unknown: bool = Field(description="whether it is not in the model's vocabulary", examples=[False])
    contribution: float = Field(description="positive speaks for the label", examples=[0.42])


class Classified(BaseModel):
    """A text's label."""

    label: str = Field(description="the label of the highest score", examples=["positive"])
    scores: dict[str, float] = Field(
        description="of every label, after temperature; they sum to 1 unless the model judges each label by itself",
        examples=[{"negative": 0.02, "positive": 0.98}],
    )
    logits: list[float] = Field(description="before temperature", examples=[[-1.9, 1.9]])
    tokens: int = Field(description="of the whole text", examples=[6])
    unknown_tokens: int = Field(description="kept tokens that are not in the model's vocabulary", examples=[0])
    kept_tokens: int = Field(description="tokens that were read", examples=[6])
    dropped_tokens: int = Field(description="tokens that were cut off", examples=[0])
    contributions: list[Contribution] | None = Field(
        None, description="of each kept token; null where they are not computed, absent where they were not asked for"
    )
    not_explained: str | None = Field(None, description="why contributions is null")


class TextProblem(BaseModel):
    """Why a text has no label."""

    code: Literal["empty", "too_long", "unknown_only"]
    detail: str = Field(examples=["the text has no token"])


class Failed(BaseModel):
    """A text that cannot be classified; the others of the request can."""

    error: TextProblem


class ClassifyReply(BaseModel):
    """What became of every text, in their order."""

    model: str = Field(examples=["imdb"])
    version: int = Field(examples=[1])
    results: list[Classified | Failed]


def classify_request(max_sequences: int) -> type[ClassifyRequest]:
    """The request with its limit, which is a setting, as a constraint of its field."""
    texts: Any = Annotated[list[str], Field(min_length=1, max_length=max_sequences)]
    examples = [["A moving, funny film.", "Dull, and far too long."]]
    return create_model(
        "ClassifyRequest",
        __base__=ClassifyRequest,
        __doc__=ClassifyRequest.__doc__,
        texts=(
            texts,
            Field(description="plain texts", examples=examples),
        ),
    )
