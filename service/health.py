"""Whether requests should come here and whether the process can go on: told as it is, and acted upon."""

import asyncio
import logging

from service.batcher import Batcher
from service.engine import Engine
from service.errors import ServiceError
from service.repository import Repository
from service.verification import Verifier
from service.watchdog import LOOKS, Watchdog

log = logging.getLogger(__name__)

RECOVERY_SECONDS = 0.05
"""Between two looks for threads that have failed, and between two tries of the model."""


class Health:
    """Of one service; `stuck_seconds` is what an engine thread may take for a step or a batch.

    ``draining`` set to True makes it not ready; it goes on answering.
    """

    def __init__(
        self, engine: Engine, batcher: Batcher, repository: Repository, verifier: Verifier, stuck_seconds: float
    ) -> None:
        self._engine, self._batcher, self._repository, self._verifier = engine, batcher, repository, verifier
        self._stuck_seconds = stuck_seconds
        self._recovered = 0
        """Failures of engine threads after which the default model gave the right answers again."""
        self.draining = False

    @property
    def not_live(self) -> str:
        """Why the process cannot go on; empty while it can."""
        return "" if self._batcher.running else "the engine does not run: start the process again"

    @property
    def not_ready(self) -> str:
        """Why no requests should be sent here; empty while they should."""
        if self.draining:
            return "the service is draining: send requests elsewhere"
        if reason := self.not_live:
            return reason
        if self._repository.default not in self._repository:
            return f"the default model {self._repository.default!r} is not loaded: load it, or name another model"
        if self._engine.failures != self._recovered:
            return "an engine thread has failed and its successor is being tried: send requests elsewhere"
        return ""

    async def watch(self) -> None:
        """Until it is cancelled or the engine is broken: looks after the engine's threads.

        Without its eyes the service does not go on.
        """
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._watch_steps())
                both.create_task(self._watch_failures())
        except Exception as error:
            log.critical("the engine's threads cannot be watched", exc_info=error)
            self._batcher.break_off("its threads cannot be watched")

    async def _watch_steps(self) -> None:
        watchdog = Watchdog()
        while self._batcher.running:
            if watchdog.look(self._engine.pulses):
                self._batcher.break_off(
                    f"an engine thread has not come to the end of a step in {self._stuck_seconds:g} s "
                    "(LSTMSERVE_STUCK_SECONDS)"
                )
            await asyncio.sleep(self._stuck_seconds / LOOKS)

    async def _watch_failures(self) -> None:
        """After each the default model must give its golden cases' logits before the service is ready again."""
        told = 0
        while self._batcher.running:
            if (failures := self._engine.failures) != self._recovered:
                if failures != told:
                    log.critical("an engine thread has failed and was replaced", extra={"failures": failures})
                    told = failures
                await self._recover(failures)
            await asyncio.sleep(RECOVERY_SECONDS)

    async def _recover(self, failures: int) -> None:
        if self._repository.default not in self._repository:
            return
        try:
            wrong = await self._verifier.wrong(self._repository.get())
        except (ServiceError, RuntimeError) as error:  # failed again, or the engine is stuck: others notice
            log.debug("the default model cannot be tried yet", extra={"reason": str(error)})
            return
        if wrong:
            self._batcher.break_off(f"after an engine thread failed {wrong}")
            return
        self._recovered = failures
        log.warning("the engine's answers are right again", extra={"failures": failures})
