"""Files of texts to score: read in blocks, from any block on, and written with columns added. Memory is a block's."""

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from models.formats import (
    DataError,
    Lines,
    as_text,
    csv_rows,
    json_objects,
    position,
    read_header,
    readable,
    tsv_rows,
    whole_rows,
)

BLOCK_ROWS, BLOCK_BYTES = 4096, 1 << 18
"""A block of a text file ends with the row that reaches one of them; all columns count."""


class Place(NamedTuple):
    """Where a block ends: rows up to there and, in a text file, lines and bytes of the text."""

    rows: int = 0
    line: int = 0
    offset: int = 0


class Block(NamedTuple):
    """Some rows, as their file's form has them, their numbers in messages, and their texts."""

    rows: Any
    numbers: Sequence[int]
    texts: list[str]
    end: Place
    bytes_read: int
    """Of the whole file up to there."""


Values = list[str | float | int | None]
"""Of the added columns, in one row."""


class Form(Protocol):
    """A file as one of the forms has it, and how that form is written. Its methods raise DataError."""

    def blocks(self, start: Place) -> Iterator[Block]:
        """Those behind the one that ends at `start`, with the same ends wherever it starts."""

    def head(self) -> bytes:
        """What is written before the first block."""

    def encode(self, block: Block, added: list[Values]) -> bytes:
        """What is written of a block."""

    def finish(self, partial: Path) -> Path:
        """Makes the file, under a name of its own, of what was written to `partial`: head and all blocks."""


def check_free(path: Path, added: Sequence[str], columns: Sequence[str], row: int | None) -> None:
    """Raises DataError where one of the columns that come is there already."""
    for name in added:
        if name in columns:
            reason = f"has a column {name!r} already: name those that are added with --prefix, as in --prefix model_"
            raise DataError(path, reason, row)


class _Text(ABC):
    def __init__(self, path: Path, text_column: str, added: list[str]) -> None:
        self._path, self._text_column, self._added = path, text_column, added

    @abstractmethod
    def _rows(self, lines: Lines) -> Iterator[tuple[int, Any, object]]:
        """Numbers, rows and texts; what stands before the first row is read by the call."""

    def blocks(self, start: Place) -> Iterator[Block]:
        with readable(self._path, "FILE"), Lines(self._path) as lines:
            rows = self._rows(lines)
            if start.line:
                lines.seek(start.line, start.offset)
            end = start
            while block := self._block(rows, lines, end):
                yield block
                end = block.end

    def _block(self, rows: Iterator[tuple[int, Any, object]], lines: Lines, start: Place) -> Block | None:
        """None at the file's end."""
        kept: list[Any] = []
        numbers: list[int] = []
        texts: list[str] = []
        for number, row, text in rows:
            kept.append(row)
            numbers.append(number)
            texts.append(as_text(self._path, number, text))
            if len(kept) == BLOCK_ROWS or lines.offset - start.offset >= BLOCK_BYTES:
                break
        end = Place(start.rows + len(kept), lines.number, lines.offset)
        return Block(kept, numbers, texts, end, lines.bytes_read) if kept else None

    def head(self) -> bytes:
        return b""

    def finish(self, partial: Path) -> Path:
        return partial


class _Table(_Text):
    def __init__(self, path: Path, text_column: str, added: list[str]) -> None:
        super().__init__(path, text_column, added)
        with Lines(path) as lines:
            self._header = read_header(path, self._fields(lines))
        self._text = position(path, self._header, text_column, 1, "--text-column")
        check_free(path, added, self._header, 1)

    @abstractmethod
    def _fields(self, lines: Lines) -> Iterator[tuple[int, list[str]]]: ...

    @abstractmethod
    def _encode(self, rows: Iterator[list[str]]) -> bytes: ...

    def _rows(self, lines: Lines) -> Iterator[tuple[int, Any, object]]:
        fields = self._fields(lines)
        next(fields)  # the header
        return ((number, row, row[self._text]) for number, row in whole_rows(self._path, fields, len(self._header)))

    def head(self) -> bytes:
        return self._encode(iter([[*self._header, *self._added]]))

    def encode(self, block: Block, added: list[Values]) -> bytes:
        shown = (["" if value is None else str(value) for value in values] for values in added)
        return self._encode([*row, *values] for row, values in zip(block.rows, shown, strict=True))


class CSV(_Table):
    def _fields(self, lines: Lines) -> Iterator[tuple[int, list[str]]]:
        return csv_rows(self._path, lines)

    def _encode(self, rows: Iterator[list[str]]) -> bytes:
        buffer = io.StringIO()
        plain = csv.writer(buffer, lineterminator="\n")
        quoted = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for row in rows:  # a lone \r needs quotes, which older Pythons do not give it
            (quoted if "\r" in "".join(row) else plain).writerow(row)
        return buffer.getvalue().encode()


class TSV(_Table):
    def __init__(self, path: Path, text_column: str, added: list[str]) -> None:
        super().__init__(path, text_column, added)
        if odd := [name for name in added if set("\t\r\n") & set(name)]:
            raise DataError(path, f"a TSV file cannot hold {odd[0]!r}: give CSV, JSON lines or Parquet")

    def _fields(self, lines: Lines) -> Iterator[tuple[int, list[str]]]:
        return tsv_rows(lines)

    def _encode(self, rows: Iterator[list[str]]) -> bytes:
        return "".join("\t".join(row) + "\n" for row in rows).encode()


class JSONLines(_Text):
    def _rows(self, lines: Lines) -> Iterator[tuple[int, Any, object]]:
        first = True
        for number, line, record in json_objects(self._path, lines):
            if first:
                first = False
                position(self._path, list(record), self._text_column, number, "--text-column")
            if not record.keys().isdisjoint(self._added):
                check_free(self._path, self._added, list(record), number)
            yield number, line, record.get(self._text_column)

    def encode(self, block: Block, added: list[Values]) -> bytes:
        """The objects as they stand, numbers and all, with keys before their closing brace."""
        lines = []
        for line, values in zip(block.rows, added, strict=True):
            keys = json.dumps(dict(zip(self._added, values, strict=True)), ensure_ascii=False)
            lines.append(f"{line.rstrip()[:-1].rstrip()}, {keys[1:]}\n")
        return "".join(lines).encode()
