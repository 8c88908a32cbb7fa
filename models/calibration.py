"""A temperature for a model's logits, so that its scores say how often they are right. Plain numpy."""

import math
from typing import NamedTuple

import numpy as np

from models.config import ModelConfig
from models.metrics import Bins, Integers, calibration_bins, expected_calibration_error
from models.scores import Floats, scores

RANGE = 0.05, 20.0
"""Of temperatures."""
STEPS = 60
"""Of the search: each leaves 62 % of the range of the logarithm."""


class Calibration(NamedTuple):
    """A temperature, and what it did to the rows that did not choose it."""

    temperature: float
    before: float
    """Expected calibration error at temperature 1."""
    bins: Bins
    """At the temperature."""

    @property
    def rows(self) -> int:
        return int(self.bins.rows.sum())

    @property
    def after(self) -> float:
        """Expected calibration error at the temperature."""
        return self.bins.error


def calibrate(logits: Floats, labels: Integers, config: ModelConfig, seed: int) -> Calibration:
    """Fits a temperature on one half of the rows, drawn by the seed, and judges it on the other.

    `logits` ``[rows, num_logits]`` of the rows' true classes `labels` ``[rows]``; of a single row it learns nothing.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    fitted, judged = np.split(order, [len(labels) // 2])
    temperature = fit_temperature(logits[fitted], labels[fitted], config) if len(fitted) else 1.0
    plain, divided = (
        scores(logits[judged], config.model_copy(update={"temperature": each})) for each in (1.0, temperature)
    )
    return Calibration(
        temperature,
        expected_calibration_error(labels[judged], plain),
        calibration_bins(labels[judged], divided),
    )


def fit_temperature(logits: Floats, labels: Integers, config: ModelConfig) -> float:
    """The temperature of least log loss (Guo et al. 2017, section 4.2), to four digits.

    Each row counts by 1 / (rows + 2) for the other classes (as Platt 1999 has it): without that few rows, none of them
    wrong, would ask for scores of 0 and 1. By golden section search, since the loss has one minimum in the temperature.
    """
    doubt = 1 / (len(labels) + 2)

    def loss(logarithm: float) -> float:
        logs = np.log(
            np.maximum(
                scores(logits, config.model_copy(update={"temperature": math.exp(logarithm)})),
                np.finfo(np.float64).tiny,
            )
        )
        true = logs[np.arange(len(labels)), labels]
        others = (logs.sum(axis=1) - true) / (logs.shape[1] - 1)
        return float(-((1 - doubt) * true + doubt * others).mean())

    low, high = map(math.log, RANGE)
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return float(f"{math.exp((low + high) / 2):.4g}")
