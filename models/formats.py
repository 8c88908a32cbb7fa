"""Records of CSV, TSV, JSON lines and Parquet files: row number, text and label as the file has them. No torch.

A row's number is that of its first line in a text file (a header is line 1) and counts from 1 in Parquet.
"""

import contextlib
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

Records = Iterator[tuple[int, object, object]]
Rows = Iterator[tuple[int, list[str]]]
"""Numbers and fields."""
Objects = Iterator[tuple[int, str, dict[str, object]]]
"""Numbers, lines and the JSON objects in them."""


class DataError(ValueError):
    """Data that cannot be used as it is."""

    def __init__(self, path: Path, reason: str, row: int | None = None) -> None:
        super().__init__(f"{path}: {reason}" if row is None else f"{path}, row {row}: {reason}")


def form_of(path: Path) -> str:
    """``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``, without the ``.gz``. Raises DataError."""
    plain = path.with_suffix("") if is_gzip(path) else path
    form = plain.suffix.lower()
    if form in (".csv", ".tsv", ".jsonl") or (form == ".parquet" and plain == path):
        return form
    raise DataError(
        path, "unknown suffix: rename it to what it holds, .csv, .tsv or .jsonl (each plain or .gz) or .parquet"
    )


def is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def read_records(path: Path, text_column: str, label_column: str) -> Records:
    """A column may be several names with commas between them: the first of them that the file has.

    Raises DataError when the file cannot be read or a row is not of the file's form.
    """
    readers: dict[str, Callable[[Path, str, str], Records]] = {
        ".csv": _csv,
        ".tsv": _tsv,
        ".jsonl": _json_lines,
        ".parquet": _parquet,
    }
    reader = readers[form_of(path)]
    with readable(path):
        yield from reader(path, text_column, label_column)


@contextlib.contextmanager
def readable(path: Path, option: str = "--data") -> Iterator[None]:
    """Turns what goes wrong while a file is read into a DataError; `option` named the file."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(path, f"no such file: check {option}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(path, f"is not a whole gzip file ({error}): fetch it again") from error
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror}): check {option}") from error


class Lines(Iterator[str]):
    """Lines of a text file, plain or .gz, with their ends; one by one, so that an undecodable byte has a line number.

    `number` is that of the last line, `offset` where it ends: bytes of the text, not of the .gz.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._raw = path.open("rb")
        self._file: io.BufferedReader | gzip.GzipFile = gzip.GzipFile(fileobj=self._raw) if is_gzip(path) else self._raw
        self.number = self.offset = 0

    def __next__(self) -> str:
        if not (line := self._file.readline()):
            raise StopIteration
        self.number += 1
        self.offset += len(line)
        try:
            return line.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = f"byte 0x{line[error.start]:02x} at {error.start + 1}"
            reason = f"is not UTF-8 ({byte}): convert it, as with iconv -t UTF-8"
            raise DataError(self._path, reason, self.number) from None

    def seek(self, number: int, offset: int) -> None:
        """Goes on behind the line of that number, which ends there."""
        self._file.seek(offset)
        self.number, self.offset = number, offset

    @property
    def bytes_read(self) -> int:
        """Of the file as it is on disk."""
        return self._raw.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._raw.close()


def _csv(path: Path, text_column: str, label_column: str) -> Records:
    with Lines(path) as lines:
        yield from _table(path, csv_rows(path, lines), text_column, label_column)


def csv_rows(path: Path, lines: Lines) -> Rows:
    """Takes no more lines than the rows that it has given."""
    csv.field_size_limit(2**31 - 1)
    start = lines.number + 1
    try:
        for fields in csv.reader(lines, strict=True):
            yield start, fields
            start = lines.number + 1
    except csv.Error as error:
        raise DataError(path, f"is not CSV ({error}): quote fields in pairs of double quotes", start) from error


def _tsv(path: Path, text_column: str, label_column: str) -> Records:
    with Lines(path) as lines:
        yield from _table(path, tsv_rows(lines), text_column, label_column)


def tsv_rows(lines: Lines) -> Rows:
    """GLUE's form: plain tabs, a quote is a character like any other."""
    for line in lines:
        yield lines.number, line.rstrip("\r\n").split("\t") if line.strip("\r\n") else []


