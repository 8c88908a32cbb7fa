"""Values of command-line options: each function reads one from its word, or raises ArgumentTypeError."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from models.artifact import NAME, VERSION


def number(
    kind: type[int] | type[float], least: float, *, above: bool = False, below: float = math.inf
) -> Callable[[str], float]:
    """Reads a number from `least` (with `above`: beyond it) up to, not including, `below`."""

    def read(text: str) -> float:
        value = kind(text)
        if not (least < value if above else least <= value) or not value < below:
            bounds = f"{'above' if above else 'at least'} {least}" + (f" and below {below}" if below < math.inf else "")
            raise argparse.ArgumentTypeError(f"{text} is not {bounds}")
        return value

    read.__name__ = "integer" if kind is int else "number"
    return read


def version_folder(text: str) -> Path:
    """An absolute path, so that the model's name is in it."""
    path = Path(text).absolute()  # resolve() would follow links, whose own names are those of the store
    if not path.name:
        raise argparse.ArgumentTypeError(f"{text!r} names no version: give one such as models/store/NAME/VERSION")
    return path


def written(out: Path) -> str:
    """What is said of a version when it is there, and whether a store can serve it from there."""
    if NAME.fullmatch(out.parent.name) and VERSION.fullmatch(out.name):
        return f"wrote {out}"
    return f"wrote {out}, from where it is not served: a store has versions under NAME/1, NAME/2, ..."


def store_folder(out: Path) -> str:
    """A version folder as cards name it: from where the command runs, or without the paths of this machine."""
    if out.absolute().is_relative_to(Path.cwd()):
        return out.absolute().relative_to(Path.cwd()).as_posix()
    return f"models/store/{out.parent.name}/{out.name}"


def split_size(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf or (value > 1 and value % 1):
        raise argparse.ArgumentTypeError(f"{text} is neither a number of rows nor a fraction between 0 and 1")
    return value if value < 1 else int(value)


def names(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(","))
    if "" in parts or len(set(parts)) != len(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of distinct names: separate them by single commas")
    return parts


def label_map(text: str) -> dict[str, str]:
    renamed: dict[str, str] = {}
    for part in text.split(","):
        old, _, new = (side.strip() for side in part.partition("="))
        if not old or not new or old in renamed:
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form OLD=NEW,OLD=NEW with each OLD once")
        renamed[old] = new
    return renamed
