"""The unit of all work: one sequence of token ids on its way to logits."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(slots=True, eq=False)
class Waiting:
    """How many sequences of one request stand in the scheduler's queue."""

    sequences: int


@dataclass(slots=True, eq=False)
class Sequence:
    """A sequence and when it came, began and must be done; times are seconds of the monotonic clock."""

    token_ids: list[int]
    weights: Hashable
    """What the engine's `load` gave for the model version."""
    deadline: float
    arrived: float
    urgent: bool = False
    started: float = 0.0
    """When the engine began to work on it; known when its outcome is."""
    waiting: Waiting | None = None
    """It stands in the scheduler's queue, with others of its request."""


class Outcome(NamedTuple):
    """A sequence's one ending inside the engine: float32 logits ``[num_logits]``, or an error."""

    sequence: Sequence
    result: list[float] | Exception
