"""Labelled texts that nothing learns from and by which nothing is chosen: how good a model is elsewhere."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.corpus import Corpus, encode_rows
from models.data import Row, class_indices, read_rows, spaceless
from models.metrics import Integers, Metrics, measure
from models.settings import TrainingSettings

Predict = Callable[[Sequence[Sequence[int]]], npt.NDArray[np.float64]]
"""Scores ``[sequences, classes]`` of token id sequences."""


class HeldOut(NamedTuple):
    """Those of one file that are in no part of the corpus that has labels."""

    name: str
    rows: list[Row]
    targets: Integers
    known: int
    """Rows that were left out."""


class HeldOutScore(NamedTuple):
    name: str
    known: int
    metrics: Metrics


def read_held_out(settings: TrainingSettings, corpus: Corpus) -> list[HeldOut]:
    """One for each file of `settings.test`. Raises DataError, also where nothing is left of one."""
    seen = {spaceless(text) for text in corpus.labelled}
    found = []
    for path in settings.test:
        rows = read_rows([path], settings.text_column, settings.label_column, settings.label_map)
        kept = [row for row in rows if spaceless(row.text) not in seen]
        if not kept:
            raise rows[0].error("every text of this file is among those of --data or --also: give --test others")
        targets = np.array(class_indices(kept, corpus.labels))
        found.append(HeldOut(path.name, kept, targets, len(rows) - len(kept)))
    return found


def score_held_out(held_out: HeldOut, corpus: Corpus, predict: Predict) -> HeldOutScore:
    """Raises DataError for a text without tokens."""
    predicted = predict(encode_rows(corpus.tokenizer, held_out.rows))
    return HeldOutScore(held_out.name, held_out.known, measure(held_out.targets, predicted))
