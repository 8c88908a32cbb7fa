"""Minimal pairs: two texts that differ in little but in their class, where counting words does not help. No torch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from models.corpus import encode_rows
from models.data import class_indices, read_rows
from models.metrics import Integers
from models.tokenizer import Tokenizer

Predict = Callable[[Sequence[Sequence[int]]], Integers]
"""Classes ``[sequences]`` of token id sequences."""


class Pairs(NamedTuple):
    """The pairs of one file: rows 1 and 2, 3 and 4, ..."""

    name: str
    sequences: list[list[int]]
    targets: list[int]


class PairScore(NamedTuple):
    name: str
    right: int
    """Pairs of which both texts got their class."""
    pairs: int


def read_pairs(paths: Sequence[Path], labels: Sequence[str], tokenizer: Tokenizer) -> list[Pairs]:
    """Files with the columns text and label, in which each two rows that follow each other are a pair.

    Raises DataError, also where the two have one class, a row is alone or a text has no tokens.
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
        found.append(Pairs(path.name.partition(".")[0], encode_rows(tokenizer, rows), targets))
    return found


def score_pairs(pairs: Pairs, predict: Predict) -> PairScore:
    right = (predict(pairs.sequences) == pairs.targets).reshape(-1, 2).all(axis=1)
    return PairScore(pairs.name, int(right.sum()), len(right))
