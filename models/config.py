"""The configuration of one sequence classifier: plain data, no torch."""

from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Cell = Literal["lstm", "gru", "rnn_tanh", "rnn_relu"]
Pooling = Literal["last", "last_output", "max", "mean"]
Output = Literal["softmax", "sigmoid", "binary"]

GATES: dict[Cell, int] = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
"""Rows of a weight matrix per hidden unit, in PyTorch's gate order (lstm: i, f, g, o; gru: r, z, n)."""

MOST = 1 << 30
"""Of any size: token ids and lengths are then 32-bit integers everywhere."""


class ModelConfig(BaseModel):
    """Embedding -> recurrent layers -> pooling -> linear, with the semantics of ``torch.nn.LSTM/GRU/RNN``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    cell: Cell = "lstm"
    vocab_size: int = Field(ge=1, le=MOST, description="rows of the embedding")
    embedding_dim: int = Field(ge=1, le=MOST)
    hidden_size: int = Field(ge=1, le=MOST, description="units of one direction of one layer")
    num_layers: int = Field(default=1, ge=1, le=4)
    bidirectional: bool = False
    proj_size: int = Field(default=0, ge=0, description="size of the projected hidden state (lstm only); 0: none")
    bias: bool = Field(default=True, description="whether the recurrent layers have biases")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="rate used in training; serving never drops")
    pooling: Annotated[tuple[Pooling, ...], Field(min_length=1, strict=False)] = ("last",)
    labels: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    pad_id: int = Field(default=0, ge=0)
    max_length: int = Field(default=4096, ge=1, le=MOST, description="most tokens of one sequence")
    output: Output = "softmax"
    temperature: float = Field(default=1.0, ge=1e-3, le=1e3, description="divides logits to make scores")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.proj_size and self.cell != "lstm":
            raise ValueError(f"proj_size is for lstm only, not {self.cell}")
        if self.proj_size >= self.hidden_size:
            raise ValueError(f"proj_size {self.proj_size} must be below hidden_size {self.hidden_size}")
        if self.pad_id >= self.vocab_size:
            raise ValueError(f"pad_id {self.pad_id} must be below vocab_size {self.vocab_size}")
        if "" in self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be distinct and not empty")
        if len(set(self.pooling)) != len(self.pooling):
            raise ValueError("pooling names each kind at most once")
        if self.output == "binary" and len(self.labels) != 2:
            raise ValueError(f"output binary takes 2 labels, not {len(self.labels)}")
        if self.output == "softmax" and len(self.labels) < 2:
            raise ValueError("output softmax takes at least 2 labels")
        return self

    @property
    def num_directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def state_size(self) -> int:
        """Size of one direction's output at one token: the hidden state, projected where there is a projection."""
        return self.proj_size or self.hidden_size

    @property
    def feature_size(self) -> int:
        """Size of the pooled vector that the linear layer reads."""
        return len(self.pooling) * self.num_directions * self.state_size

    @property
    def num_logits(self) -> int:
        return 1 if self.output == "binary" else len(self.labels)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight, in the names and order of the PyTorch modules."""
        rows = GATES[self.cell] * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (self.vocab_size, self.embedding_dim)}
        for layer in range(self.num_layers):
            inputs = self.num_directions * self.state_size if layer else self.embedding_dim
            for direction in ("", "_reverse")[: self.num_directions]:
                suffix = f"l{layer}{direction}"
                shapes[f"rnn.weight_ih_{suffix}"] = (rows, inputs)
                shapes[f"rnn.weight_hh_{suffix}"] = (rows, self.state_size)
                if self.bias:
                    shapes[f"rnn.bias_ih_{suffix}"] = (rows,)
                    shapes[f"rnn.bias_hh_{suffix}"] = (rows,)
                if self.proj_size:
                    shapes[f"rnn.weight_hr_{suffix}"] = (self.proj_size, self.hidden_size)
        shapes["linear.weight"] = (self.num_logits, self.feature_size)
        shapes["linear.bias"] = (self.num_logits,)
        return shapes


def first_error(error: ValidationError, shown: Callable[[str], str] = str) -> str:
    """The first of the errors in one line: the reason, after the field where there is one, as `shown`."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"]))
    reason = first["msg"].removeprefix("Value error, ")
    return f"{shown(field)}: {reason}" if field else reason
