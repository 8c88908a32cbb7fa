import gzip
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from models.data import read_rows
from models.formats import DataError
from tests.reviews import reviews, write

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet")


def read(path: Path, text: str = "text", label: str = "label") -> list[tuple[str, str]]:
    return [(row.text, row.label) for row in read_rows([path], text, label)]


def refusal(path: Path, content: bytes | None = None, *, text: str = "text", label: str = "label") -> str:
    """The message with which `path` is refused: one line that starts with the path."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path, text, label)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_rows_that_were_written(tmp_path: Path, suffix: str) -> None:
    rows = reviews(50, 3)
    assert read(write(tmp_path / f"data{suffix}", rows, ("body", "class")), "body", "class") == rows


# what a line of a text file can hold; carriage returns are read as they are inside CSV's quotes
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n"), min_size=1).filter(str.strip)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, st.sampled_from(["a", "b", "3"])), min_size=1, max_size=8))
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_text_is_read_back(tmp_path: Path, suffix: str, rows: list[tuple[str, str]]) -> None:
    assert read(write(tmp_path / f"data{suffix}", rows)) == rows


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_capitals_in_a_suffix_are_free(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"data{suffix}", reviews(3))
    assert read(path.rename(tmp_path / f"DATA{suffix.upper()}")) == reviews(3)


def test_row_numbers_are_lines_of_the_file(tmp_path: Path) -> None:
    table, records = tmp_path / "a.csv", tmp_path / "a.jsonl"
    table.write_text('text,label\n"two\nlines",x\n\nthird,y\n')
    records.write_text('{"text": "one", "label": 1}\n\n{"text": "two", "label": 2}\n')
    rows = read_rows([table, records, write(tmp_path / "a.parquet", [("p", "q")])], "text", "label")
    assert [row.number for row in rows] == [2, 5, 1, 3, 1]
    assert rows[0].text == "two\nlines"


def test_byte_order_mark_and_windows_line_ends_are_no_part_of_the_data(tmp_path: Path) -> None:
    for name, content in (
        ("a.csv", "text,label\r\nfine,x\r\n"),
        ("a.tsv", "text\tlabel\r\nfine\tx\r\n\r\n"),
        ("a.jsonl", '{"text": "fine", "label": "x"}\r\n'),
    ):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
        assert read(tmp_path / name) == [("fine", "x")]


def test_a_field_may_be_longer_than_the_csv_module_allows_by_itself(tmp_path: Path) -> None:
    rows = [("word " * 100_000 + "end", "x")]
    assert read(write(tmp_path / "long.csv", rows)) == rows


def test_quotes_in_tsv_are_characters(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('text\tlabel\n"open\tx\nclose"\ty\n')
    assert read(tmp_path / "a.tsv") == [('"open', "x"), ('close"', "y")]


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "cannot be read" in refusal(tmp_path / "folder.csv")
    for name in ("data.txt", "data.gz", "data.parquet.gz"):
        assert "unknown suffix" in refusal(tmp_path / name, b"x")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_such_column_lists_those_there_are(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"data{suffix}", reviews(4), ("body", "class"))
    for text, label in (("text", "class"), ("body", "label")):
        message = refusal(path, text=text, label=label)
        assert message.startswith(": has no column" if suffix == ".parquet" else ", row 1: has no column")
        assert "body, class" in message


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"text,label\n", "no rows"),
        ("a.tsv", b"", "is empty"),
        ("a.tsv", b"text\tlabel\n", "no rows"),
        ("a.jsonl", b"", "no rows"),
        ("a.jsonl", b"\n\n", "no rows"),
    ],
)
def test_empty_files(tmp_path: Path, pack: Callable[[bytes], bytes], name: str, content: bytes, reason: str) -> None:
    path = tmp_path / (name if pack is bytes else f"{name}.gz")
    assert reason in refusal(path, pack(content))


def test_an_empty_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": pa.array([], "string"), "label": pa.array([], "string")}), path)
    assert "no rows" in refusal(path)


@pytest.mark.parametrize(
    ("name", "content", "row", "reason"),
    [
        ("a.csv", b"text,label\nfine,x\ncaf\xe9,y\n", 3, "not UTF-8 (byte 0xe9 at 4)"),
        ("a.tsv", b"text\tlabel\nfine\tx\n\xff\ty\n", 3, "not UTF-8"),
        ("a.jsonl", '{"text": "a", "label": 1}'.encode("utf-16"), 1, "not UTF-8"),
        ("a.csv", b"text,label\nfine,x\nonly one field\n", 3, "has 1 fields, the header 2"),
        ("a.csv", b"text,label\nfine, really,x\n", 2, "has 3 fields, the header 2"),
        ("a.tsv", b"text\tlabel\nfine x\n", 2, "has 1 fields, the header 2"),
        ("a.csv", b'text,label\n"never closed,x\n', 2, "is not CSV"),
        ("a.csv", b'text,label\nok,x\n"a"b,x\n', 3, "is not CSV"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": \n', 2, "is not JSON"),
        ("a.jsonl", b"[" * 100_000, 1, "is not JSON"),
        ("a.jsonl", b"[1]\n", 1, "not a JSON object"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"label": 1}\n', 2, "text is missing"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "b"}\n', 2, "label is missing"),
        ("a.jsonl", b'{"text": "a", "label": null}\n', 1, "label is missing"),
        ("a.jsonl", b'\n\n{"text": "a"}\n', 3, "has no column 'label'"),
        ("a.jsonl", b'\n{"text": null, "label": 1}\n', 2, "text is missing"),
        ("a.jsonl", b'{"text": 5, "label": 1}\n', 1, "text is of type int"),
        ("a.jsonl", b'{"text": "a", "label": 1.5}\n', 1, "label is of type float"),
        ("a.jsonl", b'{"text": "a", "label": true}\n', 1, "label is of type bool"),
        ("a.jsonl", b'{"text": "\\ud800", "label": 1}\n', 1, "surrogate"),
        ("a.csv", b"text,label\n  ,x\n", 2, "text is empty"),
        ("a.csv", b"text,label\nfine, \n", 2, "label is missing"),
        ("a.csv", b"\ntext,label\n", 1, "no header"),
        ("a.csv", b"text;label\nfine;x\n", 1, "from text;label; if ';' separates columns there, convert the file"),
        ("a.tsv", b"text,label\nfine,x\n", 1, "from text,label; if ',' separates columns there, convert the file"),
        ("a.csv", b"text,label,text\nfine,x,bad\n", 1, "has 2 columns 'text': rename or remove all but one"),
        ("a.tsv", b"label\ttext\tlabel\nx\tfine\ty\n", 1, "has 2 columns 'label': rename or remove all but one"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, name: str, content: bytes, row: int, reason: str) -> None:
    message = refusal(tmp_path / name, content)
    assert message.startswith(f", row {row}: ")
    assert reason in message


def test_broken_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(b"text,label\n" + b"".join(b"row %d,x\n" % number for number in range(9999)))
    damaged = bytearray(whole)
    damaged[-8] ^= 0xFF  # of the checksum
    for content in (b"text,label\nfine,x\n", whole[:-100], bytes(damaged)):
        assert "not a whole gzip file" in refusal(tmp_path / "a.csv.gz", content)


def test_broken_parquet(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", reviews(20))
    assert "not a whole Parquet file" in refusal(path, path.read_bytes()[:-20])
    assert "not a whole Parquet file" in refusal(path, b"")
    binary = pa.array([b"fine", b"caf\xe9"]).view(pa.string())
    parquet.write_table(pa.table({"text": binary, "label": [1, 2]}), path)
    assert ", row 2: the text is not UTF-8" in refusal(path)
    parquet.write_table(pa.table({"text": ["a", None], "label": [1, 2]}), path)
    assert ", row 2: the text is missing" in refusal(path)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", reviews(2))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'lstm-serve[train]'" in refusal(path)
