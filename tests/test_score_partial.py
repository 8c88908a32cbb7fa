"""A run that was interrupted or killed is gone on with, to the same bytes; or it is refused, and says why."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.repository import Model
from service.schemas.shared import Truncate
from service.score import command as score
from service.score.files import Block, Place
from service.score.partial import Partial, PartialError
from service.score.pipeline import Work, encode
from tests.reviews import reviews, write
from tests.test_score import SUFFIXES
from tests.tiny import write_tiny

ROWS, SMALL = 400, 16
"""Rows of a file, and of a block."""

PROGRAM = f"""
import sys, time
from service.score import command as score, files as score_files, partial as score_partial
score_files.BLOCK_ROWS, score.SAVE_SECONDS = {SMALL}, 0
if sys.argv[1].endswith(".parquet"):
    from service.score import parquet as score_parquet
    score_parquet.BLOCK_ROWS = {SMALL}
save = score_partial.Partial.save
def slow(partial, end, errors):
    save(partial, end, errors)
    if end.rows >= 100:
        print("saved", flush=True)
        time.sleep(60)
score_partial.Partial.save = slow
sys.exit(score.main(sys.argv[1:], "lstm-serve score"))
"""
"""The command, which waits when a quarter of the rows are done."""


@pytest.fixture(autouse=True)
def _small_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LSTMSERVE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LSTMSERVE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("LSTMSERVE_MODEL", "tiny")
    monkeypatch.setattr("service.score.files.BLOCK_ROWS", SMALL)
    monkeypatch.setattr("service.score.parquet.BLOCK_ROWS", SMALL)
    write_tiny(tmp_path / "store/tiny/1")


def rows() -> list[tuple[str, str]]:
    """Some have no known word, some are too long, and a note may have two lines."""
    return [(text, f"{number} {label}") for number, (text, label) in enumerate(reviews(ROWS))]


def stop(words: list[str], number: signal.Signals) -> str:
    """What the command says on standard error when it gets the signal in mid-run."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "saved\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number), errors
    return errors


def hidden(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert score.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("lstm-serve score: error: ")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_killed_in_mid_run_it_goes_on_to_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"in{suffix}", rows(), ("text", "note"))
    out, whole = tmp_path / f"out{suffix}", tmp_path / f"whole{suffix}"
    words = [str(file), "--out", str(out), "--truncate", "head"]
    assert stop(words, signal.SIGKILL) == ""
    assert not out.exists()
    partial = tmp_path / f".out{suffix}.partial"
    with partial.open("ab") as opened:  # written, but not yet recorded when it was killed
        opened.write(b"half a row")
    assert score.main([*words, "--resume"]) == 0
    assert score.main([str(file), "--out", str(whole), "--truncate", "head"]) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert hidden(tmp_path) == set()


def test_it_does_go_on_and_not_begin_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "in.csv", rows(), ("text", "note"))
    words = [str(file), "--out", str(tmp_path / "out.csv"), "--resume"]
    stop(words, signal.SIGKILL)  # begun with --resume: there was nothing to go on with
    encoded: list[str] = []

    def noted(blocks: Iterator[Block], model: Model, most: int, truncate: Truncate | None) -> Iterator[Work]:
        for block in blocks:
            encoded.extend(block.texts)
            yield from encode(iter([block]), model, most, truncate)

    monkeypatch.setattr(score, "encode", noted)
    done = json.loads((tmp_path / ".out.csv.partial.json").read_bytes())["end"][0]
    assert 100 <= done < ROWS
    assert score.main(words) == 0
    assert encoded == [text for text, _ in rows()[done:]]


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "in file.jsonl", rows(), ("text", "note"))
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    words = [str(file), "--out", str(out), "--overwrite"]
    errors = stop(words, signal.SIGINT)
    assert errors.startswith("lstm-serve score: interrupted; ")
    assert errors.endswith(f"rows are done; to go on: lstm-serve score '{file}' --out {out} --resume\n")
    assert out.read_text() == "mine"
    assert score.main([str(file), "--out", str(out), "--resume"]) == 0  # --overwrite was said before
    assert len(out.read_text().splitlines()) == ROWS
    assert f"wrote {out}: {ROWS} rows" in capsys.readouterr().out


