"""Watches the store: what appears there is loaded."""

import asyncio
import logging

from watchfiles import awatch

from models.artifact import ArtifactError
from service.loader import Loader

log = logging.getLogger(__name__)

LOOK_MS = 1000
"""Between two looks where the file system tells nothing: over a network, or when the folder itself was swapped."""


async def watch(loader: Loader) -> None:
    """Until it is cancelled; whatever happens to the store, it goes on looking."""
    told = ""
    while True:
        try:
            await loader.refresh()  # what came before there was a watch
            told = ""
            async for _ in awatch(
                loader.store.folder,
                watch_filter=None,
                rust_timeout=LOOK_MS,
                yield_on_timeout=True,
                stop_event=asyncio.Event(),  # without one the library takes a signal for itself
                ignore_permission_denied=True,
            ):
                await loader.refresh()
        except (ArtifactError, OSError) as error:
            if told != str(error):  # once, not every second
                told = str(error)
                log.error("the store cannot be watched", extra={"reason": told})
        except Exception:
            log.exception("the store cannot be watched")
        await asyncio.sleep(LOOK_MS / 1000)
