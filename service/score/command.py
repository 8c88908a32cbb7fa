"""Scores a file of texts: ``lstm-serve score FILE --out FILE``. All its columns come back, with those of the model."""

import functools
import gzip
import hashlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from models.artifact import ArtifactError
from models.command import run_main
from models.extras import needs
from models.formats import DataError, form_of, is_gzip, readable
from service.engine import Engine, choose
from service.errors import BackendError
from service.repository import Model
from service.score.files import CSV, TSV, Form, JSONLines, Place
from service.score.model import find, load
from service.score.options import PROG, Options, parse
from service.score.partial import Partial, PartialError
from service.score.pipeline import Ahead, compute, encode
from service.settings import Settings, SettingsError

with needs("cli"):
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

BLOCKS_AHEAD = 4
"""Between two stages."""

SAVE_SECONDS = 1.0
"""Between two records of how far the run is."""


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Exit codes: 0 done, 2 the user's error, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    partial: Partial | None = None
    errors = (DataError, ArtifactError, BackendError, PartialError, SettingsError, OSError)

    def work() -> None:
        nonlocal partial
        options = parse(words, prog)
        check_files(options.file, options.out)
        partial = Partial(options.out, resume=options.resume, overwrite=options.overwrite)
        score(options, partial)

    def outcome() -> str:
        if not partial or not partial.record.end.rows:
            return "nothing was written"
        given = [word for word in words if word not in ("--resume", "--overwrite")]
        return f"{partial.record.end.rows:,} rows are done; to go on: {prog} {shlex.join(given)} --resume"

    return run_main(prog, work, errors, outcome)


def score(options: Options, partial: Partial) -> None:
    """Writes the file that `partial` becomes; raises one of the errors of `main`."""
    flags = [f"--{name}={value}" for name in ("store", "precision", "threads") if (value := getattr(options, name))]
    settings = Settings.load(flags, os.environ, "lstm-serve serve")
    folder = find(settings, options.model, options.version)
    engine = choose(settings)
    try:
        run(options, settings.max_tokens, load(folder, engine), engine, partial)
    finally:
        engine.close()
    errors = ", ".join(f"{code} {count:,}" for code, count in sorted(partial.record.errors.items()))
    unlabelled = f"; rows without a label: {errors}" if errors else ""
    print(f"wrote {options.out}: {partial.record.end.rows:,} rows{unlabelled}")


def check_files(file: Path, out: Path) -> None:
    """Raises DataError."""
    with readable(file, "FILE"):
        file.stat()
    if not file.is_file():
        raise DataError(file, "is not a regular file: give one that can be read twice")
    if (form := form_of(file)) != form_of(out):
        raise DataError(out, f"is {form_of(out)}, but FILE is {form}: give --out the same form")
    if out.exists() and out.samefile(file):
        raise DataError(out, "is FILE itself: give another --out")


def run(options: Options, max_tokens: int, model: Model, engine: Engine, partial: Partial) -> None:
    """Checks all rows, scores them, and gives the file its name. Raises one of the errors of `main`."""
    most = min(max_tokens, model.config.max_length)
    names = ("label", *(f"score_{label}" for label in model.config.labels), "tokens", "dropped_tokens", "error")
    before = options.file.stat()
    file = open_form(options.file, options.text_column, [options.prefix + name for name in names])
    with Shown(before.st_size) as shown:
        partial.check(
            {
                f"the SHA-256 of {options.file.name}": digest(options.file, shown),
                "the SHA-256 of the model's SHA256SUMS": model.digest,
                "--precision": model.precision,
                "the engine": f"{engine.name} ({engine.precisions[model.precision]})",
                "--text-column": options.text_column,
                "--truncate": options.truncate,
                "--prefix": options.prefix,
                "the most tokens of a text": most,
            }
        )
        if partial.finished:
            partial.remove()
            return
        if not partial.resumes:  # a bad row is told before the first is scored
            shown.begin("checking")
            for block in file.blocks(Place()):
                shown.to(block.end.rows, block.bytes_read)
        with partial.open():
            shown.begin("scoring", partial.record.end.rows)
            add_rows(options, most, model, engine, file, partial, shown)
            after = options.file.stat()
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise DataError(options.file, "has changed while it was scored: start again with --overwrite")
            partial.finish(file.finish)


def digest(path: Path, shown: "Shown") -> str:
    """SHA-256 in hexadecimal. Raises DataError."""
    shown.begin("hashing")
    sha = hashlib.sha256()
    with readable(path, "FILE"), path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
            shown.to(0, file.tell())
    return sha.hexdigest()


def add_rows(
    options: Options, most: int, model: Model, engine: Engine, file: Form, partial: Partial, shown: "Shown"
) -> None:
    """Reading, computing and writing go on at the same time."""
    pack: Callable[[bytes], bytes] = bytes
    if is_gzip(options.out):  # a member a block: a run can go on behind it
        pack = functools.partial(gzip.compress, mtime=0)
    end, errors = partial.record.end, partial.record.errors
    if not partial.record.size:
        partial.add(pack(file.head()))
    saved = time.monotonic()
    works = Ahead(encode(file.blocks(end), model, most, options.truncate), BLOCKS_AHEAD)
    blocks = Ahead(compute(works, model, engine), BLOCKS_AHEAD)
    with closing(blocks), closing(works):
        for block, values, found in blocks:
            partial.add(pack(file.encode(block, values)))
            end, errors = block.end, errors + found
            if time.monotonic() - saved >= SAVE_SECONDS:
                partial.save(end, errors)
                saved = time.monotonic()
            shown.to(end.rows, block.bytes_read)
    partial.save(end, errors)


def open_form(path: Path, text_column: str, added: list[str]) -> Form:
    """Raises DataError where the file has no such text column, or has one of those that are added."""
    forms: dict[str, Callable[[Path, str, list[str]], Form]] = {".csv": CSV, ".tsv": TSV, ".jsonl": JSONLines}
    with readable(path, "FILE"):
        if form_of(path) == ".parquet":
            from service.score.parquet import Parquet

            return Parquet(path, text_column, added)
        return forms[form_of(path)](path, text_column, added)


class Shown:
    """How far the run is, on standard error where that is a terminal; the time left is told by bytes read."""

    def __init__(self, size: int) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rows]:,} rows  {task.fields[rate]:,.0f} rows/s"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("reading", total=size, rows=0, rate=0.0)

    def __enter__(self) -> "Shown":
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def begin(self, what: str, rows: int = 0) -> None:
        """A pass over the file, from that row on."""
        self._began, self._first = time.monotonic(), rows
        self._progress.reset(self._task, description=what, rows=rows, rate=0.0)

    def to(self, rows: int, bytes_read: int) -> None:
        rate = (rows - self._first) / max(time.monotonic() - self._began, 1e-9)
        self._progress.update(self._task, completed=bytes_read, rows=rows, rate=rate)
