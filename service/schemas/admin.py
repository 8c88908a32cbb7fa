"""The model repository, after Triton's extension of the Open Inference Protocol."""

from typing import Annotated, ClassVar

from pydantic import BaseModel, Field

from service.schemas.shared import Body


class IndexRequest(Body):
    ready: bool = Field(False, description="only the versions that serve")


class LoadParameters(Body):
    version: Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^[1-9][0-9]{0,9}$")] | None = Field(
        None, description="the version to serve and to pin; without it the highest, and none is pinned", examples=[1]
    )


class LoadRequest(Body):
    MESSAGES: ClassVar = {("model_type", 1): 'must be an object, as in {{"parameters": {{"version": 1}}}}'}

    parameters: LoadParameters = LoadParameters()

    @property
    def version(self) -> int | None:
        return int(self.parameters.version) if self.parameters.version else None


class IndexEntry(BaseModel):
    """A version in the store."""

    name: str = Field(examples=["imdb"])
    version: str = Field(examples=["1"])
    state: str = Field(description="READY: it serves; UNAVAILABLE: it does not", examples=["READY"])
    reason: str


class Flip(BaseModel):
    text: str = Field(description="a golden text of one of the two versions")
    before: str = Field(examples=["negative"])
    after: str = Field(examples=["positive"])


class Golden(BaseModel):
    texts: int = Field(description="golden texts of both versions that both judged", examples=[16])
    flips: list[Flip] = Field(description="those with another label now")


class Served(BaseModel):
    sequences: int = Field(description="sequences answered last that both judged", examples=[0])
    flips: int = Field(description="those with another label now", examples=[0])


class Compared(BaseModel):
    golden: Golden
    served: Served


class LoadReply(BaseModel):
    """What a load did."""

    model: str = Field(examples=["imdb"])
    version: int = Field(description="the version that serves now", examples=[1])
    precision: str = Field(examples=["float32"])
    pinned: bool = Field(description="whether it stays when a higher one appears")
    replaced: int | None = Field(description="the version that served before", examples=[1])
    seconds: float = Field(description="time to read, verify, warm and compare it; 0 where it served already")
    comparison: Compared | None = Field(description="with the version that it replaced")
