"""Optional dependencies: a missing one is named with the command that installs it."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Guards a command's slow imports, of what `extra` installs: one line on standard error and exit code 2.

    An interrupt, likely while torch is loaded, is exit code 130.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed: pip install 'lstm-serve[{extra}]'", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
