"""Finds engine threads that are stuck. Pure: whoever looks says what he saw."""

from collections.abc import Sequence

from service.engine import Pulse

LOOKS = 8
"""How often a thread is looked at within the bound on its steps."""


class Watchdog:
    """Finds threads that are stuck, by their pulses.

    It counts looks and not seconds: a process that was stopped and goes on has not been looked at meanwhile.
    """

    def __init__(self) -> None:
        self._before: Sequence[Pulse] = ()
        self._silent: list[int] = []

    def look(self, pulses: Sequence[Pulse]) -> bool:
        """Whether a thread was busy with the same beat at the last `LOOKS` looks and the one before them."""
        if len(pulses) != len(self._before):
            self._silent = [0] * len(pulses)
        else:
            pairs = zip(pulses, self._before, self._silent, strict=True)
            self._silent = [silent + 1 if now.busy and now == before else 0 for now, before, silent in pairs]
        self._before = pulses
        return any(silent >= LOOKS for silent in self._silent)
