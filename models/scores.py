"""From logits to scores, by a model's output rule. Plain numpy."""

import numpy as np
import numpy.typing as npt

from models.config import ModelConfig

Floats = npt.NDArray[np.floating]


def scores(logits: Floats, config: ModelConfig) -> npt.NDArray[np.float64]:
    """Scores of every label, float64 ``[rows, labels]``, from logits ``[rows, num_logits]``.

    Logits are divided by the temperature first (Guo et al. 2017). softmax: scores sum to 1. sigmoid: each label by
    itself. binary: the one logit is that of the second label.
    """
    scaled = np.asarray(logits, np.float64) / config.temperature
    if config.output == "softmax":
        exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))
    # tanh form: no overflow for large negative logits
    positive = 0.5 * (1.0 + np.tanh(0.5 * scaled))
    return np.hstack([1.0 - positive, positive]) if config.output == "binary" else np.asarray(positive)
