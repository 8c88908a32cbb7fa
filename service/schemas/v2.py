"""The Open Inference Protocol V2: requests, replies, metadata. Binary data is in `service.tensors`."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.shared import Body, Flaw, Truncate

INPUTS = {"token_ids": ("INT64", 2), "lengths": ("INT64", 1), "text": ("BYTES", 1)}
"""Datatype and rank of each input. INT32 is taken for INT64, and ``[rows, 1]`` for ``[rows]``."""

OutputName = Literal["logits", "probabilities", "labels"]

OUTPUTS: dict[OutputName, str] = {"logits": "FP32", "probabilities": "FP32", "labels": "BYTES"}
"""Datatype of each output, in the order of a reply to a request that names none."""

DATATYPES = {"INT64": ("INT64", "INT32"), "BYTES": ("BYTES",)}
"""What is taken for a datatype."""


Size = Annotated[int, Field(le=2**53)]
"""Beyond any tensor's, and short enough to be repeated by an error."""


class Parameters(Body):
    """Parameters that are not known are refused: they might have meant another answer."""


class TensorParameters(Parameters):
    def flaws(self, context: Any) -> Iterator[Flaw]:
        for name in self.model_extra or ():
            if name.startswith("shared_memory_"):
                yield Flaw((name,), "shared memory is not supported: send the tensors' data")
                return
        yield from super().flaws(context)


class InputParameters(TensorParameters):
    binary_data_size: Annotated[Size, Field(ge=0)] | None = Field(
        None, description="bytes of the tensor after the JSON, in place of data"
    )


class OutputParameters(TensorParameters):
    binary_data: bool | None = Field(None, description="whether the tensor comes as bytes after the JSON")
    classification: int = Field(
        0, ge=0, description="0: the tensor as it is; N: the N highest of each row, as value:index:label"
    )


class RequestParameters(Parameters):
    binary_data_output: bool = Field(False, description="binary_data of every output that does not say")
    truncate: Truncate | None = Field(
        None, description="which end of a text is kept that has too many tokens; without it such a text is refused"
    )
    timeout: int = Field(0, ge=0, description="answer within so many microseconds, or 504; 0: the service's own limit")
    priority: int = Field(0, ge=0, description="1 goes ahead, as X-Request-Priority: high does; 0, 2, 3, ... do not")
    sequence_id: int | str = Field(0, description="only 0 or empty: requests do not continue one another")
    sequence_start: bool = Field(False, description="only false")
    sequence_end: bool = Field(False, description="only false")

    def flaws(self, context: Any) -> Iterator[Flaw]:
        yield from super().flaws(context)
        for name in ("sequence_id", "sequence_start", "sequence_end"):
            if getattr(self, name):
                yield Flaw(
                    (name,), "is not supported: requests do not continue one another; send the whole sequence in one"
                )


class InputTensor(Body):
    name: Literal["token_ids", "lengths", "text"]
    datatype: Literal["INT64", "INT32", "BYTES"]
    shape: Annotated[list[Annotated[Size, Field(ge=1)]], Field(min_length=1, max_length=2)]
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = Field(None, description="the elements, row-major: flat, or nested as the shape says")

    def flaws(self, context: Any) -> Iterator[Flaw]:
        yield from super().flaws(context)
        datatype, rank = INPUTS[self.name]
        if self.datatype not in DATATYPES[datatype]:
            yield Flaw(("datatype",), f"must be {' or '.join(DATATYPES[datatype])} for {self.name}")
        if len(self.shape) != rank and not (rank == 1 and self.shape[1] == 1):
            takes = "[rows, columns]" if rank == 2 else "[rows] or [rows, 1]"
            yield Flaw(("shape",), f"must be {takes} for {self.name}, not of {len(self.shape)} dimensions")
        if (self.data is None) == (self.parameters.binary_data_size is None):
            yield Flaw(("data",), f"or the parameter binary_data_size must be there for {self.name}, and only one")


class OutputTensor(Body):
    name: OutputName
    parameters: OutputParameters = OutputParameters()

    def flaws(self, context: Any) -> Iterator[Flaw]:
        yield from super().flaws(context)
        if self.parameters.classification and self.name == "labels":
            yield Flaw(("parameters", "classification"), "is for logits and probabilities; labels has one a row")


