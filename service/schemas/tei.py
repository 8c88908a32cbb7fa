"""What Text Embeddings Inference's clients send and expect."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator, create_model
from pydantic_core import PydanticCustomError

from service.schemas.shared import TOO_MANY, Body, Truncate

SINGLE = "A moving, funny film."
BATCH = [[SINGLE], ["Dull, and far too long."]]


class TeiParameters(Body):
    """What huggingface_hub's InferenceClient sends beside the text, empty where nothing is asked for."""

    top_k: int | None = Field(None, ge=1, description="labels of a text that are told; all of them without it")
    function_to_apply: Literal["none"] | None = Field(None, description="none: as raw_scores")


class TeiPredictRequest(Body):
    """A text, or a batch of them; as ``PredictRequest`` of ``router/src/http/types.rs`` of that server."""

    MESSAGES: ClassVar = {
        ("too_long", 1): TOO_MANY,
        ("too_short", 1): "is empty: send at least one text",
        ("list_type", 1): 'must be a text, or a batch of them: [["a"], ["b"]]',
        ("list_type", 2): 'must be a list of one text: a batch is [["a"], ["b"]]',
        ("too_short", 2): 'must be a list of one text: a batch is [["a"], ["b"]]',
        ("too_long", 2): 'is a pair of texts, and the model reads single ones: send a batch as [["a"], ["b"]]',
        ("string_type", 3): "must be a string",
        ("missing", 1): "is missing; the fields are inputs, truncate, truncation_direction, raw_scores and parameters",
    }

    inputs: str | list[str]
    """One text; or those of a batch, each taken out of its list."""
    truncate: bool | None = Field(
        False, description="reads a part of a text over the limit; without it such a text is refused"
    )
    truncation_direction: Literal["Left", "Right", "left", "right"] = Field(
        "Right", description="the side at which that text is cut"
    )
    raw_scores: bool = Field(False, description="logits in place of scores")
    parameters: TeiParameters = TeiParameters()

    @property
    def raw(self) -> bool:
        return self.raw_scores or self.parameters.function_to_apply == "none"

    @property
    def cut(self) -> Truncate | None:
        """The part of a text over the limit that is read."""
        if not self.truncate:
            return None
        return "tail" if self.truncation_direction.lower() == "left" else "head"


class Prediction(BaseModel):
    """A label of a text."""

    score: float = Field(description="after temperature; with raw_scores the logit", examples=[0.98])
    label: str = Field(examples=["positive"])


class ClassifierModel(BaseModel):
    """The labels, by index and back."""

    id2label: dict[str, str] = Field(examples=[{"0": "negative", "1": "positive"}])
    label2id: dict[str, int] = Field(examples=[{"negative": 0, "positive": 1}])


class ModelType(BaseModel):
    classifier: ClassifierModel


class TeiInfo(BaseModel):
    """What serves; the fields of ``Info`` in ``router/src/lib.rs`` of that server that mean something here."""

    model_id: str = Field(examples=["imdb"])
    model_sha: str = Field(description="the version", examples=["1"])
    model_dtype: str = Field(examples=["float32"])
    model_type: ModelType
    max_input_length: int = Field(description="most tokens of one text", examples=[4096])
    max_client_batch_size: int = Field(description="most texts of one request", examples=[256])
    auto_truncate: bool = Field(False, description="whether texts over the limit are cut without being asked")
    version: str = Field(description="of lstm-serve")


class TeiRefusal(BaseModel):
    """An error under ``/tei``."""

    error: str
    error_type: Literal["Validation", "Overloaded", "Backend", "Unhealthy"]


def tei_predict_request(max_sequences: int) -> type[TeiPredictRequest]:
    """The request with its limit, which is a setting, as a constraint of its field."""
    single = Annotated[list[str], Field(min_length=1, max_length=1)]
    batch = Annotated[list[single], Field(min_length=1, max_length=max_sequences)]
    text = {"type": "string"}
    alone = {"type": "array", "items": text, "minItems": 1, "maxItems": 1}
    several = {"type": "array", "items": alone, "minItems": 1, "maxItems": max_sequences}
    inputs: Any = Annotated[
        batch, WrapValidator(_texts), WithJsonSchema({"anyOf": [text, alone, several], "examples": [SINGLE, BATCH]})
    ]
    return create_model(
        "TeiPredictRequest",
        __base__=TeiPredictRequest,
        __doc__=TeiPredictRequest.__doc__,
        inputs=(inputs, Field(description='a text, "a" or ["a"], or a batch of texts, [["a"], ["b"]]')),
    )


def _texts(sent: Any, batch: ValidatorFunctionWrapHandler) -> str | list[str]:
    """The text that was sent alone, or those of the batch."""
    if isinstance(sent, str):
        return sent
    if isinstance(sent, list) and sent and all(isinstance(text, str) for text in sent):
        if len(sent) > 1:
            raise PydanticCustomError(
                "pair",
                "is a list of strings, which this protocol reads as a pair, and the model reads single texts: "
                'send a batch as [["a"], ["b"]]',
            )
        return str(sent[0])
    return [text for (text,) in batch(sent)]
