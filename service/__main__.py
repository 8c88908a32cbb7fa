"""``python -m service``."""

import sys

from service.signals import hear_signals

if __name__ == "__main__":
    hear_signals()  # before what follows is imported, which takes a while
    from service.serve import main

    sys.exit(main())