class InferRequest(Body):
    """Token ids, right-padded with the model's pad id and with their lengths where that is in doubt, or texts."""

    model_config = ConfigDict(
        json_schema_extra={
            "additionalProperties": False,
            "examples": [
                {
                    "id": "42",
                    "inputs": [
                        {
                            "name": "token_ids",
                            "datatype": "INT64",
                            "shape": [2, 4],
                            "data": [[12, 7, 431, 9], [5, 88, 0, 0]],
                        },
                        {"name": "lengths", "datatype": "INT64", "shape": [2], "data": [4, 2]},
                    ],
                    "outputs": [{"name": "logits"}, {"name": "probabilities", "parameters": {"classification": 1}}],
                },
                {
                    "inputs": [
                        {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["A moving, funny film."]},
                    ],
                    "parameters": {"truncate": "head"},
                },
            ],
        }
    )
    MESSAGES: ClassVar[Mapping[tuple[str, int], str]] = {
        ("missing", 1): "is missing: send token_ids, token_ids and lengths, or text",
    }

    id: str | None = Field(None, description="comes back in the reply")
    model_name: str | None = Field(None, description="KServe's client sends it; the path decides")
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=2)]
    outputs: Annotated[list[OutputTensor], Field(max_length=len(OUTPUTS))] = Field(
        [], description="what is wanted; all of them where none is named"
    )

    def flaws(self, context: Any) -> Iterator[Flaw]:
        yield from super().flaws(context)
        given = sorted(tensor.name for tensor in self.inputs)
        if given not in (["token_ids"], ["lengths", "token_ids"], ["text"]):
            yield Flaw(("inputs",), f"must be token_ids, token_ids and lengths, or text; not {' and '.join(given)}")
        if len({output.name for output in self.outputs}) != len(self.outputs):
            yield Flaw(("outputs",), "names an output twice")
        if self.parameters.truncate and given != ["text"]:
            yield Flaw(("parameters", "truncate"), "is for text; cut token_ids yourself")


class TensorMetadata(BaseModel):
    name: str = Field(examples=["token_ids"])
    datatype: str = Field(examples=["INT64"])
    shape: list[int] = Field(description="-1: of any size", examples=[[-1, -1]])


class ServerMetadata(BaseModel):
    name: str = Field(examples=["lstm-serve"])
    version: str
    extensions: list[str] = Field(description="of Triton's, those spoken here")


class ModelMetadata(BaseModel):
    name: str = Field(examples=["imdb"])
    versions: list[str] = Field(description="those that serve", examples=[["1"]])
    platform: str
    inputs: list[TensorMetadata] = Field(description="token_ids, lengths with it or not; or text instead")
    outputs: list[TensorMetadata]


class ServerLive(BaseModel):
    live: bool = True


class ServerReady(BaseModel):
    ready: bool = True


class ModelReady(BaseModel):
    name: str = Field(examples=["imdb"])
    ready: bool = True


class OutputReply(BaseModel):
    name: str = Field(examples=["logits"])
    datatype: str = Field(examples=["FP32"])
    shape: list[int] = Field(examples=[[1, 2]])
    data: list[float | str] | None = Field(None, description="the elements, row-major and flat, unless they are bytes")
    parameters: dict[str, int] | None = Field(None, description="binary_data_size: its bytes after the JSON")


class InferReply(BaseModel):
    id: str | None = None
    model_name: str = Field(examples=["imdb"])
    model_version: str = Field(examples=["1"])
    outputs: list[OutputReply]


class Duration(BaseModel):
    count: int
    ns: int


class ModelStatistics(BaseModel):
    name: str = Field(examples=["imdb"])
    version: str = Field(examples=["1"])
    last_inference: int = Field(description="ms since the epoch")
    inference_count: int = Field(description="sequences answered")
    execution_count: int = Field(description="the same: every sequence is computed in a lane of its own")
    inference_stats: dict[str, Duration]
    batch_stats: list[Any] = Field(description="empty: lanes know no batches")


class StatisticsReply(BaseModel):
    model_stats: list[ModelStatistics]


class Refusal(BaseModel):
    """An error under ``/v2``."""

    error: str


def refusals(reasons: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a route that may fail so: status -> why."""
    return {status: {"model": Refusal, "description": reason} for status, reason in sorted(reasons.items())}
