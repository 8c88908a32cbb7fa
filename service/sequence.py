"""The unit of all work: one sequence of token ids on its way to logits."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


@dataclass(slots=True, eq=False)
class Sequence:
    """A sequence and when it came, began and must be done; times are seconds of one monotonic clock."""

    token_ids: list[int]
    weights: Hashable
    """What the engine's `load` gave for the model version."""
    deadline: float
    arrived: float
    urgent: bool = False
    started: float = 0.0
    waiting: bool = False
    """It stands in the scheduler's queue."""
    gone: bool = False
    """Its caller has left: it need not be computed."""


class Outcome(NamedTuple):
    """A sequence's one ending inside the engine: float32 logits ``[num_logits]``, or an error."""

    sequence: Sequence
    result: npt.NDArray[np.float32] | Exception
