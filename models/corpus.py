"""Labelled rows as a network reads them: token ids, true classes, and the split for training. No torch."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.data import Row, class_indices, class_names, read_rows, read_texts, spaceless, split_rows
from models.encoder import Encoder
from models.formats import DataError
from models.metrics import Integers
from models.options import VOCAB_SIZE
from models.settings import SettingsError, TrainingSettings
from models.tokenizer import Tokenizer


class Part(NamedTuple):
    """One side of the split: token ids, as many as the model reads, and true classes ``[rows]``."""

    sequences: list[Integers]
    targets: Integers


class Corpus(NamedTuple):
    labels: tuple[str, ...]
    tokenizer: Tokenizer
    training: Part
    validation: Part
    unlabelled: list[Integers]
    """Of the texts without labels that have tokens, none of which is in the validation part."""
    texts: list[str]
    """Those of the training part, then those without labels."""
    held: list[str]
    """Those of the validation part."""


def read_corpus(settings: TrainingSettings, encoder: Encoder | None = None) -> Corpus:
    """Reads, splits, learns the vocabulary without the validation part, or takes the encoder's, and encodes.

    Raises DataError, and SettingsError where the encoder's vocabulary cannot be made smaller.
    """
    rows = read_rows(settings.data, settings.text_column, settings.label_column, settings.label_map)
    labels = choose_labels(settings, rows)
    parts = split_rows(rows, settings.validation, settings.seed)
    held = {spaceless(rows[index].text) for index in parts[1]}
    also = read_rows(settings.also, settings.text_column, settings.label_column, settings.label_map)
    also = [row for row in also if spaceless(row.text) not in held]
    parts[0].extend(range(len(rows), len(rows) + len(also)))
    rows += also
    targets = np.array(class_indices(rows, labels))
    texts = [text for text in read_texts(settings.pretrain, settings.text_column) if spaceless(text) not in held]
    tokenizer = choose_tokenizer(settings, encoder, [*(rows[index].text for index in parts[0]), *texts])
    sequences = [np.array(tokens[: settings.max_length]) for tokens in encode_rows(tokenizer, rows)]
    training, validation = (Part([sequences[index] for index in part], targets[part]) for part in parts)
    for index, label in enumerate(labels):
        if index not in training.targets:
            raise DataError(
                rows[0].path, f"no row of class {label!r} is left for training: give more, or fewer --labels"
            )
    encoded = [(text, tokens) for text, tokens in zip(texts, tokenizer.encode(texts), strict=True) if tokens]
    unlabelled = [np.array(tokens[: settings.max_length]) for _, tokens in encoded]
    if settings.learns_language and sum(map(len, unlabelled)) < settings.pretrain_window:
        raise DataError(
            settings.pretrain[0], "has fewer tokens than --pretrain-window: give more texts, or a shorter window"
        )
    texts = [*(rows[index].text for index in parts[0]), *(text for text, _ in encoded)]
    return Corpus(labels, tokenizer, training, validation, unlabelled, texts, [rows[index].text for index in parts[1]])


def choose_tokenizer(settings: TrainingSettings, encoder: Encoder | None, texts: Sequence[str]) -> Tokenizer:
    """Raises SettingsError."""
    if encoder is None:
        return Tokenizer.train(texts, settings.vocab_size or VOCAB_SIZE, settings.min_count)
    if settings.vocab_size is None or settings.vocab_size >= encoder.tokenizer.vocab_size:
        return encoder.tokenizer
    try:
        return encoder.tokenizer.trimmed(texts, settings.vocab_size, encoder.config.pad_id)
    except ValueError as error:
        raise SettingsError(f"--vocab-size {settings.vocab_size}: the vocabulary of --encoder {error}") from None


def choose_labels(settings: TrainingSettings, rows: Sequence[Row]) -> tuple[str, ...]:
    """The classes in the order of their indices. Raises DataError."""
    present = class_names(rows)
    if unused := sorted(set(settings.label_map.values()) - set(present)):
        shown = ", ".join(present[:10]) + (f" and {len(present) - 10} more" if len(present) > 10 else "")
        raise DataError(rows[0].path, f"--label-map makes no row {unused[0]!r}: the labels are {shown}")
    labels = settings.labels or present
    found = set(class_indices(rows, labels))
    if len(found) == 1:
        raise DataError(rows[0].path, f"has one class only, {labels[found.pop()]!r}: give rows of at least two")
    return labels


def encode_rows(tokenizer: Tokenizer, rows: Sequence[Row]) -> list[list[int]]:
    """Token ids of each row's text, one or more. Raises DataError."""
    encoded = tokenizer.encode([row.text for row in rows])
    for row, tokens in zip(rows, encoded, strict=True):
        if not tokens:
            raise row.error("the text has no tokens for this tokenizer: mend or remove the row")
    return encoded


def file_digest(path: Path, option: str = "--data") -> str:
    """SHA-256 in hexadecimal; `option` named the file. Raises DataError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror}): check {option}") from None
