"""What a signal does before there is anything to finish."""

import os
import signal


def hear_signals() -> None:
    """Ends the process on SIGTERM and SIGINT, until the event loop handles them.

    Without a handler process 1 of a container would not hear SIGTERM; and an exception could be lost in a callback of
    the interpreter's own.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
