"""Labelled texts, their classes and their split. No torch."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.formats import DataError, as_text, encodable, read_records


class Row(NamedTuple):
    path: Path
    number: int
    text: str
    label: str

    def error(self, reason: str) -> DataError:
        return DataError(self.path, reason, self.number)


def read_rows(
    paths: Sequence[Path], text_column: str, label_column: str, label_map: Mapping[str, str] | None = None
) -> list[Row]:
    """All rows of the files, in order; `label_map` renames labels. Raises DataError."""
    rename = label_map or {}
    rows: list[Row] = []
    for path in paths:
        before = len(rows)
        for number, text, label in read_records(path, text_column, label_column):
            rows.append(Row(path, number, _text(path, number, text), _label(path, number, label)))
        if len(rows) == before:
            raise DataError(path, "has no rows: give a file with at least one labelled text")
    return [row._replace(label=rename.get(row.label, row.label)) for row in rows]


def read_texts(paths: Sequence[Path], text_column: str) -> list[str]:
    """All texts of the files, in order; labels are not looked at. Raises DataError."""
    return [
        _text(path, number, text) for path in paths for number, text, _ in read_records(path, text_column, text_column)
    ]


def class_names(rows: Iterable[Row]) -> tuple[str, ...]:
    """The distinct labels, sorted; as numbers where all are integers."""
    names = {row.label for row in rows}
    if all(re.fullmatch(r"-?[0-9]+", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def class_indices(rows: Iterable[Row], names: Sequence[str]) -> list[int]:
    """Each row's class; a label is a class name or, where it is none, a class index. Raises DataError."""
    known = {name: index for index, name in enumerate(names)}
    indices = {str(index): index for index in range(len(names))} | known
    try:
        return [indices[(row := each).label] for each in rows]
    except KeyError:
        raise row.error(
            f"unknown label {row.label!r}: the classes are {', '.join(names)} or 0 to {len(names) - 1}; "
            f"rename it with --label-map {row.label}=CLASS"
        ) from None


def split_rows(rows: Sequence[Row], validation: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the training and of the validation part, each in ascending order.

    `validation` is a number of rows, or below 1 the fraction of all rows. Texts that differ at most in white space
    fall on one side: groups of them are taken in an order drawn by `seed` while they fit, so the part is smaller than
    asked for only where every group left is larger than what is missing. Raises DataError when a part is empty.
    """
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(spaceless(row.text), []).append(index)
    wanted = round(validation * len(rows)) if validation < 1 else int(validation)
    shuffled = list(groups.values())
    kept: set[int] = set()
    for number in np.random.default_rng(seed).permutation(len(shuffled)):
        if len(kept) + len(shuffled[number]) <= wanted:
            kept.update(shuffled[number])
    if not 0 < len(kept) < len(rows):
        reason = f"{len(rows) - len(kept)} of {len(rows)} rows are left for training and {len(kept)} for validation"
        raise DataError(rows[0].path, f"{reason}: give more rows with different texts, or change --validation")
    return [index for index in range(len(rows)) if index not in kept], sorted(kept)


def spaceless(text: str) -> str:
    """The same for texts that differ at most in white space."""
    return " ".join(text.split())


def _text(path: Path, number: int, value: object) -> str:
    text = as_text(path, number, value)
    if not text.strip():
        raise DataError(path, "the text is empty: mend or remove the row", number)
    return text


def _label(path: Path, number: int, value: object) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise DataError(path, "the label is missing: mend or remove the row", number)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(path, f"the label is {_kind(value)}, neither text nor an integer: mend the row", number)
    return encodable(path, number, str(value).strip())


def _kind(value: object) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"
