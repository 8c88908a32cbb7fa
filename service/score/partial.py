"""A file on its way: ``.OUT.partial``, and beside it a record of how far it is and what it is made of."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from models.durable import sync_folder, write_durably
from service.score.files import Place


class PartialError(ValueError):
    """A file that cannot be begun or gone on with; the message names it and the remedy."""


class Record(BaseModel):
    """What stands in ``.OUT.partial.json``; all of it is true of the first `size` bytes of the partial file."""

    model_config = ConfigDict(extra="forbid")

    made_of: dict[str, str | int | None]
    """What decides the bytes, by the names that a message shows."""
    replaces: bool
    """Whether it may take the place of a file that is there."""
    end: Place = Place()
    size: int = 0
    errors: Counter[str] = Counter()


class Partial:
    """Bytes added become part of `out` when `finish` gives it its name, whole; until then `record` can be gone on with.

    Raises PartialError where there is one already and neither `resume` nor `overwrite` says what becomes of it.
    """

    def __init__(self, out: Path, *, resume: bool, overwrite: bool) -> None:
        self.out = out
        self.path = out.with_name(f".{out.name}.partial")
        self._record_path = out.with_name(f".{out.name}.partial.json")
        found = self._found() if not overwrite else None
        if found and not resume:
            rows = f"{found.end.rows:,} rows"
            raise PartialError(f"{out}: an interrupted run has done {rows}: go on with --resume, or --overwrite it")
        if not out.parent.is_dir():
            raise PartialError(f"{out}: {out.parent} is no folder: make it, or give another --out")
        replaces = overwrite or (found is not None and found.replaces)
        if out.exists() and not (replaces and out.is_file()):
            remedy = "give --overwrite to replace it, or another --out" if out.is_file() else "give another --out"
            raise PartialError(f"{out}: exists already: {remedy}")
        self.resumes = found is not None
        self.record = found or Record(made_of={}, replaces=replaces)

    @property
    def exists(self) -> bool:
        """Whether there is something to go on with."""
        return self._record_path.exists()

    def _found(self) -> Record | None:
        try:
            return Record.model_validate_json(self._record_path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise PartialError(f"{self._record_path}: is damaged: start again with --overwrite") from error

    @contextlib.contextmanager
    def open(self, made_of: dict[str, str | int | None]) -> Iterator[None]:
        """Begins the file, or goes on where the record ends. Raises PartialError where it is made of something else."""
        for name, value in made_of.items() if self.resumes else ():
            if (before := self.record.made_of.get(name)) != value:
                raise PartialError(
                    f"{self.out}: {name} was {before} in the interrupted run, now it is {value}: go on with what it "
                    "was, or start again with --overwrite"
                )
        self.record.made_of = made_of
        with self.path.open("ab") as self._file:
            if self._file.tell() < self.record.size:
                raise PartialError(f"{self.path}: is shorter than its record says: start again with --overwrite")
            self._file.truncate(self.record.size)
            self._size = self.record.size
            self._save()
            yield

    def add(self, content: bytes) -> None:
        self._size += len(content)
        self._file.write(content)

    def save(self, end: Place, errors: Counter[str]) -> None:
        """From now on the run can be gone on with behind what was added. Raises PartialError."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if os.fstat(self._file.fileno()).st_size != self._size:
            raise PartialError(f"{self.path}: another process writes to it too: wait for that one's end")
        self.record.end, self.record.errors, self.record.size = end, errors, self._size
        self._save()

    def finish(self, make: Callable[[Path], Path]) -> None:
        """Gives the file its name; `make` makes it of the partial one, or gives that as it is."""
        self._file.close()
        whole = make(self.path)
        with whole.open("rb+") as file:
            os.fsync(file.fileno())
        whole.replace(self.out)
        sync_folder(self.out.parent)
        self._record_path.unlink()
        self.path.unlink(missing_ok=True)

    def _save(self) -> None:
        write_durably(self._record_path, self.record.model_dump_json().encode())