def _table(path: Path, rows: Rows, text_column: str, label_column: str) -> Records:
    header = read_header(path, rows)
    text, label = (position(path, header, one_of(column, header), 1) for column in (text_column, label_column))
    for number, fields in whole_rows(path, rows, len(header)):
        yield number, fields[text], fields[label]


def read_header(path: Path, rows: Rows) -> list[str]:
    """Names of the columns. Raises DataError."""
    _, header = next(rows, (1, []))
    if not header:
        raise DataError(path, "is empty or has no header: name the columns in its first line", 1)
    return header


def whole_rows(path: Path, rows: Rows, columns: int) -> Rows:
    """The rows that are no blank lines. Raises DataError for one that has not that many fields."""
    for number, fields in rows:
        if not fields:
            continue
        if len(fields) != columns:
            reason = f"has {len(fields)} fields, the header {columns}: mend the row, quotes and separators included"
            raise DataError(path, reason, number)
        yield number, fields


def one_of(column: str, columns: Sequence[str]) -> str:
    """The first of the names in `column` that is among the `columns`, or what stands there."""
    return next((name for name in [column, *column.split(",")] if name in columns), column)


def position(
    path: Path,
    columns: Sequence[str],
    column: str,
    row: int | None,
    options: str = "--text-column and --label-column",
) -> int:
    """Where the column stands. Raises DataError, naming the `options` that choose it."""
    if column not in columns:
        reason = f"has no column {column!r}: choose with {options} from {', '.join(columns)}"
        if len(columns) == 1 and (mark := next((mark for mark in ";\t,|" if mark in columns[0]), None)):
            reason += f"; if {mark!r} separates columns there, convert the file: .csv has ',', .tsv has '\\t'"
        raise DataError(path, reason, row)
    if columns.count(column) > 1:
        raise DataError(path, f"has {columns.count(column)} columns {column!r}: rename or remove all but one", row)
    return columns.index(column)


def _json_lines(path: Path, text_column: str, label_column: str) -> Records:
    first = True
    with Lines(path) as lines:
        for number, _, record in json_objects(path, lines):
            if first:
                text_column, label_column = (one_of(column, list(record)) for column in (text_column, label_column))
                for column in (text_column, label_column):
                    position(path, list(record), column, number)
                first = False
            yield number, record.get(text_column), record.get(label_column)


def json_objects(path: Path, lines: Lines) -> Objects:
    """One a line that is not blank. Raises DataError."""
    for line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(path, f"is not JSON ({error}): write one object a line", lines.number) from error
        if not isinstance(record, dict):
            raise DataError(path, "is not a JSON object: write one object a line", lines.number)
        yield lines.number, line, record


def _parquet(path: Path, text_column: str, label_column: str) -> Records:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise DataError(path, "needs pyarrow to be read: pip install 'lstm-serve[train]'") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            text_column, label_column = (one_of(column, names) for column in (text_column, label_column))
            for column in (text_column, label_column):
                position(path, names, column, None)
            for batch in file.iter_batches(columns=[text_column, label_column]):
                texts, labels = batch.column(text_column), batch.column(label_column)
                for text, label in zip(texts, labels, strict=True):
                    number += 1
                    yield number, text.as_py(), label.as_py()
    except UnicodeDecodeError:
        raise DataError(path, "the text is not UTF-8: mend or remove the row", number) from None
    except pa.ArrowException as error:
        raise DataError(path, f"is not a whole Parquet file ({str(error).splitlines()[0]}): write it again") from error


def as_text(path: Path, number: int, value: object) -> str:
    """The value of a text column. Raises DataError, naming the row, where it is no text."""
    if not isinstance(value, str):
        kind = "missing" if value is None else f"of type {type(value).__name__}"
        raise DataError(path, f"the text is {kind}, not text: mend or remove the row", number)
    return encodable(path, number, value)


def encodable(path: Path, number: int, value: str) -> str:
    """The string itself. Raises DataError where it cannot be written as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(path, "holds half of a surrogate pair (\\ud800 to \\udfff): mend the row", number) from None
    return value
