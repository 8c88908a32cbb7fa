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
    whole: int | None = None
    """Inode of the whole file, from before it gets its name: an OUT that has it is finished."""


class Partial:
    """Bytes added become part of `out` when `finish` gives it its name, whole; until then `record` can be gone on with.

    Raises PartialError where there is one already and neither `resume` nor `overwrite` says what becomes of it, and
    from all methods where a file cannot be written.
    """

    def __init__(self, out: Path, *, resume: bool, overwrite: bool) -> None:
        self.out, self.record = out, Record(made_of={}, replaces=overwrite)
        self._target = Path(os.path.realpath(out))  # a link stays one
        self.path = self._target.with_name(f".{self._target.name}.partial")
        self._record_path = self._target.with_name(f".{self._target.name}.partial.json")
        with self._writing():
            found = self._found() if not overwrite else None
            inode = self._target.stat().st_ino if self._target.exists() else None
        self.finished = found is not None and found.whole is not None and found.whole == inode
        """Whether the run was ended between the file's name and its own last step."""
        self.resumes = found is not None and (found.end.rows > 0 or self.finished)
        if found and self.resumes and not resume:
            rows = f"{found.end.rows:,} rows"
            raise PartialError(f"{out}: an interrupted run has done {rows}: go on with --resume, or --overwrite it")
        if not self._target.parent.is_dir():
            raise PartialError(f"{out}: {self._target.parent} is no folder: make it, or give another --out")
        if resume and found:
            self.record.replaces = found.replaces
        if self._target.exists() and not self.finished and not (self.record.replaces and self._target.is_file()):
            remedy = "give --overwrite to replace it, or another --out" if out.is_file() else "give another --out"
            raise PartialError(f"{out}: exists already: {remedy}")
        if found and self.resumes:
            self.record = found

    def _found(self) -> Record | None:
        try:
            return Record.model_validate_json(self._record_path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise PartialError(f"{self._record_path}: is damaged: start again with --overwrite") from error

    def check(self, made_of: dict[str, str | int | None]) -> None:
        """Raises PartialError where what is gone on with is made of something else."""
        for name, value in made_of.items() if self.resumes else ():
            if (before := self.record.made_of.get(name)) != value:
                was, now = ("not given" if it in (None, "") else it for it in (before, value))
                raise PartialError(
                    f"{self.out}: {name} was {was} in the interrupted run, now it is {now}: go on with what it "
                    "was, or start again with --overwrite"
                )
        self.record.made_of = made_of

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Begins the file, or goes on where the record ends. Leaves nothing of a run that has done no row."""
        with self._writing():
            self._file = self.path.open("ab")
        try:
            if self._file.tell() < self.record.size:
                raise PartialError(f"{self.path}: is shorter than its record says: start again with --overwrite")
            with self._writing():
                self._file.truncate(self.record.size)
                self._size = self.record.size
                self._save(self.record)
            yield
        except BaseException:
            if not self.record.end.rows:
                self.remove()
            raise
        finally:
            with self._writing():
                self._file.close()

    def add(self, content: bytes) -> None:
        with self._writing():
            self._file.write(content)
        self._size += len(content)

    def save(self, end: Place, errors: Counter[str]) -> None:
        """From now on the run can be gone on with behind what was added."""
        with self._writing():
            self._file.flush()
            os.fsync(self._file.fileno())
            if os.fstat(self._file.fileno()).st_size != self._size:
                raise PartialError(f"{self.path}: another process writes to it too: wait for that one's end")
            self._save(self.record.model_copy(update={"end": end, "errors": errors, "size": self._size}))

    def finish(self, make: Callable[[Path], Path]) -> None:
        """Gives the file its name; `make` makes it of the partial one, or gives that as it is."""
        with self._writing():
            self._file.close()
            whole = make(self.path)
            with whole.open("rb+") as file:
                os.fsync(file.fileno())
            self._save(self.record.model_copy(update={"whole": whole.stat().st_ino}))
            whole.replace(self._target)
            sync_folder(self._target.parent)
            self.remove()

    def remove(self) -> None:
        """All but the file itself."""
        with self._writing():
            self.path.unlink(missing_ok=True)
            self._record_path.unlink(missing_ok=True)

    def _save(self, record: Record) -> None:
        write_durably(self._record_path, record.model_dump_json().encode())
        self.record = record

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = "then go on with --resume" if self.record.end.rows else "or give another --out"
            reason = error.strerror or error  # Arrow's have no strerror
            raise PartialError(f"{self.out}: cannot be written ({reason}): make room, {remedy}") from error
