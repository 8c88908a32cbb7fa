"""Labels and scores of logits, by every output rule."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import ModelConfig, Output
from service.verdict import verdicts, winning_logits
from tests.tiny import tiny_config

LABELS = ("a", "b", "c")
ROWS = st.lists(st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=3), max_size=5)


def config(output: Output, temperature: float = 1.0) -> ModelConfig:
    labels = LABELS[:2] if output == "binary" else LABELS
    return tiny_config(labels=labels, output=output, temperature=temperature)


@given(ROWS, st.sampled_from([0.5, 1.0, 3.0]))
def test_softmax(rows: list[list[float]], temperature: float) -> None:
    found = verdicts(rows, config("softmax", temperature))
    assert len(found) == len(rows)
    for row, verdict in zip(rows, found, strict=True):
        weights = [math.exp((logit - max(row)) / temperature) for logit in row]
        assert list(verdict.scores) == list(LABELS)
        assert list(verdict.scores.values()) == pytest.approx([weight / sum(weights) for weight in weights])
        assert verdict.scores[verdict.label] == max(verdict.scores.values())


@given(ROWS, st.sampled_from([0.5, 1.0, 3.0]))
def test_sigmoid_judges_each_label_by_itself(rows: list[list[float]], temperature: float) -> None:
    for row, verdict in zip(rows, verdicts(rows, config("sigmoid", temperature)), strict=True):
        assert list(verdict.scores.values()) == pytest.approx(
            [1 / (1 + math.exp(-logit / temperature)) for logit in row]
        )
        assert verdict.scores[verdict.label] == max(verdict.scores.values())


@given(st.floats(-50, 50, width=32), st.sampled_from([0.5, 1.0, 3.0]))
def test_binary_makes_two_labels_of_one_logit(logit: float, temperature: float) -> None:
    ((label, scores),) = verdicts([[logit]], config("binary", temperature))
    assert scores["b"] == pytest.approx(1 / (1 + math.exp(-logit / temperature)))
    assert sum(scores.values()) == pytest.approx(1)
    assert label == ("b" if scores["b"] > scores["a"] else "a")


def test_the_first_of_equal_labels_wins() -> None:
    assert [verdict.label for verdict in verdicts([[1, 1, 1], [0, 2, 2]], config("softmax"))] == ["a", "b"]


def test_nothing_gives_nothing() -> None:
    assert verdicts([], config("softmax")) == []


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "binary"])
def test_the_logit_that_speaks_for_a_label(output: Output) -> None:
    chosen = config(output)
    rows = [[-2.0], [0.5], [3.0]] if output == "binary" else [[-2.0, 1.0, 0.0], [0.5, 0.0, 4.0], [3.0, -1.0, 2.0]]
    for winner in range(len(chosen.labels)):
        if output == "binary":
            expected = [2.0, -0.5, -3.0] if winner == 0 else [-2.0, 0.5, 3.0]
        else:
            expected = [row[winner] for row in rows]
        assert winning_logits(rows, winner, chosen) == expected
