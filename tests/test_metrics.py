import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.metrics import CALIBRATION_BINS, Floats, Integers, measure


@st.composite
def judged(draw: st.DrawFn) -> tuple[Integers, Floats]:
    """True classes and scores; some scores are 0, 1, equal or on a bin's edge."""
    classes = draw(st.integers(2, 4))
    rows = draw(st.integers(1, 40))
    weights = draw(
        st.lists(
            st.lists(st.integers(0, 6), min_size=classes, max_size=classes).filter(any), min_size=rows, max_size=rows
        )
    )
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows))
    scores = np.array(weights, np.float64)
    return np.array(labels), scores / scores.sum(axis=1, keepdims=True)


@given(judged())
def test_all_metrics_agree_with_their_definitions(case: tuple[Integers, Floats]) -> None:
    labels, scores = case
    rows, classes = scores.shape
    predicted = [row.tolist().index(row.max()) for row in scores]
    pairs = list(zip(labels.tolist(), predicted, strict=True))
    metrics = measure(labels, scores)

    assert metrics.rows == rows
    assert metrics.accuracy == pytest.approx(sum(true == chosen for true, chosen in pairs) / rows)
    assert metrics.confusion.tolist() == [
        [pairs.count((true, chosen)) for chosen in range(classes)] for true in range(classes)
    ]
    f1s = []
    for index in range(classes):
        hits = pairs.count((index, index))
        support, chosen = labels.tolist().count(index), predicted.count(index)
        precision = hits / chosen if chosen else 0.0
        recall = hits / support if support else 0.0
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        assert metrics.precision[index] == pytest.approx(precision)
        assert metrics.recall[index] == pytest.approx(recall)
        assert metrics.f1[index] == pytest.approx(f1)
        assert metrics.support[index] == support
        if support or chosen:
            f1s.append(f1)
    assert metrics.macro_f1 == pytest.approx(sum(f1s) / len(f1s))

    losses = [-math.log(max(scores[row, label], np.finfo(float).tiny)) for row, label in enumerate(labels)]
    assert metrics.log_loss == pytest.approx(sum(losses) / rows)

    error = 0.0
    for bin_number in range(CALIBRATION_BINS):
        inside = [row for row in range(rows) if bin_number < scores[row].max() * CALIBRATION_BINS <= bin_number + 1]
        if inside:
            accuracy = sum(labels[row] == predicted[row] for row in inside) / len(inside)
            confidence = sum(scores[row].max() for row in inside) / len(inside)
            error += len(inside) / rows * abs(accuracy - confidence)
    assert metrics.expected_calibration_error == pytest.approx(error)


def test_by_hand() -> None:
    metrics = measure(np.array([0, 0, 1, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]]))
    assert metrics.accuracy == 0.75
    assert metrics.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert metrics.log_loss == pytest.approx(-math.log(0.9 * 0.4 * 0.8 * 0.7) / 4)
    # four bins of one row each: 0.1, 0.6, 0.2 and 0.3 off
    assert metrics.expected_calibration_error == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4)


def test_json_has_the_classes_by_name() -> None:
    document = json.loads(
        json.dumps(measure(np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]])).to_json(["no", "yes"]))
    )
    assert document["classes"] == [
        {"label": "no", "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1},
        {"label": "yes", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
    ]
    assert document["confusion"] == [[1, 0], [1, 0]]
    assert document["rows"] == 2
