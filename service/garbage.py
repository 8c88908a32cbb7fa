"""Python's collector of cycles, kept out of the way of requests.

Requests leave hardly any cycles, but thousands of them at a time have hundreds of thousands of objects: a collection
that looks through them all would hold the event loop for a tenth of a second.
"""

import asyncio
import gc
from collections.abc import Callable

YOUNGEST = 20_000
"""Objects more than before that start a collection of these, which takes some ms; others are not started so."""

LOOK_SECONDS = 1.0
COLLECT_SECONDS, MOST_SECONDS = 60.0, 600.0
"""All that is not there for good is looked through after this time as soon as nothing is asked, or after the second."""


def settle() -> None:
    """What is there now is there for good, and never looked through again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNGEST, 1 << 30, 1 << 30)


async def collect(idle: Callable[[], bool]) -> None:
    """Collects cycles when it does not matter. Until it is cancelled."""
    loop = asyncio.get_running_loop()
    last = loop.time()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        since = loop.time() - last
        if since >= MOST_SECONDS or (since >= COLLECT_SECONDS and idle()):
            gc.collect()
            last = loop.time()
