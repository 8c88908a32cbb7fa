"""Minimal pairs: two texts that differ in little but in their class, where counting words does not help. No torch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from models.corpus import encode_rows
from models.data import Row, class_indices, read_rows
from models.metrics import Integers
from models.tokenizer import Tokenizer

Predict = Callable[[Sequence[Sequence[int]]], Integers]
"""Classes ``[sequences]`` of token id sequences."""


class Pairs(NamedTuple):
    """The pairs of one file: rows 1 and 2, 3 and 4, ..."""

    name: str
    rows: list[Row]
    targets: list[int]


class PairScore(NamedTuple):
    name: str
    right: int
    """Pairs of which both texts got their class."""
    pairs: int


def read_pairs(paths: Sequence[Path], labels: Sequence[str]) -> list[Pairs]:
    """Files with the columns text and label, in which each two rows that follow each other are a pair.

    Raises DataError, also where the two have one class or a row is alone.
    """
    found = []
    for path in paths:
        rows = read_rows([path], "text", "label")
        targets = class_indices(rows, labels)
        if len(rows) % 2:
            raise rows[-1].error("has no second text: a pair is two rows that follow each other")
        for first in range(0, len(rows), 2):
            if targets[first] == targets[first + 1]:
                raise rows[first + 1].error("has the class of the row before it: the texts of a pair differ in theirs")
        found.append(Pairs(path.name.partition(".")[0], rows, targets))
    return found


def score_pairs(pairs: Pairs, tokenizer: Tokenizer, predict: Predict) -> PairScore:
    """Raises DataError for a text without tokens."""
    predicted = predict(encode_rows(tokenizer, pairs.rows))
    right = (predicted == pairs.targets).reshape(-1, 2).all(axis=1)
    return PairScore(pairs.name, int(right.sum()), len(right))
