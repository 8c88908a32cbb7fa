"""How a command ends."""

import sys
from collections.abc import Callable


def run_main(
    prog: str, main: Callable[[], None], errors: tuple[type[Exception], ...], outcome: Callable[[], str] = str
) -> int:
    """Exit code of a command: 0, 2 where it raised one of `errors`, 130 where it was interrupted.

    The latter two are shown as one line on standard error; `outcome` says in what state an interrupt left things.
    """
    try:
        main()
    except errors as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("; ".join(filter(None, (f"{prog}: interrupted", outcome()))), file=sys.stderr)
        return 130
    return 0
