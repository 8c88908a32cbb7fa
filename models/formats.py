"""Records of CSV, TSV, JSON lines and Parquet files: row number, text and label as the file has them. No torch.

A row's number is that of its first line in a text file (a header is line 1) and counts from 1 in Parquet.
"""

import contextlib
import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

Records = Iterator[tuple[int, object, object]]


class DataError(ValueError):
    """Data that cannot be used as it is."""

    def __init__(self, path: Path, reason: str, row: int | None = None) -> None:
        super().__init__(f"{path}: {reason}" if row is None else f"{path}, row {row}: {reason}")


def read_records(path: Path, text_column: str, label_column: str) -> Records:
    """Raises DataError when the file cannot be read or a row is not of the file's form."""
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    readers: dict[str, Callable[[Path, str, str], Records]] = {
        ".csv": _csv,
        ".tsv": _tsv,
        ".jsonl": _json_lines,
        ".parquet": _parquet,
    }
    reader = readers.get(plain.suffix)
    if reader is None or (reader is _parquet and plain != path):
        raise DataError(
            path, "unknown suffix: rename it to what it holds, .csv, .tsv or .jsonl (each plain or .gz) or .parquet"
        )
    with _readable(path):
        yield from reader(path, text_column, label_column)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(path, "no such file: check --data") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(path, f"is not a whole gzip file ({error}): fetch it again") from error
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror}): check --data") from error


def _lines(path: Path) -> Iterator[str]:
    """Lines of a text file with their ends; one by one, so that an undecodable byte has a line number."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                byte = f"byte 0x{line[error.start]:02x} at {error.start + 1}"
                raise DataError(path, f"is not UTF-8 ({byte}): convert it, as with iconv -t UTF-8", number) from None


def _csv(path: Path, text_column: str, label_column: str) -> Records:
    csv.field_size_limit(2**31 - 1)
    yield from _table(path, _csv_rows(path), text_column, label_column)


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(_lines(path), strict=True)
    start = 1
    try:
        for fields in reader:
            yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(path, f"is not CSV ({error}): quote fields in pairs of double quotes", start) from error


def _tsv(path: Path, text_column: str, label_column: str) -> Records:
    """GLUE's form: plain tabs, a quote is a character like any other."""
    lines = enumerate(_lines(path), start=1)
    rows = ((number, line.rstrip("\r\n").split("\t") if line.strip("\r\n") else []) for number, line in lines)
    yield from _table(path, rows, text_column, label_column)


def _table(path: Path, rows: Iterator[tuple[int, list[str]]], text_column: str, label_column: str) -> Records:
    _, header = next(rows, (1, []))
    if not header:
        raise DataError(path, "is empty or has no header: name the columns in its first line", 1)
    text, label = (_position(path, header, column, 1) for column in (text_column, label_column))
    for number, fields in rows:
        if not fields:  # a blank line
            continue
        if len(fields) != len(header):
            reason = f"has {len(fields)} fields, the header {len(header)}: mend the row, quotes and separators included"
            raise DataError(path, reason, number)
        yield number, fields[text], fields[label]


def _position(path: Path, columns: Sequence[str], column: str, row: int | None) -> int:
    if column not in columns:
        choice = f"choose with --text-column and --label-column from {', '.join(columns)}"
        raise DataError(path, f"has no column {column!r}: {choice}", row)
    return columns.index(column)


def _json_lines(path: Path, text_column: str, label_column: str) -> Records:
    first = True
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(path, f"is not JSON ({error}): write one object a line", number) from error
        if not isinstance(record, dict):
            raise DataError(path, "is not a JSON object: write one object a line", number)
        if first:
            for column in (text_column, label_column):
                _position(path, list(record), column, number)
            first = False
        yield number, record.get(text_column), record.get(label_column)


def _parquet(path: Path, text_column: str, label_column: str) -> Records:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise DataError(path, "needs pyarrow to be read: pip install 'lstm-serve[train]'") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for column in (text_column, label_column):
                _position(path, file.schema_arrow.names, column, None)
            for batch in file.iter_batches(columns=[text_column, label_column]):
                texts, labels = batch.column(text_column), batch.column(label_column)
                for text, label in zip(texts, labels, strict=True):
                    number += 1
                    yield number, text.as_py(), label.as_py()
    except UnicodeDecodeError:
        raise DataError(path, "the text is not UTF-8: mend or remove the row", number) from None
    except pa.ArrowException as error:
        raise DataError(path, f"is not a whole Parquet file ({str(error).splitlines()[0]}): write it again") from error
