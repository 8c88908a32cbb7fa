"""``lstm-serve keys``: makes keys, lists and removes them. A file changes whole or not at all."""

import argparse
import contextlib
import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from models.parser import Parser
from service import keys
from service.keys import Key


def main(words: Sequence[str], prog: str) -> int:
    """The command's exit code; 2, with one line, where it could not do what was asked."""
    parser = _parser(prog)
    asked = parser.parse_args(words)
    if (asked.name is None) != (asked.action == "list"):
        parser.error("add and remove take FILE and NAME, list takes FILE")
    if asked.action == "add" and not keys.named(asked.name):
        parser.error(f"NAME: {keys.NAMED}")
    try:
        ACTIONS[asked.action](asked)
    except (OSError, ValueError) as error:
        print(f"{prog}: error: {asked.file}: {keys.reason(error)}", file=sys.stderr)
        return 2
    return 0


def add(asked: argparse.Namespace) -> None:
    """Makes a key and prints it; the file gets its hash."""
    key = keys.make()

    def change(lines: list[str]) -> list[str]:
        if _of(asked.name, lines):
            raise ValueError("has a key of that name: choose another, and remove the old one when nobody uses it")
        return [*lines, keys.line(Key(asked.name, asked.priority == "high"), keys.digest(key.encode()))]

    _change(asked.file, change)
    print(key)
    print(f"{asked.name}: the key is shown this once; {asked.file} has its hash", file=sys.stderr)


def remove(asked: argparse.Namespace) -> None:
    """Takes a key out of the file."""

    def change(lines: list[str]) -> list[str]:
        if not (gone := _of(asked.name, lines)):
            raise ValueError("has no key of that name; lstm-serve keys list FILE names them")
        return [line for line in lines if line not in gone]

    _change(asked.file, change)


def show(asked: argparse.Namespace) -> None:
    """Prints names and priorities."""
    for key in keys.parse(keys.read(asked.file)).values():
        print(key.name, "high" if key.urgent else "normal", sep="\t")


ACTIONS: dict[str, Callable[[argparse.Namespace], None]] = {"add": add, "list": show, "remove": remove}


def _parser(prog: str) -> Parser:
    parser = Parser(
        prog,
        "Makes API keys: add prints a new one, once, and puts its hash into FILE, which is made where there is none. "
        "list prints names and priorities; remove ends a key. A service that uses the file reads it again by itself.",
    )
    parser.formatter_class = argparse.HelpFormatter
    parser.add_argument("action", metavar="ACTION", choices=ACTIONS, help="add, list or remove")
    parser.add_argument("file", metavar="FILE", type=Path, help="of LSTMSERVE_API_KEYS_FILE or ..._ADMIN_KEYS_FILE")
    parser.add_argument("name", metavar="NAME", nargs="?", help="of the key's holder: it is in the log, a key is not")
    parser.add_argument(
        "--priority", choices=keys.PRIORITIES, default="normal", help="of a key that is added; high: it may go ahead"
    )
    return parser


def _of(name: str, lines: list[str]) -> list[str]:
    return [line for line in lines if line.partition("#")[0].split()[:1] == [name]]


def _change(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Raises OSError, or ValueError where the file is not right, before or after the change: then it stays."""
    path = path.resolve()  # what a link leads to is replaced, not the link
    with _alone(path.parent):
        content = keys.read(path) if path.exists() else b""
        keys.parse(content)
        changed = "".join(f"{line}\n" for line in change(content.decode().splitlines())).encode()
        keys.parse(changed)
        _replace(path, changed)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two who change a file there at once follow each other, so that neither undoes the other's removal."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes) -> None:
    """Readable by its owner alone, or by whom it was before."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            if path.exists():
                before = path.stat()
                os.fchmod(file.fileno(), before.st_mode & 0o777)
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
