"""What all commands have in common. Imports nothing that is slow."""

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """One line on standard error and exit code 2 for a wrong command; no abbreviated options."""

    def __init__(self, prog: str, description: str, *, lists: str = "options") -> None:
        """`lists`: what the help has, as an error says."""
        super().__init__(
            prog, description=description, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        self._lists = lists

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help lists the {self._lists})\n")
