"""Watches the store: what appears there is loaded."""

import asyncio
import logging

from watchfiles import awatch

from service.loader import Loader

log = logging.getLogger(__name__)

QUIET_MS = 500
"""A copy is a burst of changes: they are looked at when there have been none for so long."""


async def watch(loader: Loader) -> None:
    """Until it is cancelled. Polls where the file system tells nothing (WATCHFILES_FORCE_POLLING)."""
    stop = asyncio.Event()  # never set: the library would otherwise take a signal for itself
    async for _ in awatch(loader.store.folder, step=QUIET_MS, stop_event=stop, ignore_permission_denied=True):
        try:
            await loader.refresh()
        except Exception:  # the store may be gone for a moment; the next change is another try
            log.exception("the store could not be read")
