"""Labelled texts that nothing learns from and by which nothing is chosen: how good a model is elsewhere."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.corpus import Corpus, encode_rows
from models.data import class_indices, read_rows, spaceless
from models.metrics import Integers, Metrics, measure
from models.settings import TrainingSettings

Predict = Callable[[Sequence[Sequence[int]]], npt.NDArray[np.float64]]
"""Scores ``[sequences, classes]`` of token id sequences."""


class HeldOut(NamedTuple):
    """Those of one file that are nowhere else in the corpus, as token ids, and their classes."""

    name: str
    sequences: list[list[int]]
    targets: Integers
    known: int
    """Rows that were left out."""


class HeldOutScore(NamedTuple):
    name: str
    known: int
    metrics: Metrics


def read_held_out(settings: TrainingSettings, corpus: Corpus) -> list[HeldOut]:
    """One for each file of `settings.test`. Raises DataError, also where nothing is left of one."""
    seen = {spaceless(text) for text in (*corpus.texts, *corpus.held)}
    found = []
    for path in settings.test:
        rows = read_rows([path], settings.text_column, settings.label_column, settings.label_map)
        kept = [row for row in rows if spaceless(row.text) not in seen]
        if not kept:
            raise rows[0].error("every text of this file is in the other files too: give --test others")
        targets = np.array(class_indices(kept, corpus.labels))
        found.append(HeldOut(path.name, encode_rows(corpus.tokenizer, kept), targets, len(rows) - len(kept)))
    return found


def score_held_out(held_out: HeldOut, predict: Predict) -> HeldOutScore:
    return HeldOutScore(held_out.name, held_out.known, measure(held_out.targets, predict(held_out.sequences)))
