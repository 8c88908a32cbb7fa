"""How near answers are to the reference: nothing is reported that is not right."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LIMITS = {"float32": (1e-4, 1.0), "bfloat16": (0.1, 0.98), "int8": (0.5, 0.95)}
"""Greatest error and least share of same labels, by the precision that an engine computes in."""


class Agreement(NamedTuple):
    """How near answers are to the reference."""

    error: float
    """The greatest difference of a logit, relative to the reference's logit or 1, whichever is greater."""
    same_label: float
    """Share of the sequences."""

    @classmethod
    def of(cls, answers: Sequence[tuple[int, Sequence[float]]], reference: npt.NDArray[np.float32]) -> "Agreement":
        """Of numbers of sequences and their logits with `reference`, ``[sequences, num_logits]``."""
        numbers, logits = zip(*answers, strict=True)
        found, expected = np.array(logits), reference[list(numbers)]
        error = np.abs(found - expected) / np.maximum(1, np.abs(expected))
        return cls(float(error.max()), float((found.argmax(1) == expected.argmax(1)).mean()))

    def or_worse(self, other: "Agreement") -> "Agreement":
        return Agreement(max(self.error, other.error), min(self.same_label, other.same_label))

    def check(self, name: str, precision: str) -> None:
        """Raises RuntimeError where `name` is wrong."""
        error, same_label = LIMITS[precision]
        if not (self.error <= error and self.same_label >= same_label):
            raise RuntimeError(
                f"{name} is wrong: logits off by {self.error:.1e}, {self.same_label:.1%} same labels; "
                f"{precision} may be off by {error:.1e}, with {same_label:.1%}"
            )
