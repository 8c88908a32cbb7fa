"""``lstm-serve COMMAND ...``: the one installed command. What a command needs is imported when it is called."""

import argparse
import difflib
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

PROG = "lstm-serve"


class Parser(argparse.ArgumentParser):
    """One line on standard error and exit code 2 for a wrong command."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help lists the commands)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The command's exit code; 2 where there is no such command, 130 where it was interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = Parser(
        PROG,
        usage="%(prog)s [-h] [--version] COMMAND ...",
        description="Trains and serves recurrent sequence classifiers.",
        epilog="\n".join(
            [
                "commands:",
                *(f"  {name:9} {help_}" for name, (help_, _) in COMMANDS.items()),
                "",
                "COMMAND --help: its options",
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
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
    from models.train import main

    return main(words, prog)


def evaluate(words: Sequence[str], prog: str) -> int:
    from models.evaluate import main

    return main(words, prog)


def convert(words: Sequence[str], prog: str) -> int:
    from models.convert import main

    return main(words, prog)


def score(words: Sequence[str], prog: str) -> int:
    from service.score.command import main

    return main(words, prog)


COMMANDS: dict[str, tuple[str, Callable[[Sequence[str], str], int]]] = {
    "serve": ("answer requests over HTTP", serve),
    "train": ("train a classifier and write a model version", train),
    "evaluate": ("measure a model version on labelled data", evaluate),
    "convert": ("bring in weights trained elsewhere as a model version", convert),
    "score": ("add labels and scores to a file of texts", score),
}


if __name__ == "__main__":
    sys.exit(main())
