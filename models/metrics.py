"""How good predictions are, from labels and scores. Plain numpy."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

CALIBRATION_BINS = 15


class Metrics(NamedTuple):
    """`confusion` ``[classes, classes]`` counts rows by true class, then predicted class; per-class values
    ``[classes]``. A precision, recall or F1 whose denominator is zero is 0."""

    rows: int
    accuracy: float
    macro_f1: float
    log_loss: float
    expected_calibration_error: float
    precision: Floats
    recall: Floats
    f1: Floats
    support: Integers
    confusion: Integers

    def to_json(self, labels: Sequence[str]) -> dict[str, object]:
        """As plain data, with the classes by name."""
        columns = zip(labels, *(values.tolist() for values in self[5:9]), strict=True)
        names = ("label", "precision", "recall", "f1", "support")
        return {
            **dict(zip(self._fields[:5], self[:5], strict=True)),
            "classes": [dict(zip(names, column, strict=True)) for column in columns],
            "confusion": self.confusion.tolist(),
        }


def measure(labels: Integers, scores: Floats) -> Metrics:
    """Metrics of `scores` ``[rows, classes]``, each row summing to 1, against the true classes `labels` ``[rows]``.

    The prediction is the class with the highest score, the first of equals. Macro F1 is the mean over the classes
    that occur among labels or predictions.
    """
    classes = scores.shape[1]
    predicted = scores.argmax(axis=1)
    confusion = np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    hits = confusion.diagonal()
    support, chosen = confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = _ratio(2 * hits, support + chosen)
    return Metrics(
        rows=len(labels),
        accuracy=float(np.mean(predicted == labels)),
        macro_f1=float(f1[support + chosen > 0].mean()),
        log_loss=log_loss(labels, scores),
        expected_calibration_error=expected_calibration_error(labels, scores),
        precision=_ratio(hits, chosen),
        recall=_ratio(hits, support),
        f1=f1,
        support=support,
        confusion=confusion,
    )


def log_loss(labels: Integers, scores: Floats) -> float:
    """Mean negative natural logarithm of the true class's score, scores no smaller than the smallest float64."""
    true = scores[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(true, np.finfo(np.float64).tiny)).mean())


class Bins(NamedTuple):
    """Rows by the top score, in bins of equal width ``[bins]``; an empty bin has means of 0."""

    rows: Integers
    confidence: Floats
    """Mean top score."""
    accuracy: Floats

    @property
    def error(self) -> float:
        """Mean distance of confidence and accuracy, weighted by the rows (Guo et al. 2017)."""
        return float(self.rows @ np.abs(self.confidence - self.accuracy) / self.rows.sum())


def calibration_bins(labels: Integers, scores: Floats, bins: int = CALIBRATION_BINS) -> Bins:
    """Bins are open below and closed above."""
    confidence = scores.max(axis=1)
    correct = scores.argmax(axis=1) == labels
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    rows = np.bincount(number, minlength=bins)
    sums = (np.bincount(number, weights=weights, minlength=bins) for weights in (confidence, correct))
    return Bins(rows, *(total / np.maximum(rows, 1) for total in sums))


def expected_calibration_error(labels: Integers, scores: Floats, bins: int = CALIBRATION_BINS) -> float:
    """That of the bins."""
    return calibration_bins(labels, scores, bins).error


def _ratio(numerator: Integers, denominator: Integers) -> Floats:
    ratio: Floats = numerator / np.maximum(denominator, 1)
    return ratio