def test_what_the_rows_lack_is_counted_over_both_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [("" if number % 10 else "good film", str(number)) for number in range(ROWS)]
    file = write(tmp_path / "in.tsv", texts, ("text", "note"))
    words = [str(file), "--out", str(tmp_path / "out.tsv")]
    stop(words, signal.SIGINT)
    assert score.main([*words, "--resume"]) == 0
    assert capsys.readouterr().out.endswith(f"{ROWS} rows; rows without a label: empty {ROWS * 9 // 10}\n")


def test_a_partial_file_is_neither_lost_nor_used_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "in.csv", rows(), ("text", "note"))
    words = [str(file), "--out", str(tmp_path / "out.csv")]
    stop(words, signal.SIGKILL)
    line = refused(words, capsys)
    assert line.startswith(f"{tmp_path / 'out.csv'}: an interrupted run has done ")
    assert "--resume" in line
    assert "--overwrite" in line
    assert hidden(tmp_path) == {".out.csv.partial", ".out.csv.partial.json"}
    assert score.main([*words, "--overwrite"]) == 0
    assert hidden(tmp_path) == set()


def test_it_is_not_gone_on_with_on_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "in.csv", rows(), ("text", "note"))
    before = file.read_bytes()
    words = [str(file), "--out", str(tmp_path / "out.csv"), "--precision", "float32"]
    stop(words, signal.SIGKILL)
    write_tiny(tmp_path / "store/tiny/2", seed=1)
    go_on = [*words, "--resume"]
    assert "the SHA-256 of the model's SHA256SUMS was " in refused(go_on, capsys)
    go_on += ["--version", "1"]
    assert "--truncate was not given in the interrupted run, now it is tail: " in refused(
        [*go_on, "--truncate", "tail"], capsys
    )
    assert "--prefix was not given in the interrupted run, now it is x: " in refused([*go_on, "--prefix", "x"], capsys)
    assert "--text-column was text " in refused([*go_on, "--text-column", "note"], capsys)
    file.write_bytes(before[:-3] + b"!\r\n")
    line = refused(go_on, capsys)
    assert line.startswith(f"{tmp_path / 'out.csv'}: the SHA-256 of in.csv was ")
    assert line.endswith(": go on with what it was, or start again with --overwrite")
    file.write_bytes(before)
    assert score.main(go_on) == 0


def test_an_input_that_changes_while_it_is_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "in.csv", rows(), ("text", "note"))
    original = Partial.save

    def changed(partial: Partial, end: Place, errors: Counter[str]) -> None:
        original(partial, end, errors)
        with file.open("a") as opened:
            opened.write("one more,row\n")

    monkeypatch.setattr(Partial, "save", changed)
    assert "has changed while it was scored" in refused([str(file), "--out", str(tmp_path / "out.csv")], capsys)
    assert not (tmp_path / "out.csv").exists()


def test_a_damaged_partial_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "in.csv", rows(), ("text", "note"))
    words = [str(file), "--out", str(tmp_path / "out.csv"), "--resume"]
    stop(words, signal.SIGKILL)
    partial, record = tmp_path / ".out.csv.partial", tmp_path / ".out.csv.partial.json"
    content = partial.read_bytes()
    partial.write_bytes(content[:100])
    assert "is shorter than its record says: start again with --overwrite" in refused(words, capsys)
    partial.write_bytes(content)
    document = record.read_bytes()
    record.write_bytes(document[:-5])
    assert refused(words, capsys).startswith(f"{record}: is damaged: ")
    record.write_bytes(document)
    assert score.main(words) == 0


