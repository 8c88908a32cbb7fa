"""``lstm-serve score`` on files of every form: what comes back, and what is refused."""

import csv
import datetime
import gzip
import hashlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from models.artifact import read_artifact
from models.network import SequenceClassifier
from models.scores import scores
from service.score import command as score
from tests.reviews import reviews, write
from tests.tiny import TEXTS, write_tiny

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet")
ADDED = ["label", "score_negative", "score_positive", "tokens", "dropped_tokens", "error"]
WORDS = ["good", "bad", "film", "very", "not", "a", "treat", "at", "all"]

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store with the tiny model, and no settings of this machine."""
    for name in [name for name in os.environ if name.startswith("LSTMSERVE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LSTMSERVE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("LSTMSERVE_MODEL", "tiny")
    write_tiny(tmp_path / "store/tiny/1", temperature=1.7)


def texts(rows: int, seed: int = 0) -> list[str]:
    """Of 1 to 60 known words."""
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(1, 60))) for _ in range(rows)]


def table(path: Path) -> list[dict[str, Any]]:
    """The rows; all values of CSV and TSV are text."""
    name = path.name.removesuffix(".gz")
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if name.endswith(".parquet"):
        return list(parquet.read_table(path).to_pylist())
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in content.decode().splitlines()]
    if name.endswith(".tsv"):
        header, *rows = (line.split("\t") for line in content.decode().splitlines())
        return [dict(zip(header, row, strict=True)) for row in rows]
    return list(csv.DictReader(content.decode().splitlines(keepends=True)))


def run(file: Path, out: Path, *options: str) -> list[dict[str, Any]]:
    assert score.main([str(file), "--out", str(out), *options]) == 0
    assert {path.name for path in out.parent.iterdir() if path.name.startswith(".")} == set()
    return table(out)


def refusal(capsys: Captured, *words: object) -> str:
    """The one line with which a command is refused with exit code 2."""
    capsys.readouterr()
    try:
        code: object = score.main([str(word) for word in words])
    except SystemExit as exit_:
        code = exit_.code
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    prefix = "lstm-serve score: error: "
    assert line.startswith(prefix)
    return line.removeprefix(prefix)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_form_comes_back_with_the_references_scores(tmp_path: Path, suffix: str, capsys: Captured) -> None:
    rows = [(text, f"row {number}") for number, text in enumerate(texts(300))]
    file = write(tmp_path / f"in{suffix}", rows, ("body", "note"))
    scored = run(file, tmp_path / f"out{suffix}", "--text-column", "body", "--precision", "float32")
    captured = capsys.readouterr()
    assert captured.out == f"wrote {tmp_path / f'out{suffix}'}: 300 rows\n"
    assert captured.err == ""

    config, weights, tokenizer, _ = read_artifact(tmp_path / "store/tiny/1")
    assert tokenizer is not None
    sequences = tokenizer.encode([text for text, _ in rows])
    expected = scores(SequenceClassifier.from_weights(config, weights).predict(sequences), config)
    assert [list(row) for row in scored] == [["body", "note", *ADDED]] * 300
    assert [(row["body"], row["note"]) for row in scored] == rows
    found = [[float(row["score_negative"]), float(row["score_positive"])] for row in scored]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert [row["label"] for row in scored] == [("negative", "positive")[row.index(max(row))] for row in found]
    assert [int(row["tokens"]) for row in scored] == list(map(len, sequences))
    assert {int(row["dropped_tokens"]) for row in scored} == {0}
    assert {row["error"] for row in scored} <= {None, ""}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_that_cannot_be_scored_say_why(tmp_path: Path, suffix: str, capsys: Captured) -> None:
    long = "good " * 70
    rows = [("good film", "a"), (" ", "b"), ("xyzzy plugh", "c"), (long, "d"), ("bad film", "e")]
    file = write(tmp_path / f"in{suffix}", rows, ("text", "note"))
    scored = run(file, tmp_path / f"out{suffix}")
    assert [row["error"] or None for row in scored] == [None, "empty", "unknown_only", "too_long", None]
    assert [int(row["tokens"]) for row in scored] == [2, 0, 2, 70, 2]
    assert [int(row["dropped_tokens"]) for row in scored] == [0] * 5
    for row in scored[1:4]:
        assert {row[name] or None for name in ADDED[:3]} == {None}
    assert capsys.readouterr().out.endswith(": 5 rows; rows without a label: empty 1, too_long 1, unknown_only 1\n")


def test_long_texts_are_cut_where_that_is_asked_for(tmp_path: Path) -> None:
    head, tail = "good film " * 32, "bad treat " * 32
    file = write(tmp_path / "in.jsonl", [(head + tail, ""), (head, ""), (tail, "")], ("text", "note"))
    first, *_ = kept_head = run(file, tmp_path / "head.jsonl", "--truncate", "head")
    last, *_ = kept_tail = run(file, tmp_path / "tail.jsonl", "--truncate", "tail")
    assert (first["tokens"], first["dropped_tokens"]) == (last["tokens"], last["dropped_tokens"]) == (128, 64)
    assert first["score_positive"] == kept_head[1]["score_positive"]
    assert last["score_positive"] == kept_tail[2]["score_positive"] != first["score_positive"]


def test_the_services_limit_of_tokens_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSTMSERVE_MAX_TOKENS", "3")
    file = write(tmp_path / "in.csv", [("good film very good", "x"), ("good film", "y")], ("text", "note"))
    assert [row["error"] for row in run(file, tmp_path / "out.csv")] == ["too_long", ""]


def test_torch_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "in.jsonl", [(text, "x") for text in texts(300)], ("text", "note"))
    native = run(file, tmp_path / "native.jsonl", "--precision", "float32")
    monkeypatch.setenv("LSTMSERVE_ENGINE", "packed")
    packed = run(file, tmp_path / "packed.jsonl", "--threads", "2")
    for one, other in zip(native, packed, strict=True):
        assert one["label"] == other["label"]
        assert one["score_positive"] == pytest.approx(other["score_positive"], abs=1e-4)


def test_csv_stays_valid_whatever_its_fields_hold(tmp_path: Path) -> None:
    notes = ["a,b", 'say "x"', "two\nlines", "two\r\nlines", "a lone \r here", " spaces ", "", "\u2028 é"]
    file = write(tmp_path / "in.csv", [("good film", note) for note in notes], ("text", "note, too"))
    run(file, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as opened:
        header, *rows = csv.reader(opened, strict=True)
    assert header == ["text", "note, too", *ADDED]
    assert [row[1] for row in rows] == notes


def test_json_objects_come_back_as_they_were_written(tmp_path: Path) -> None:
    """Numbers, order and escapes included: a number that a float cannot hold is none of our business."""
    objects = [
        '{"z": 1.10, "text": "good film", "big": 12345678901234567890.125, "a": 1E400}',
        ' { "text":"bad" , "nested": {"b": [1, {}], "a": null}, "é": "\\u00e9\\ud800" } ',
    ]
    (tmp_path / "in.jsonl").write_text("\ufeff" + objects[0] + "\r\n\n" + objects[1])
    run(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    for line, written in zip(lines, objects, strict=True):
        assert line.startswith(written.rstrip()[:-1].rstrip() + ', "label": ')
        assert list(json.loads(line))[-6:] == ADDED


@pytest.mark.parametrize(
    ("size", "written"),
    [
        (1 << 20, [27, 23]),  # of batches of 7, 7, 6 and so on: the last row group takes what is left
        (1, [21, 21, 8]),  # of single rows
    ],
)
def test_parquet_keeps_types_and_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, written: list[int]
) -> None:
    monkeypatch.setattr("service.score.parquet.BLOCK_BYTES", size)
    monkeypatch.setattr("service.score.parquet.BLOCK_ROWS", 7)
    monkeypatch.setattr("service.score.parquet.GROUP_ROWS", 21)
    rows = 50
    columns = {
        "text": pa.array(texts(rows), pa.large_string()),
        "kind": pa.array([f"kind {number // 9}" for number in range(rows)]).dictionary_encode(),
        "when": pa.array([datetime.datetime(2020, 1, 1, 0, 0, number) for number in range(rows)], pa.timestamp("us")),
        "parts": pa.array([[number, None] for number in range(rows)], pa.list_(pa.int16())),
        "price": pa.array([None, *range(1, rows)], pa.decimal128(9, 2)),
    }
    given = pa.table(columns).replace_schema_metadata({"made by": "a test"})
    parquet.write_table(given, tmp_path / "in.parquet", row_group_size=20)
    run(tmp_path / "in.parquet", tmp_path / "out.parquet")
    made = parquet.read_table(tmp_path / "out.parquet")
    assert made.schema.metadata == given.schema.metadata
    assert made.select(list(columns)).to_pylist() == given.to_pylist()
    assert made.schema.types[:5] == given.schema.types
    assert made.schema.names[5:] == ADDED
    assert made.schema.types[5:] == [pa.string(), pa.float64(), pa.float64(), pa.int64(), pa.int64(), pa.string()]
    groups = parquet.ParquetFile(tmp_path / "out.parquet").metadata
    assert [groups.row_group(index).num_rows for index in range(groups.num_row_groups)] == written


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_without_rows_gives_one_without_rows(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"in{suffix}"
    if suffix == ".parquet":
        parquet.write_table(pa.table({"text": pa.array([], "string")}), file)
    else:
        content = b"" if ".jsonl" in suffix else b"text\n"
        file.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    assert run(file, tmp_path / f"out{suffix}") == []
    if suffix == ".parquet":
        assert parquet.read_schema(tmp_path / "out.parquet").names == ["text", *ADDED]
    elif suffix == ".csv":
        assert (tmp_path / "out.csv").read_text() == ",".join(["text", *ADDED]) + "\n"


def test_compression_is_free_of_the_form(tmp_path: Path) -> None:
    file = write(tmp_path / "in.csv.gz", reviews(5), ("text", "class"))
    assert run(file, tmp_path / "out.csv") == run(file, tmp_path / "out.csv.gz")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_capitals_in_a_suffix_are_free(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"in{suffix}", reviews(5), ("text", "class"))
    expected = run(file, tmp_path / f"out{suffix}")
    upper = file.rename(tmp_path / f"IN{suffix.upper()}")
    assert score.main([str(upper), "--out", str(tmp_path / f"OUT{suffix.upper()}")]) == 0
    assert (tmp_path / f"OUT{suffix.upper()}").read_bytes() == (tmp_path / f"out{suffix}").read_bytes()
    assert len(expected) == 5


def test_columns_are_prefixed_where_a_name_is_taken(tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out.csv"
    for suffix, where in ((".csv", ", row 1"), (".tsv", ", row 1"), (".jsonl", ", row 1"), (".parquet", "")):
        file = write(tmp_path / f"in{suffix}", reviews(5), ("text", "label"))
        line = refusal(capsys, file, "--out", out.with_suffix(suffix))
        assert line.startswith(f"{file}{where}: has a column 'label' already: ")
        assert "--prefix" in line
        (row, *_) = run(file, out.with_suffix(suffix), "--prefix", "model_")
        assert list(row) == ["text", "label", *(f"model_{name}" for name in ADDED)]


def test_models_are_chosen_by_name_version_or_folder(tmp_path: Path, capsys: Captured) -> None:
    write_tiny(tmp_path / "store/tiny/2", seed=1)
    write_tiny(tmp_path / "store/bare/1", with_tokenizer=False)
    file = write(tmp_path / "in.jsonl", [(text, "") for text in TEXTS], ("text", "note"))
    number = 0

    def scored(*options: object) -> list[dict[str, Any]]:
        nonlocal number
        number += 1
        return run(file, tmp_path / f"out{number}.jsonl", *map(str, options))

    first, second = scored("--version", 1), scored("--version", 2)
    assert first != second
    assert scored() == scored("--model", "tiny") == scored("--model", tmp_path / "store/tiny/2") == second
    assert (
        scored("--model", tmp_path / "store/tiny/1") == scored("--store", tmp_path / "store", "--version", 1) == first
    )
    out = ["--out", tmp_path / "none.jsonl"]
    for version in (3, 0):
        assert "no such version; --version takes one of 2, 1" in refusal(capsys, file, *out, "--version", version)
    assert "no such model; --model takes one of bare, tiny, or" in refusal(capsys, file, *out, "--model", "tinny")
    assert "leave --version 1 out" in refusal(capsys, file, *out, "--model", "./x", "--version", 1)
    assert "no such folder" in refusal(capsys, file, *out, "--model", tmp_path / "no/1")
    assert "has no tokenizer" in refusal(capsys, file, *out, "--model", "bare")
    assert "no such folder of models" in refusal(capsys, file, *out, "--store", tmp_path / "none")
    assert not (tmp_path / "none.jsonl").exists()


def test_a_version_that_the_engine_cannot_reproduce_is_refused(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "in.csv", reviews(5), ("text", "class"))
    monkeypatch.setattr("service.verification.TOLERANCE", -1.0)
    line = refusal(capsys, file, "--out", tmp_path / "out.csv", "--precision", "float32")
    assert line.startswith(str(tmp_path / "store/tiny/1"))
    assert "a golden case of " in line


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "text,x\ngood,1\nbad\n", ", row 3: has 1 fields, the header 2: mend"),
        ("a.csv", 'text,x\n"good,1\n', ", row 2: is not CSV"),
        ("a.csv", "", ", row 1: is empty or has no header"),
        ("a.csv", "body,x\ngood,1\n", ", row 1: has no column 'text': choose with --text-column from body, x"),
        ("a.csv", "a;text\n1;good\n", ", row 1: has no column 'text': choose with --text-column from a;text; if ';'"),
        ("a.csv", "text,text\ngood,bad\n", ", row 1: has 2 columns 'text': rename or remove all but one"),
        ("a.tsv", "text\tx\ngood\t1\t2\n", ", row 2: has 3 fields, the header 2: mend"),
        ("a.jsonl", '{"text": "good"}\n[1]\n', ", row 2: is not a JSON object: write one object a line"),
        ("a.jsonl", '{"text": "good"}\n{"text": \n', ", row 2: is not JSON"),
        ("a.jsonl", '{"body": "good"}\n', ", row 1: has no column 'text': choose with --text-column from body"),
        ("a.jsonl", '{"text": "good"}\n\n{"body": "x"}\n', ", row 3: the text is missing, not text: mend or remove"),
        ("a.jsonl", '{"text": null}\n', ", row 1: the text is missing, not text"),
        ("a.jsonl", '{"text": 5}\n', ", row 1: the text is of type int, not text"),
        ("a.jsonl", '{"text": "\\ud800"}\n', ", row 1: holds half of a surrogate pair"),
        ("a.jsonl", '{"text": "good"}\n{"text": "bad", "error": 1}\n', ", row 2: has a column 'error' already"),
        ("a.txt", "good", ": unknown suffix: rename it"),
        ("a.csv.gz", "text\ngood\n", ": is not a whole gzip file"),
        ("a.parquet", "PAR1", ": is not a whole Parquet file"),
    ],
)
def test_a_bad_row_is_named_before_anything_is_written(
    tmp_path: Path, capsys: Captured, name: str, content: str, reason: str
) -> None:
    file = tmp_path / name
    file.write_text(content)
    line = refusal(capsys, file, "--out", tmp_path / f"out_{name}")
    assert line.startswith(f"{file}{reason}")
    assert {path.name for path in tmp_path.iterdir()} == {"store", name}


def test_bad_rows_of_parquet(tmp_path: Path, capsys: Captured) -> None:
    file, out = tmp_path / "a.parquet", tmp_path / "out.parquet"
    for column, reason in (
        (pa.array(["good", None]), "row 2: the text is missing, not text"),
        (pa.array([1, 2]), "row 1: the text is of type int, not text"),
        (pa.array([b"fine", b"caf\xe9"]).view(pa.string()), "row 2: the text is not UTF-8"),
    ):
        parquet.write_table(pa.table({"text": column}), file)
        assert refusal(capsys, file, "--out", out).startswith(f"{file}, {reason}")
    twice = pa.Table.from_arrays([pa.array(["good"]), pa.array(["bad"])], ["text", "text"])
    parquet.write_table(twice, file)
    assert refusal(capsys, file, "--out", out) == f"{file}: has 2 columns 'text': rename or remove all but one"
    parquet.write_table(pa.table({"text": ["good"]}), file)
    assert "choose with --text-column from text" in refusal(capsys, file, "--out", out, "--text-column", "body")


def test_what_is_asked_for_must_make_sense(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "in.csv", reviews(5), ("text", "class"))
    out = tmp_path / "out.csv"
    assert "no such file: check FILE" in refusal(capsys, tmp_path / "none.csv", "--out", out)
    assert "not a regular file" in refusal(capsys, tmp_path, "--out", out)
    assert "is .jsonl, but FILE is .csv: give --out the same" in refusal(capsys, file, "--out", tmp_path / "out.jsonl")
    assert "is no folder: make it" in refusal(capsys, file, "--out", tmp_path / "none/out.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "give another --out" in refusal(capsys, file, "--out", tmp_path / "folder.csv", "--overwrite")
    for odd in (".", "", "/", "..", tmp_path):
        assert f"{Path(odd)}: unknown suffix: " in refusal(capsys, file, "--out", odd, "--overwrite")
    content = file.read_bytes()
    (tmp_path / "link.csv").symlink_to(file)
    for same in (file, tmp_path / "link.csv"):
        line = refusal(capsys, file, "--out", same, "--overwrite")
        assert line == f"{same}: is FILE itself: give another --out"
    assert file.read_bytes() == content
    assert "--threads='x': " in refusal(capsys, file, "--out", out, "--threads", "x")
    assert "--precision='int8': " in refusal(capsys, file, "--out", out, "--precision", "int8")
    assert "not allowed with" in refusal(capsys, file, "--out", out, "--resume", "--overwrite")
    out.write_text("mine")
    assert f"{out}: exists already: give --overwrite" in refusal(capsys, file, "--out", out)
    assert out.read_text() == "mine"
    assert len(run(file, out, "--overwrite")) == 5
    write_tiny(tmp_path / "store/odd/1", labels=("a\tb", "c"))
    tsv = write(tmp_path / "in.tsv", reviews(5), ("text", "class"))
    assert "TSV file cannot hold" in refusal(capsys, tsv, "--out", tmp_path / "out.tsv", "--model", "odd")
    monkeypatch.setenv("LSTMSERVE_ODD", "1")
    line = refusal(capsys, file, "--out", tmp_path / "new.csv")
    assert line == "LSTMSERVE_ODD: unknown setting (lstm-serve serve --help lists them)"


def test_progress_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    file = write(tmp_path / "in.csv", reviews(500), ("text", "class"))
    command = [
        sys.executable,
        "-m",
        "service.cli",
        "score",
        str(file),
        "--overwrite",
        "--out",
        str(tmp_path / "out.csv"),
    ]
    near, far = pty.openpty()
    shown = b""
    with subprocess.Popen(command, stderr=far, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"}) as process:
        os.close(far)
        while True:
            try:
                chunk = os.read(near, 4096)
            except OSError:  # how a terminal ends
                break
            if not chunk:
                break
            shown += chunk
    os.close(near)
    assert process.returncode == 0
    assert b"500 rows" in shown
    assert b"rows/s" in shown
    done = subprocess.run(command, stderr=subprocess.PIPE, check=True)
    assert done.stderr == b""


def test_hashing_is_shown_too(tmp_path: Path) -> None:
    file, told = tmp_path / "in.csv", list[object]()
    file.write_bytes(b"x" * 2_500_000)

    class Shown(score.Shown):
        def begin(self, what: str, rows: int = 0) -> None:
            told.append(what)

        def to(self, rows: int, bytes_read: int) -> None:
            told.append(bytes_read)

    assert score.digest(file, Shown(2_500_000)) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert told == ["hashing", 1 << 20, 2 << 20, 2_500_000]


PROGRAM = """
import sys
from pathlib import Path
import service.score.command
if sys.argv[2].endswith(".parquet"):
    import service.score.parquet
    service.score.parquet.GROUP_BYTES = 4 << 20
assert service.score.command.main(sys.argv[1:]) == 0
(line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
print(int(line.split()[1]) << 10)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("suffix", [".csv.gz", ".jsonl", ".parquet"])
@pytest.mark.parametrize(("text", "note", "rows"), [(2_000, 500, 8_000), (0, 20_000, 2_000)])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, suffix: str, text: int, note: int, rows: int) -> None:
    """Whichever of its columns is the large one."""
    most = []
    for size in (rows, 4 * rows):
        file = tmp_path / f"in{size}{suffix}"
        write(
            file,
            [(f"good {number} " + "x" * text, f"{number}" + "y" * note) for number in range(size)],
            ("text", "note"),
        )
        words = [str(file), f"--out={tmp_path / f'out{size}{suffix}'}"]
        done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True)
        most.append(int(done.stdout.splitlines()[-1]))
    more = 3 * rows * (text + note)  # 60 or 120 MB
    # Arrow gives memory back when it likes
    assert most[1] - most[0] <= (more // 2 if suffix == ".parquet" else 8 << 20), most
