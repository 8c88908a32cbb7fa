"""``lstm-serve COMMAND ...``: the one installed command. What a command needs is imported when it is called.

Help and wrong options of a command are told first, so that they need none of its extras.
"""

import argparse
import difflib
import importlib.metadata
import sys
from collections.abc import Callable, Sequence

from models.parser import Parser

PROG = "lstm-serve"


def main(argv: Sequence[str] | None = None) -> int:
    """The command's exit code; 2 where there is no such command, 130 where it was interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    parser = Parser(PROG, "Trains and serves recurrent sequence classifiers.", lists="commands")
    parser.usage = "%(prog)s [-h] [--version] COMMAND ..."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = (f"  {name:9} {help_}\n" for name, (help_, _) in COMMANDS.items())
    parser.epilog = f"commands:\n{''.join(commands)}\nCOMMAND --help: its options"
    if not words or words[0].startswith("-"):
        parser.add_argument("--version", action="version", version=f"{PROG} {importlib.metadata.version(PROG)}")
        parser.parse_args(words)
        parser.error("which command?")
    command, *rest = words
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        parser.error(f"there is no command {command!r}" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        return COMMANDS[command][1](rest, f"{PROG} {command}")
    except KeyboardInterrupt:  # while it is imported
        print("interrupted", file=sys.stderr)
        return 130


def serve(words: Sequence[str], prog: str) -> int:
    from service.signals import hear_signals

    hear_signals()  # before what follows is imported, which takes a while
    from service.serve import main

    return main(words, prog)


def train(words: Sequence[str], prog: str) -> int:
    from models.options import training_settings

    training_settings(words, prog)
    from models.train import main

    return main(words, prog)


def evaluate(words: Sequence[str], prog: str) -> int:
    from models.arguments import evaluation

    evaluation(words, prog)
    from models.evaluate import main

    return main(words, prog)


def convert(words: Sequence[str], prog: str) -> int:
    from models.arguments import conversion

    conversion(words, prog)
    from models.convert import main

    return main(words, prog)


def score(words: Sequence[str], prog: str) -> int:
    from service.score.options import parse

    parse(words, prog)
    from service.score.command import main

    return main(words, prog)


def keys(words: Sequence[str], prog: str) -> int:
    from service.keyring import main

    return main(words, prog)


COMMANDS: dict[str, tuple[str, Callable[[Sequence[str], str], int]]] = {
    "serve": ("answer requests over HTTP", serve),
    "train": ("train a classifier and write a model version", train),
    "evaluate": ("measure a model version on labelled data", evaluate),
    "convert": ("bring in weights trained elsewhere as a model version", convert),
    "score": ("add labels and scores to a file of texts", score),
    "keys": ("make API keys, list and remove them", keys),
}


if __name__ == "__main__":
    sys.exit(main())
