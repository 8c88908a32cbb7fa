"""What logits say: a label and the scores of all labels."""

from typing import NamedTuple

import numpy as np

from models.config import ModelConfig
from models.scores import scores


class Verdict(NamedTuple):
    """The label of the highest score, and the score of every label."""

    label: str
    scores: dict[str, float]


def verdicts(logits: list[list[float]], config: ModelConfig) -> list[Verdict]:
    """Of each row of logits ``[rows, num_logits]``; scores are after temperature."""
    if not logits:
        return []
    rows = scores(np.array(logits), config)
    winners = rows.argmax(axis=1)
    return [
        Verdict(config.labels[winner], dict(zip(config.labels, row, strict=True)))
        for winner, row in zip(winners.tolist(), rows.tolist(), strict=True)
    ]


def winning_logits(logits: list[list[float]], winner: int, config: ModelConfig) -> list[float]:
    """The logit that speaks for the label of that index, in each row; output binary has one logit for two labels."""
    if config.output == "binary":
        return [row[0] if winner else -row[0] for row in logits]
    return [row[winner] for row in logits]


def label_logits(logits: list[list[float]], config: ModelConfig) -> list[dict[str, float]]:
    """The logit that speaks for each label, in each row."""
    columns = [winning_logits(logits, index, config) for index in range(len(config.labels))]
    return [dict(zip(config.labels, row, strict=True)) for row in zip(*columns, strict=True)]
