"""What is told of the models that serve."""

from typing import Literal

from pydantic import BaseModel, Field


class ModelReply(BaseModel):
    """A model that serves."""

    name: str = Field(examples=["imdb"])
    version: int = Field(description="the version that serves", examples=[1])
    versions: list[int] = Field(description="the complete versions in the store, the highest first", examples=[[1]])
    default: bool = Field(description="whether it answers where a route names no model")
    labels: list[str] = Field(examples=[["negative", "positive"]])
    output: Literal["softmax", "sigmoid", "binary"] = Field(description="how logits become scores")
    precision: str = Field(examples=["float32"])
    max_tokens: int = Field(description="most tokens of one sequence here", examples=[4096])
    vocab_size: int = Field(examples=[30000])
    pad_id: int = Field(examples=[0])
    tokenizer: bool = Field(description="whether it reads texts; if not, token ids only")
    card: str | None = Field(description="path of its model card, where it has one", examples=["/models/imdb/card"])
