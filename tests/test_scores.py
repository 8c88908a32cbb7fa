import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.config import ModelConfig, Output
from models.scores import scores

LARGEST = float(np.finfo(np.float32).max)
logits32 = st.floats(-LARGEST, LARGEST, width=32) | st.floats(-30, 30, width=32)
temperatures = st.floats(0.01, 100)


def config_of(output: Output, labels: int, temperature: float = 1.0) -> ModelConfig:
    return ModelConfig(
        vocab_size=2,
        embedding_dim=1,
        hidden_size=1,
        labels=tuple(map(str, range(labels))),
        output=output,
        temperature=temperature,
    )


def exponential(x: float) -> float:
    """e**x; 0 far below, where only the sum's other terms count."""
    return math.exp(x) if x > -745 else 0.0


def reference_softmax(row: list[float], temperature: float) -> list[float]:
    """Differences to the largest logit taken exactly, in rational numbers."""
    exact = [Fraction(logit) / Fraction(temperature) for logit in row]
    terms = [exponential(float(max(logit - max(exact), Fraction(-800)))) for logit in exact]
    return [term / math.fsum(terms) for term in terms]


def reference_sigmoid(logit: float, temperature: float) -> float:
    x = logit / temperature
    return 1 / (1 + exponential(-x)) if x >= 0 else exponential(x) / (1 + exponential(x))


@given(st.lists(st.lists(logits32, min_size=3, max_size=3), min_size=1, max_size=4), temperatures)
@example([[LARGEST, -LARGEST, LARGEST]], 0.01)
@example([[0.0, 0.0, -1e-40]], 1.0)
def test_softmax(rows: list[list[float]], temperature: float) -> None:
    found = scores(np.array(rows, np.float32), config_of("softmax", 3, temperature))
    assert found.dtype == np.float64
    expected = [reference_softmax([float(np.float32(logit)) for logit in row], temperature) for row in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


@given(st.lists(st.lists(logits32, min_size=2, max_size=2), min_size=1, max_size=4), temperatures)
@example([[LARGEST, -LARGEST]], 0.01)
def test_sigmoid_takes_each_label_by_itself(rows: list[list[float]], temperature: float) -> None:
    found = scores(np.array(rows, np.float32), config_of("sigmoid", 2, temperature))
    expected = [[reference_sigmoid(float(np.float32(logit)), temperature) for logit in row] for row in rows]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@given(st.lists(logits32, min_size=1, max_size=4), temperatures)
@example([LARGEST, -LARGEST, 0.0], 0.01)
def test_binary_is_the_sigmoid_of_the_second_label(logits: list[float], temperature: float) -> None:
    found = scores(np.array(logits, np.float32)[:, None], config_of("binary", 2, temperature))
    expected = [reference_sigmoid(float(np.float32(logit)), temperature) for logit in logits]
    assert found.shape == (len(logits), 2)
    np.testing.assert_allclose(found[:, 1], expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


def test_known_values() -> None:
    ln3 = math.log(3)
    np.testing.assert_allclose(scores(np.array([[0.0, ln3]]), config_of("softmax", 2)), [[0.25, 0.75]])
    np.testing.assert_allclose(scores(np.array([[0.0, 2 * ln3]]), config_of("softmax", 2, 2.0)), [[0.25, 0.75]])
    np.testing.assert_allclose(scores(np.array([[ln3, 0.0]]), config_of("sigmoid", 2)), [[0.75, 0.5]])
    np.testing.assert_allclose(scores(np.array([[ln3]]), config_of("binary", 2)), [[0.25, 0.75]])


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "binary"])
def test_no_rows_give_no_scores(output: Output) -> None:
    config = config_of(output, 2)
    assert scores(np.empty((0, config.num_logits), np.float32), config).shape == (0, 2)