def test_two_processes_do_not_mix_their_rows(tmp_path: Path) -> None:
    first = Partial(tmp_path / "out.csv", resume=False, overwrite=False)
    first.check({"x": 1})
    with first.open():
        first.add(b"header\n")
        first.save(Place(1, 1, 1), Counter())
        second = Partial(tmp_path / "out.csv", resume=True, overwrite=False)
        second.check({"x": 1})
        with second.open():
            second.add(b"row\n")
            second.save(Place(2, 2, 2), Counter())
        first.add(b"another\n")
        with pytest.raises(PartialError, match="another process writes to it"):
            first.save(Place(2, 2, 2), Counter())


def test_interrupted_before_anything_was_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "in.csv", rows(), ("text", "note"))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(score, "load", interrupt)
    assert score.main([str(file), "--out", str(tmp_path / "out.csv")]) == 130
    assert capsys.readouterr().err == "lstm-serve score: interrupted; nothing was written\n"
    assert {path.name for path in tmp_path.iterdir()} == {"store", "in.csv"}


@pytest.mark.parametrize("flag", ["--resume", "--text-column=text"])
def test_what_has_done_no_row_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    """Interrupted it leaves nothing; killed it leaves a record, which is in nobody's way."""
    file = write(tmp_path / "in.csv", rows(), ("text", "note"))
    out, left = tmp_path / "out.csv", dict[str, bytes]()

    def interrupt(*_: object) -> None:
        left.update({name: (tmp_path / name).read_bytes() for name in hidden(tmp_path)})
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(score, "add_rows", interrupt)
        assert score.main([str(file), "--out", str(out)]) == 130
    assert left.keys() == {".out.csv.partial", ".out.csv.partial.json"}
    assert hidden(tmp_path) == set()
    for name, content in left.items():
        (tmp_path / name).write_bytes(content)
    assert score.main([str(file), "--out", str(out), flag]) == 0
    assert len(out.read_text().splitlines()) == ROWS + 1
    assert hidden(tmp_path) == set()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_killed_when_the_file_has_its_name(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = write(tmp_path / f"in{suffix}", rows(), ("text", "note")), tmp_path / f"out{suffix}"
    words = [str(file), "--out", str(out)]

    def killed(_: Partial) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Partial, "remove", killed)
        assert score.main(words) == 130
    content = out.read_bytes()
    assert hidden(tmp_path)
    assert "--truncate was not given" in refused([*words, "--resume", "--truncate", "head"], capsys)
    assert score.main([*words, "--resume"]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {out}: {ROWS} rows")
    assert out.read_bytes() == content
    assert hidden(tmp_path) == set()
    assert "exists already: give --overwrite" in refused([*words, "--resume"], capsys)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_full_disk_is_told_and_gone_on_from(tmp_path: Path, suffix: str) -> None:
    file, out = write(tmp_path / f"in{suffix}", rows(), ("text", "note")), tmp_path / f"out{suffix}"
    words = [str(file), "--out", str(out), "--truncate", "head"]
    small = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({20_000}, resource.RLIM_INFINITY))"
    program = small + PROGRAM.replace("if end.rows >= 100", "if False")
    done = subprocess.run([sys.executable, "-c", program, *words], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    reason = f"{out}: cannot be written (File too large): make room, then go on with --resume"
    assert done.stderr == f"lstm-serve score: error: {reason}\n"
    assert hidden(tmp_path) == {f".out{suffix}.partial", f".out{suffix}.partial.json"}
    assert score.main([*words, "--resume"]) == 0
    whole = tmp_path / f"whole{suffix}"
    assert score.main([str(file), "--out", str(whole), "--truncate", "head"]) == 0
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_where_nothing_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "in.csv", rows(), ("text", "note"))
    line = refused([str(file), "--out", "/proc/x.csv"], capsys)
    assert line.startswith("/proc/x.csv: cannot be written (")
    assert line.endswith("): make room, or give another --out")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    file = write(tmp_path / "in.csv", rows(), ("text", "note"))
    (tmp_path / "elsewhere").mkdir()
    out, target = tmp_path / "out.csv", tmp_path / "elsewhere" / "real.csv"
    target.write_text("mine")
    out.symlink_to(target)
    assert score.main([str(file), "--out", str(out), "--overwrite"]) == 0
    assert out.is_symlink()
    assert len(target.read_text().splitlines()) == ROWS + 1
