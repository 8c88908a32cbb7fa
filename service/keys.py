"""API keys: who may ask. A file holds their names and SHA-256 hashes, never a key, and may change while it is in use.

    # name  SHA-256 of the key  options
    nightly-batch  9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    web            60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752  priority=high

One SHA-256 is enough, since a key has 256 random bits; a slow hash guards passwords, which can be guessed.
"""

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from service.settings import SettingsError

log = logging.getLogger(__name__)

MAX_KEYS, MAX_BYTES = 1000, 1 << 20
"""Most keys of a file, each of which is compared with what is sent; most bytes that are read of one."""

LOOK_SECONDS = 1.0
"""A file is looked at for changes no more often; and it may lie empty for so long while it is written."""

PRIORITIES = ("normal", "high")
COMMAND = "lstm-serve keys add FILE NAME makes a key and its line"
NAMED = "a name is 1 to 64 letters, digits, _ . -, begins with a letter, digit or _, and is no key"

REMEDIES: dict[type[Exception], str] = {
    FileNotFoundError: "; lstm-serve keys add FILE NAME makes one",
    PermissionError: "; let the user that serves read it",
}

_Stamp = tuple[int, ...] | None


class Key(NamedTuple):
    """Of whoever asks. `urgent`: its requests go ahead, unless they ask not to; no other key's may."""

    name: str
    urgent: bool


def make() -> str:
    """A new key: 256 random bits behind a prefix by which scanners for leaked secrets know it."""
    return f"lsk_{secrets.token_urlsafe(32)}"


def digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def line(key: Key, sha256: str) -> str:
    """A key's line in a file."""
    return f"{key.name} {sha256}" + " priority=high" * key.urgent


def named(word: str) -> bool:
    """Whether a key may be called so."""
    return re.fullmatch(r"(?!lsk_)\w[\w.-]{0,63}", word, re.ASCII) is not None


def parse(content: bytes) -> dict[str, Key]:
    """Keys by their hash. Raises ValueError, which names the line and repeats nothing of it: it may hold a key."""
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError("is not text in UTF-8") from error
    found: dict[str, Key] = {}
    numbers: dict[str, int] = {}
    for number, text in enumerate(lines, 1):
        if not (words := text.partition("#")[0].split()):
            continue
        name, sha256, *options = (*words, "")[: max(2, len(words))]
        if not named(name):
            raise ValueError(f"line {number}: {NAMED}; {COMMAND}")
        if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
            raise ValueError(f"line {number}: the second word must be the key's SHA-256, 64 hex digits; {COMMAND}")
        if options not in ([], *([f"priority={priority}"] for priority in PRIORITIES)):
            raise ValueError(f"line {number}: after the hash nothing may stand but priority=high or priority=normal")
        sha256 = sha256.lower()
        for twice in (name, sha256):
            if before := numbers.get(twice):
                which = "name" if twice == name else "hash"
                raise ValueError(f"line {number}: has the {which} of line {before}; remove one of the two")
            numbers[twice] = number
        found[sha256] = Key(name, options == ["priority=high"])
        if len(found) > MAX_KEYS:
            raise ValueError(f"line {number}: at most {MAX_KEYS} keys are taken; remove those that nobody uses")
    return found


def read(path: Path) -> bytes:
    """A file of keys. Raises OSError, or ValueError where it is not of the kind or size that one has."""
    if not path.is_file():
        path.stat()
        raise ValueError("is not a regular file")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES} bytes")
    return content


class Keys:
    """The keys of a file, read again when it has changed; while it cannot be read, those before stay in force."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic, *, setting: str = "") -> None:
        """`setting` is what names the file. Raises SettingsError."""
        self._path, self._clock = path, clock
        self._told = {"file": str(path)}
        self._looked = clock()
        self._stamp = _stamp(path)
        """Of the file whose keys are in force."""
        self._reasons: set[str] = set()
        """Why the file could not be read since it last could."""
        try:
            self._keys = parse(read(path))
        except (OSError, ValueError) as error:
            named = f"{setting}={path}" if setting else f"keys file {path}"
            raise SettingsError(f"{named}: {reason(error)}{REMEDIES.get(type(error), '')}") from error
        if not self._keys:
            log.warning("keys file has no keys: it lets nobody in", extra=self._told)

    @property
    def broken(self) -> bool:
        """Whether the file, as it is now, cannot be read."""
        self._look()
        return bool(self._reasons)

    def find(self, sent: bytes) -> Key | None:
        """The key that was sent; in the same time whichever it is, and whether or not it is one."""
        self._look()
        sha256, found = digest(sent), None
        for known, key in self._keys.items():
            if hmac.compare_digest(known, sha256):
                found = key
        return found

    def _look(self) -> None:
        """Reads the file if it has changed or could not be read, though no more often than every `LOOK_SECONDS`."""
        now = self._clock()
        if now < self._looked + LOOK_SECONDS:
            return
        self._looked = now
        stamp = _stamp(self._path)
        if stamp == self._stamp and not self._reasons:
            return
        try:
            found = parse(read(self._path))
        except (OSError, ValueError) as error:
            if (why := reason(error)) not in self._reasons:
                log.error("keys file not read; the keys before stay in force", extra={**self._told, "reason": why})
            self._reasons.add(why)
            return
        self._reasons.clear()
        if self._keys and not found and _is_new(stamp):
            log.warning("keys file has lost its keys; those before stay in force for a moment", extra=self._told)
            return
        self._keys, self._stamp = found, stamp
        level = logging.INFO if found else logging.WARNING
        log.log(level, "keys file read again", extra={**self._told, "keys": len(found)})


def _stamp(path: Path) -> _Stamp:
    """What differs when the file does, or when another takes its place by a rename or by the swap of a link."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns, found.st_mtime_ns


def _is_new(stamp: _Stamp) -> bool:
    """Whether who writes the file may not be done: many empty it first. Older than that it stays as it is."""
    return stamp is None or 0 <= time.time_ns() - stamp[-1] < LOOK_SECONDS * 1e9


def reason(error: OSError | ValueError) -> str:
    """Why a file could not be read, without its name."""
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
